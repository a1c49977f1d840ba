"""Ways to keep vLLM's queue full from Ray, on a tiny Qwen2.5-VL and a CPU: `python tests/bench/captioning_cpu.py`.

The same questions (two images, an answer under a schema, short and long ones mixed) go through a stage of ours with one
batch and with eight in flight, through `ray.data.llm`, and into a bare engine all at once, which is the bound. Each way
runs in a process of its own. Rows a second are counted from the end of the first batch to that of the last row: neither
loading nor the first batch counts.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import ray
from ray import cloudpickle

from dataengine.config import QwenSettings, Resources, VllmSettings
from dataengine.engine.measurements import Measurements, ledgers
from dataengine.engine.pipeline import Pipeline, Step
from dataengine.engine.run import measure
from dataengine.engine.tally import Tally
from dataengine.models.interfaces import Question
from dataengine.models.qwen_messages import turn
from dataengine.models.qwen_vllm import VllmQwen, prompt_of
from dataengine.records import Clip, Record, Rejected, SourceVideo
from dataengine.stage import Row, Stage
from dataengine.store import Store
from engine.table import Line, show

WAYS = ("stage, 1 batch in flight", "stage, 8 batches in flight", "ray.data.llm", "bare engine")
ROWS, BATCH = 160, 8
SEQUENCES = 16
"""Answers that the engine makes at once: two batches."""
LONGEST_ANSWER = 960
"""Characters; the shortest of the questions' eight kinds wants an eighth of it."""


class Answered(Record):
    at: float


class Length(Record):
    seconds: float


def question(number: int) -> Question:
    random = np.random.default_rng(number)
    images = [random.integers(0, 256, (90, 160, 3), dtype=np.uint8) for _ in range(2)]
    least = LONGEST_ANSWER * (1 + number % 8) // 8
    caption = {"type": "string", "minLength": least, "maxLength": least}
    schema = {"type": "object", "properties": {"caption": caption}, "required": ["caption"]}
    return Question((*images, f"Describe clip {number}."), schema, number)


def settings(folder: Path) -> QwenSettings:
    own = VllmSettings(max_model_len=2048, max_num_seqs=SEQUENCES, eager=True)
    return QwenSettings(weights=str(folder), max_tokens=1536, vllm=own)


# --- The ways: each returns the times at which its rows were done -----------------------------------------------------


async def answer_all(model: VllmQwen, numbers: Sequence[int]) -> list[float]:
    async def one(number: int) -> float:
        assert (await model.answer(question(number))).complete
        return time.time()

    return await asyncio.gather(*map(one, numbers))


def bare_engine(folder: Path) -> list[float]:
    model = VllmQwen(settings(folder))
    model.load()
    return asyncio.run(answer_all(model, range(ROWS)))


class MeasureLength(Stage[Length]):
    name, version, reads, writes = "length", 1, (), Length

    def parameters(self) -> Mapping[str, Any]:
        return {}

    def process(self, rows: Sequence[Row]) -> list[Length]:
        return [Length(seconds=float(ROWS)) for _ in rows]


class Ask(Stage[Answered]):
    """Asks as the captioning stage does: all questions of a batch at once, on one event loop."""

    name, version, reads, writes = "ask", 1, (), Answered

    def __init__(self, folder: Path) -> None:
        self.qwen = VllmQwen(settings(folder))

    def parameters(self) -> Mapping[str, Any]:
        return {}

    def setup(self) -> None:
        self.qwen.load()
        self.loop = asyncio.new_event_loop()
        Thread(target=self.loop.run_forever, daemon=True).start()

    def process(self, rows: Sequence[Row]) -> list[Answered]:
        numbers = [int(row.clip.start_s) for row in rows if row.clip]
        done = asyncio.run_coroutine_threadsafe(answer_all(self.qwen, numbers), self.loop).result()
        return [Answered(at=at) for at in done]


def stage(in_flight: int) -> Callable[[Path], list[float]]:
    def run(folder: Path) -> list[float]:
        pipeline = Pipeline(
            source_steps=(Step(MeasureLength(), Resources(cpus=0.1)),),
            cut=lambda row: [Clip.of(row.id, float(n), n + 1.0) for n in range(ROWS)],
            clip_steps=(Step(Ask(folder), Resources(cpus=0.1, batch=BATCH, in_flight=in_flight)),),
            finish=lambda row: Rejected(clip=row.clip, rule="bench", detail=""),
            verdict=Rejected,
        )
        source = SourceVideo(source_id="0" * 24, uri="/x.mp4", names=("x.mp4",), size_bytes=1)
        with tempfile.TemporaryDirectory() as output:
            stored = Measurements(Store.at(output))
            measure(pipeline, [source], stored, ledgers(stored, pipeline.fingerprints), Tally(), run=output)
            ids = [Clip.of(source.source_id, float(n), n + 1.0).clip_id for n in range(ROWS)]
            found = stored.records(ledgers(stored, pipeline.fingerprints)["ask"], ids)
            return [found[i].result(Answered).at for i in ids]  # type: ignore[union-attr]

    return run


def ray_data_llm(folder: Path) -> list[float]:
    from ray.data.llm import build_processor, vLLMEngineProcessorConfig
    from transformers import AutoProcessor

    own = settings(folder)
    template = AutoProcessor.from_pretrained(folder)

    def asked(row: dict[str, Any]) -> dict[str, Any]:
        this = question(row["id"])
        prompt = prompt_of(template, turn(this, own.max_pixels))
        return {
            "prompt": prompt["prompt"],
            "multimodal_data": prompt["multi_modal_data"],
            "sampling_params": {
                "temperature": own.temperature,
                "seed": this.seed,
                "max_tokens": own.max_tokens,
                "structured_outputs": {"json": json.dumps(this.schema)},
            },
        }

    config = vLLMEngineProcessorConfig(
        model_source=str(folder),
        engine_kwargs={
            "dtype": "float32",
            "max_model_len": own.vllm.max_model_len,
            "max_num_seqs": SEQUENCES,
            "enforce_eager": True,
            "limit_mm_per_prompt": {"image": 64, "video": 0},
            "mm_processor_kwargs": {"max_pixels": own.max_pixels},
            "structured_outputs_config": {"backend": "xgrammar", "disable_any_whitespace": True},
            "enable_prefix_caching": True,
        },
        batch_size=BATCH,
        concurrency=1,
        chat_template_stage=False,
        tokenize_stage=False,
        detokenize_stage=False,
        log_engine_metrics=False,
        placement_group_config={"bundles": [{"CPU": 1}]},
        runtime_env={"env_vars": {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"}},
    )
    processor = build_processor(config, preprocess=asked, postprocess=lambda row: {"at": time.time()})
    blocks = ray.data.range(ROWS, override_num_blocks=ROWS // BATCH)  # as the rows of our stage come
    return [row["at"] for row in processor(blocks).iter_rows()]


RUN = dict(zip(WAYS, (stage(1), stage(8), ray_data_llm, bare_engine), strict=True))


# --- All of them ------------------------------------------------------------------------------------------------------


def rate(times: Sequence[float]) -> float:
    """Rows a second after the first batch."""
    ordered = sorted(times)
    return (len(ordered) - BATCH) / (ordered[-1] - ordered[BATCH - 1])


def measured(way: str, folder: Path) -> float:
    command = [sys.executable, __file__, "--way", way, "--folder", str(folder)]
    here = [str(Path(__file__).parents[n]) for n in (2, 1, 0)]  # ours, the tests' and the bench's modules
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(here), "RAY_USAGE_STATS_ENABLED": "0"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return rate(json.loads(done.stdout.splitlines()[-1]))


def main(rounds: int) -> None:
    from tiny import qwen

    with tempfile.TemporaryDirectory(prefix="bench-captioning-") as scratch:
        folder = qwen.build(Path(scratch) / "qwen")
        # The ways take turns, so that a busy machine slows all alike; each one's best round counts.
        best = dict.fromkeys(WAYS, 0.0)
        for _ in range(rounds):
            best = {way: max(found, measured(way, folder)) for way, found in best.items()}
    bound = best["bare engine"]
    lines = [Line(w, f"{r:.1f} rows/s", f"{bound:.1f}", f"{r / bound:.2f}") for w, r in best.items()]
    show(f"{ROWS} questions in batches of {BATCH}, {SEQUENCES} answers at once", lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--way", choices=WAYS, help="this one alone; prints when each row was done")
    parser.add_argument("--folder", type=Path, help="the checkpoint, for --way")
    arguments = parser.parse_args()
    if arguments.way is None:
        sys.path += [str(Path(__file__).parents[1])]
        main(arguments.rounds)
    else:
        if arguments.way != "bare engine":
            cloudpickle.register_pickle_by_value(sys.modules["__main__"])
            ray.init(num_cpus=8, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
        print(json.dumps(RUN[arguments.way](arguments.folder)), flush=True)
