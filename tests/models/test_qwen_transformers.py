"""Qwen2.5-VL in transformers, on a tiny checkpoint: constrained, seeded, and honest about where it was cut off."""

from __future__ import annotations

import asyncio
import json
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from jsonschema import validate

from dataengine.config import QwenSettings
from dataengine.models.interfaces import Answer, Question
from dataengine.models.qwen_transformers import TransformersQwen
from dataengine.weights import MissingWeightsError
from tiny import qwen

CAPTION = {
    "type": "object",
    "properties": {
        "caption": {"type": "string", "maxLength": 40},
        "people": {"type": "array", "maxItems": 3, "items": {"type": "string", "maxLength": 8}},
    },
    "required": ["caption", "people"],
    "additionalProperties": False,
}
PICTURE = np.random.default_rng(0).integers(0, 256, (90, 160, 3), dtype=np.uint8)

Ask = Callable[[Sequence[Question]], list[Answer]]


def question(seed: int = 0, text: str = "Describe this.") -> Question:
    return Question((PICTURE, text), CAPTION, seed)


def ask(settings: QwenSettings, questions: Sequence[Question]) -> list[Answer]:
    model = pickle.loads(pickle.dumps(TransformersQwen(settings)))  # as it is sent to a worker
    model.load()

    async def all_at_once() -> list[Answer]:
        return await asyncio.gather(*map(model.answer, questions))

    return asyncio.run(all_at_once())


def test_answers_obey_the_schema_and_the_seed(tiny_qwen: Path) -> None:
    answers = ask(QwenSettings(weights=str(tiny_qwen), max_tokens=120), [question(s) for s in (1, 2, 3, 1)])
    assert answers[0] == answers[3]
    assert len({a.text for a in answers}) > 1
    for answer in answers:
        assert answer.complete
        validate(json.loads(answer.text, strict=False), CAPTION)
        assert '": ' not in answer.text


def test_without_temperature_no_seed_matters(tiny_qwen: Path) -> None:
    one, other = ask(QwenSettings(weights=str(tiny_qwen), temperature=0), [question(1), question(2)])
    assert one == other


def test_an_answer_that_is_cut_off_says_so(tiny_qwen: Path) -> None:
    # "a" is written in at least 600 characters, more than 16 tokens have.
    schema = {"type": "string", "minLength": 600, "maxLength": 700}
    (answer,) = ask(QwenSettings(weights=str(tiny_qwen), max_tokens=16), [Question((PICTURE, "Go on."), schema, 0)])
    assert not answer.complete


def test_a_taught_model_says_what_it_was_taught(tmp_path: Path) -> None:
    said = {
        "Describe this": '{"caption":"A woman in a red dress.","people":["woman"]}',
        "描述": '{"caption":"一位穿红裙的女人。","people":[]}',
    }
    folder = qwen.taught(tmp_path / "taught", said)
    questions = [
        Question(
            (PICTURE,) * 3 + (f"Please look well. {key} in one sentence.", PICTURE, "Thank you. " * 40), CAPTION, 1
        )
        for key in said
    ]
    answers = ask(QwenSettings(weights=str(folder)), questions)
    assert answers == [Answer(text, complete=True) for text in said.values()]


def test_weights_that_are_not_here_are_named_with_the_command_that_fetches_them(tmp_path: Path) -> None:
    model = TransformersQwen(QwenSettings(weights="Qwen/Not-Here", revision="abc"))
    with pytest.raises(MissingWeightsError, match=r"hf download Qwen/Not-Here --revision abc"):
        model.load()
    with pytest.raises(MissingWeightsError, match="Not-Here"):
        _ = model.revision
