"""The whole gpu profile on the CPU: vLLM, Grounding DINO, SAM and LaMa by tiny checkpoints of the same architectures.

Random weights see nothing, so what is grounded and cut is nonsense, and the caption is usable because the model was
taught to say it. That every part is found, loaded, fed, asked and stored for real is what is tested.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from dataengine.records import RunSummary
from dataengine.shards.reader import PairDataset
from dataengine.store import Store
from tiny import grounding_dino, lama, qwen, sam

TEXT = "A man in a black suit stands in front of a flag in an office."
ENTITIES = {
    "people": [{"noun": "man", "attributes": ["black suit"]}],
    "objects": ["flag"],
    "background": "office",
}
CHOICES = [{"phrase": "man", "person": 1}, {"phrase": "black suit", "person": 1}]
LESSONS = {
    "Describe the clip in": {"caption": TEXT},
    "List what this description names": ENTITIES,
    "say which box it belongs to": {"choices": CHOICES},
}
"""Words of the prompts in conf/prompts, and what the tiny model answers when it reads them."""


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """Overrides that put tiny checkpoints on the CPU under the profile's stages, and nothing else."""
    folder = tmp_path_factory.mktemp("checkpoints")
    answers = {words: json.dumps(answer, separators=(",", ":")) for words, answer in LESSONS.items()}
    places = {
        "caption.qwen": qwen.taught(folder / "qwen", answers),
        "ground.grounding_dino": grounding_dino.build(folder / "grounding_dino"),
        "faces.grounding_dino": folder / "grounding_dino",
        "segment.sam": sam.build(folder / "sam"),
        "background.lama": lama.build(folder / "lama.onnx"),
    }
    models = [f"stages.{network}.{what}" for network, place in places.items()
              for what in (f"weights={place}", "revision=main", "device=cpu")]  # fmt: skip
    stages = ("probe", "shots", "frames", "quality", "faces", "caption", "ground", "segment", "background", "encode")
    limits = ("gpus=0", "cpus=0.5", "workers=1", "max_workers=null")
    here = [f"stages.{stage}.resources.{limit}" for stage in stages for limit in limits]
    vllm = ("vllm.max_model_len=8192", "vllm.eager=true", "max_pixels=20000", "frames=2")
    return (
        *models,
        *here,
        *(f"stages.caption.qwen.{what}" for what in vllm),
        "stages.faces.detector=centerface",  # which sees the sample's faces
        "stages.background.inpainter=lama",
    )


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory, bad_video_folder, build_profile, checkpoints) -> Path:
    videos = tmp_path_factory.mktemp("videos")
    shutil.copyfile(bad_video_folder.folder / "phone held upright.mov", videos / "a.mov")
    out = tmp_path_factory.mktemp("gpu") / "out"
    build_profile("gpu", videos, out, *checkpoints, "stages.shots.detector=adaptive")
    return out


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_stage_measures_the_clip_and_nothing_fails(out: Path) -> None:
    summary = RunSummary.from_json((out / "measurements" / "run.json").read_bytes())
    assert pq.read_table(out / "quarantine.parquet").to_pylist() == []
    assert (summary.clips, summary.pairs, summary.subjects) == (1, 1, 1)
    assert {stage.stage: stage.model for stage in summary.stages} == {
        "probe": "rules",
        "shots": "pyscenedetect-adaptive",
        "frames": "rules",
        "quality": "rules",
        "faces": "centerface + grounding-dino",
        "caption": "qwen2.5-vl",
        "ground": "grounding-dino",
        "segment": "sam",
        "background": "lama",
        "encode": "x264",
    }
    assert all(stage.done == 1 for stage in summary.stages)


@pytest.mark.slow
def test_the_three_answers_are_kept_raw_and_tie_the_words_to_the_face(out: Path) -> None:
    store = Store.at(str(out))
    (sample,) = PairDataset(store)
    assert sample.pair.caption == TEXT
    (subject,) = sample.pair.subjects
    assert (subject.noun.text, tuple(subject.noun.span), subject.owner_share) == ("man", (2, 5), 1.0)
    prompts = {stage.stage: stage.prompt for stage in sample.pair.provenance.stages}
    assert prompts["caption"] and not prompts["ground"]
