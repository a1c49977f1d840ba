"""The tiny Qwen2.5-VL: what it is taught, that transformers computes the same, and how good the committed one is."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL.Image import fromarray

from dataengine.models.prompts import Prompts
from dataengine.world.training import qwen
from dataengine.world.training.log import read_log
from dataengine.world.training.qwen_held_out import case, held_out
from dataengine.world.training.qwen_lessons import SENSES, UNASKED, Lesson, Material, Teacher, material
from dataengine.world.training.qwen_network import pictures, read, see
from dataengine.world.training.qwen_words import Model, Processor, build
from dataengine.world.wording import attributes

SEED = 77


@pytest.fixture(scope="module")
def built() -> tuple[Processor, Model]:
    return build(0)


@pytest.fixture(scope="module")
def shots() -> list[Material]:
    return [material(SEED, index) for index in range(12)]


@pytest.fixture(scope="module")
def teacher(built: tuple[Processor, Model]) -> Teacher:
    return Teacher(built[0])


def said(teacher: Teacher, lesson: Lesson, branch: int) -> str:
    """What is to be learned of a branch."""
    return str(teacher.processor.tokenizer.decode(lesson.ids[(lesson.weight > 0) & (lesson.branch == branch)]))


def test_a_prompt_is_a_few_tokens_and_reads_back(built: tuple[Processor, Model]) -> None:
    tokenizer, prompts = built[0].tokenizer, Prompts.read()
    told = "A [1: man] in a [2: red t-shirt] stands there in a park. Größe 東"
    question = prompts.ask("ownership", caption=told, phrases="1. man\n2. red t-shirt")
    assert tokenizer.decode(tokenizer.encode(question)) == question
    assert len(tokenizer.encode(prompts.ask("caption", frames=1, language="English"))) == 5


def test_lessons_are_computed_as_transformers_does(
    built: tuple[Processor, Model], teacher: Teacher, shots: list[Material]
) -> None:
    """All three stills and crops of odd sizes, positions included."""
    processor, model = built
    lesson = teacher.owning(shots[1], (0, 1, 2), 1, np.random.default_rng(0))
    ids = torch.from_numpy(lesson.ids)[None]
    shown = processor.image_processor(images=[fromarray(s.image) for s in lesson.images], return_tensors="pt")
    images = ids == model.config.image_token_id
    with torch.no_grad():
        wanted = model(
            input_ids=ids, pixel_values=shown.pixel_values, image_grid_thw=shown.image_grid_thw,
            mm_token_type_ids=images.int(),
        ).logits  # fmt: skip
        batch = qwen.Batch.of([lesson])
        embedded = model.model.language_model.embed_tokens(ids)
        seen, _ = see(model, pictures([s.image for s in lesson.images]))
        found = model.lm_head(
            read(model, embedded.masked_scatter(images[..., None], seen), batch.positions, batch.hide)
        )
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


def test_a_branch_sees_what_is_shared_and_itself(
    built: tuple[Processor, Model], teacher: Teacher, shots: list[Material]
) -> None:
    """The first answer is as likely with the second beside it as alone."""
    model = built[1]
    both = teacher.telling(shots[0], shots[1], np.random.default_rng(0))
    alone = teacher.telling(shots[0], None, np.random.default_rng(0))
    hidden = []
    for lesson in (both, alone):
        batch = qwen.Batch.of([lesson])
        with torch.no_grad():
            embedded = model.model.language_model.embed_tokens(batch.ids)
            hidden.append(read(model, embedded, batch.positions, batch.hide)[0, torch.from_numpy(lesson.branch) == 1])
    torch.testing.assert_close(*hidden, atol=1e-5, rtol=1e-5)


def test_captions_that_are_taught_are_true_and_entities_are_copied(teacher: Teacher, shots: list[Material]) -> None:
    for shot, strange in pairwise(shots):
        lesson = teacher.telling(shot, strange, np.random.default_rng(1))
        caption = json.loads(said(teacher, lesson, 1).removesuffix("<|im_end|>"))["caption"]
        assert all(actor.person.top.phrase in caption for actor in shot.shot.actors)
        named = json.loads(said(teacher, lesson, 2).removesuffix("<|im_end|>"))
        asked = str(teacher.processor.tokenizer.decode(lesson.ids[(lesson.branch == 2) & (lesson.weight == 0)]))
        assert len(named["people"]) == len(strange.shot.actors)
        for person in named["people"]:
            assert all(words in asked for words in (person["noun"], *person["attributes"]))


def test_reading_is_copying_without_pictures(teacher: Teacher) -> None:
    for seed in range(20):
        lesson = teacher.reading(np.random.default_rng(seed))
        assert lesson.images == ()
        asked = str(teacher.processor.tokenizer.decode(lesson.ids[lesson.weight == 0]))
        named = json.loads(
            str(teacher.processor.tokenizer.decode(lesson.ids[lesson.weight > 0])).removesuffix("<|im_end|>")
        )
        assert all(words in asked for person in named["people"] for words in (person["noun"], *person["attributes"]))


def test_words_begin_alike_behind_a_space_and_at_the_start(built: tuple[Processor, Model]) -> None:
    model, known = built[1], built[0].tokenizer.get_vocab()
    read = model.get_input_embeddings().weight
    alike = torch.nn.functional.cosine_similarity(read[known["\u0120red"]], read[known["red"]], dim=0)
    assert alike > 0.8
    assert torch.equal(read, model.lm_head.weight)


@pytest.mark.parametrize("stills", [(), (1,), (0, 1, 2)], ids=str)
def test_owners_that_are_taught_are_true(teacher: Teacher, shots: list[Material], stills: tuple[int, ...]) -> None:
    """By the crops: whoever a phrase is given to wears it."""
    nobody = 0
    for turn, shot in enumerate(shots):
        if not shot.crops:
            continue
        lesson = teacher.owning(shot, stills, 1, np.random.default_rng(turn))
        assert len(lesson.images) == len(stills) + len(shot.crops)
        crops = [image.key for image in shot.crops]
        position = {number: position for position, number in shot.numbers.items()}
        for choice in json.loads(said(teacher, lesson, 1).removesuffix("<|im_end|>"))["choices"]:
            if not choice["person"]:
                nobody += 1
                continue
            shown = lesson.images[len(stills) + choice["person"] - 1]
            person = shot.shot.actors[position[crops.index(shown.key) + 1]].person
            assert choice["phrase"] in attributes(person) or choice["phrase"].startswith(person.identity.noun)
    assert nobody, "some captions name what nobody wears"


def test_tokens_are_asked_for_what_covers_them(shots: list[Material]) -> None:
    noun, number = list(SENSES).index("noun"), list(SENSES).index("number")
    for shot in shots:
        for image in (shot.frame, shot.still, *shot.crops):
            assert len(image.senses) == image.image.shape[0] * image.image.shape[1] // 784
            assert len(image.parts) == len(image.tints) == 4 * len(image.senses)
        assert set(shot.still.senses[:, number]) - {UNASKED, 0} <= set(shot.numbers.values())
        nouns = {("man", "woman").index(actor.person.identity.noun) for actor in shot.shot.actors}
        assert set(shot.frame.senses[:, noun]) - {UNASKED} <= nouns


@pytest.mark.slow
def test_a_few_steps_write_a_checkpoint_that_the_adapter_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "POOL": 8,
        "LOOKS": 4,
        "TALKS": 4,
        "CHECKED": 2,
        "READS": 4,
        "SEEING": 0.3,
        "READING": 0.5,
        "SPEAKING": 0.8,
    }.items():
        monkeypatch.setattr(qwen, name, value)
    lines: list[str] = []
    log = qwen.train(tmp_path, steps=10, say=lines.append, scenes=0)
    assert lines and read_log(tmp_path) == log
    assert not (tmp_path / "state.pt").exists()
    assert log.bytes < 16e6
    figures = held_out(tmp_path, 1, "transformers")
    assert figures[0].name == "usable captions"


def test_looking_helps(shots: list[Material], built: tuple[Processor, Model]) -> None:
    """The loss falls on what is seen again and again."""
    pupil = qwen.Pupil.of(build(1)[1])
    optimiser, sight = qwen.Optimiser(pupil), qwen.Sight(pupil.model)
    losses = []
    for _ in range(12):
        view = sight.awake([image for shot in shots[:3] for image in shot.crops])
        loss = sum(qwen.sensed_losses(pupil, view, 1.0).values())
        optimiser.step(torch.as_tensor(loss), {"tower": 1.0, "words": 0.0})
        losses.append(float(loss))
    assert losses[-1] < 0.8 * losses[0]


def test_cases_know_who_is_who() -> None:
    one = case(0)
    assert len(one.scene.images) == 3 and len(one.scene.frames) == 1 and one.scene.given is None
    assert sorted(one.position) == [person.index for person in one.scene.people.people]
    assert case(0, given=True).scene.given == one.shot.caption.text
