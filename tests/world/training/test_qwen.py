"""The tiny Qwen2.5-VL: what it is taught, that transformers computes the same, and how good the committed one is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL.Image import fromarray

from dataengine.models.prompts import Prompts
from dataengine.world.training import qwen
from dataengine.world.training.log import read_log
from dataengine.world.training.qwen_held_out import case, held_out
from dataengine.world.training.qwen_lessons import (
    SENSES,
    UNASKED,
    Lesson,
    Material,
    Portions,
    Teacher,
    made_up,
    material,
)
from dataengine.world.training.qwen_network import read
from dataengine.world.training.qwen_sight import Sight
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
    images = {image.key: image for image in (shots[1].still, *shots[1].crops)}
    shown = processor.image_processor(
        images=[fromarray(images[key].image) for key in lesson.images], return_tensors="pt"
    )
    pictured = ids == model.config.image_token_id
    sight = Sight(model)
    sight.add(images.values())
    with torch.no_grad():
        wanted = model(
            input_ids=ids, pixel_values=shown.pixel_values, image_grid_thw=shown.image_grid_thw,
            mm_token_type_ids=pictured.int(),
        ).logits  # fmt: skip
        batch = qwen.Batch.of([lesson], model.config.image_token_id)
        assert torch.equal(batch.pictured, pictured.flatten().nonzero()[:, 0])
        assert torch.equal(ids[0, batch.asked + 1], batch.target)
        seen = sight.at_rest(lesson.images)
        torch.testing.assert_close(sight.awake(lesson.images).tokens, seen)
        embedded = model.model.language_model.embed_tokens(ids).masked_scatter(pictured[..., None], seen)
        found = model.lm_head(read(model, embedded, batch.positions, batch.hide()))
        loss, right = qwen.said_loss(model, batch, seen)
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
    said_at = wanted[0, batch.asked]
    entropy = torch.nn.functional.cross_entropy(said_at, batch.target, reduction="none")
    torch.testing.assert_close(loss, (entropy * batch.weight).sum() / batch.weight.sum(), atol=1e-4, rtol=1e-4)
    assert torch.equal(right, said_at.argmax(-1) == batch.target)


def test_a_branch_sees_what_is_shared_and_itself(
    built: tuple[Processor, Model], teacher: Teacher, shots: list[Material]
) -> None:
    """The first answer is as likely with the second beside it as alone."""
    model = built[1]
    both = teacher.telling(shots[0], made_up(np.random.default_rng(0)))
    alone = teacher.telling(shots[0], None)
    hidden = []
    for lesson in (both, alone):
        batch = qwen.Batch.of([lesson], model.config.image_token_id)
        with torch.no_grad():
            embedded = model.model.language_model.embed_tokens(batch.ids)
            hidden.append(read(model, embedded, batch.positions, batch.hide())[0, torch.from_numpy(lesson.branch) == 1])
    torch.testing.assert_close(*hidden, atol=1e-5, rtol=1e-5)


def test_captions_that_are_taught_are_true_and_entities_are_copied(teacher: Teacher, shots: list[Material]) -> None:
    for number, shot in enumerate(shots):
        strange = made_up(np.random.default_rng(number))
        lesson = teacher.telling(shot, strange)
        caption = json.loads(said(teacher, lesson, 1).removesuffix("<|im_end|>"))["caption"]
        assert all(actor.person.top.phrase in caption for actor in shot.shot.actors)
        named = json.loads(said(teacher, lesson, 2).removesuffix("<|im_end|>"))
        asked = str(teacher.processor.tokenizer.decode(lesson.ids[(lesson.branch == 2) & (lesson.weight == 0)]))
        assert len(named["people"]) == len(strange.people)
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
            person = shot.shot.actors[position[crops.index(shown) + 1]].person
            assert choice["phrase"] in attributes(person) or choice["phrase"].startswith(person.identity.noun)
    assert nobody, "some captions name what nobody wears"


def test_a_number_said_again_weighs_less(teacher: Teacher, shots: list[Material]) -> None:
    """Nothing is to be seen for it: the number before is copied."""
    checked = 0
    for turn, shot in enumerate(shot for shot in shots if shot.crops):
        lesson = teacher.owning(shot, (), 1, np.random.default_rng(turn))
        numbers = [choice["person"] for choice in json.loads(said(teacher, lesson, 1)[: -len("<|im_end|>")])["choices"]]
        digits = teacher.processor.tokenizer.convert_tokens_to_ids(list("0123456789"))
        weights = lesson.weight[(lesson.weight > 0) & np.isin(lesson.ids, digits)]
        news = [i == 0 or numbers[i] != numbers[i - 1] for i in range(len(numbers))]
        assert [weight > 1 for weight in weights] == news
        checked += not all(news)
    assert checked


def test_a_portion_is_the_same_again_and_of_one_shot() -> None:
    one, again = Portions(SEED)(3), Portions(SEED)(3)
    assert all(
        np.array_equal(a.ids, b.ids) for a, b in zip(one.lessons["owning"], again.lessons["owning"], strict=True)
    )
    keys = [image.key for image in one.images]
    assert keys == [one.frame, one.still, *one.crops]
    assert {key for some in one.lessons.values() for lesson in some for key in lesson.images} <= set(keys)


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
    plan = qwen.Plan(10, 0.3, 0.5, 0.8, first=4, new=1, pool=8, looks=4, whole=2, reads=4, talks=4)
    monkeypatch.setattr(qwen, "CHECKED", 2)
    lines: list[str] = []
    log = qwen.train(tmp_path, say=lines.append, workers=0, plan=plan)
    assert lines and read_log(tmp_path) == log
    assert not (tmp_path / "state.pt").exists()
    assert log.bytes < 16e6
    figures = held_out(tmp_path, 1, "transformers")
    assert figures[0].name == "usable captions"


def test_looking_helps(shots: list[Material], built: tuple[Processor, Model]) -> None:
    """The loss falls on what is seen again and again."""
    pupil = qwen.Pupil.of(build(1)[1])
    optimiser, sight = qwen.Optimiser(pupil), Sight(pupil.model)
    crops = [image for shot in shots[:3] for image in shot.crops]
    sight.add(crops)
    losses = []
    for _ in range(12):
        view = sight.awake([image.key for image in crops])
        loss = sum(qwen.sensed_losses(pupil, view, 1.0).values())
        optimiser.step(torch.as_tensor(loss), {"tower": 1.0, "words": 0.0})
        losses.append(float(loss))
    assert losses[-1] < 0.8 * losses[0]


def test_cases_know_who_is_who() -> None:
    one = case(0)
    assert len(one.scene.images) == 3 and len(one.scene.frames) == 1 and one.scene.given is None
    assert sorted(one.position) == [person.index for person in one.scene.people.people]
    assert case(0, given=True).scene.given == one.shot.caption.text
