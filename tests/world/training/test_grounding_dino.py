"""Grounding DINO's training: what it is shown, what it is told of it, and that the adapter loads what it writes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dataengine.config import GroundingDinoSettings
from dataengine.models.grounding_dino import GroundingDino, crop_around, nearest_aspect, prompt
from dataengine.records import Box
from dataengine.world.training import CHECKPOINTS, grounding_dino, grounding_plan
from dataengine.world.training.examples import HELD_OUT, TRAINING, example
from dataengine.world.training.grounding_figures import cases, held_out, judged
from dataengine.world.training.grounding_loss import (
    Targets,
    iou,
    presence_loss,
    proposal_loss,
    query_loss,
    word_loss,
)
from dataengine.world.training.grounding_network import Eyes, eyes, network, processor
from dataengine.world.training.grounding_pass import answers
from dataengine.world.training.grounding_phrases import Term, classifies, describes, entities, recoloured, renamed
from dataengine.world.training.grounding_plan import Mix
from dataengine.world.training.grounding_steps import Asked, Drawing, Named
from dataengine.world.training.grounding_views import Pool, Scene, aspect, crop_view, frame_view, normalised, scenes
from dataengine.world.training.log import read_log
from dataengine.world.wording import attributes


@pytest.fixture(scope="module")
def drawn() -> list[Scene]:
    return [scene for number in range(12) for scene in scenes(TRAINING, number)]


def test_terms_are_worded_as_captions_word_them() -> None:
    for index in range(20):
        shot = example(TRAINING, index).shot
        people = [actor.person for actor in shot.actors]
        found = entities(people, [placed.thing for placed in shot.objects])
        for number, person in enumerate(people):
            assert set(attributes(person)) <= {e.term.text for e in found if e.owner == number}
        assert {placed.thing.phrase for placed in shot.objects} == {e.term.text for e in found if e.owner is None}


def test_a_term_names_what_it_leaves_open_and_no_other_colour_or_thing() -> None:
    striped = Term("shirt", "red", "striped")
    assert Term("shirt").names(striped)
    assert Term("shirt", "red").names(striped)
    assert not striped.names(Term("shirt", "red"))
    assert not Term("hat", "red").names(striped)
    assert Term("person").names(Term("woman"))
    draw = np.random.default_rng(0)
    for term in (striped, Term("hair", "red", "curly"), Term("lamp", "red"), Term("hat", "red")):
        for _ in range(20):
            assert not recoloured(term, draw).names(term)
            assert not renamed(term, draw).names(term)


def test_boxes_of_a_crop_are_its_owners_alone(drawn: list[Scene]) -> None:
    """The boxes of a view, put back into the frame, are around pixels of the owner, whoever wears the same."""
    draw = np.random.default_rng(1)
    told = 0
    for scene in drawn:
        for owner in scene.owners:
            if (shape := aspect(scene, owner)) is None:
                continue
            view = crop_view(scene, owner, (192, 136), 6, draw)
            assert view.pixels.shape == (192, 136, 3)
            assert 2**-2 < shape < 2
            own = [e for e in scene.entities if e.owner == owner]
            for ask in view.asks:
                if not len(ask.boxes):
                    continue
                told += 1
                (x, y, width, height) = ask.boxes[0]
                assert 0 < width <= 1
                assert 0 < height <= 1
                middle = slice(int((x - width / 2) * 136), int(np.ceil((x + width / 2) * 136)))
                part = view.labels[int((y - height / 2) * 192) : int(np.ceil((y + height / 2) * 192)), middle]
                assert np.isin(part, [label for e in own for label in e.labels]).any()
    assert told > 50


def test_views_of_a_frame_have_every_person_and_phrases_that_are_not_there(drawn: list[Scene]) -> None:
    draw = np.random.default_rng(2)
    asks = [ask for scene in drawn for ask in frame_view(scene, (115, 192), 8, draw).asks]
    people = [ask for ask in asks if ask.text.endswith("person")]
    assert {len(ask.boxes) for ask in people} <= {0, 1, 2, 3}
    absent = [ask for ask in asks if not len(ask.boxes) and not len(ask.ignored)]
    assert 0.2 < len(absent) / len(asks) < 0.6


def test_the_best_loss_is_that_of_the_true_boxes() -> None:
    """Queries on the true boxes with high scores cost next to nothing; misplaced, doubled or missing ones do."""
    true = torch.tensor([[0.3, 0.4, 0.2, 0.3], [0.7, 0.5, 0.3, 0.6]])
    targets = Targets.of([true, torch.zeros(0, 4)], [torch.zeros(0, 4), torch.zeros(0, 4)])
    boxes = torch.full((2, 4, 4), 0.5)
    boxes[0, :2] = true.flip(0)
    logits = torch.full((2, 4, 3), -9.0)
    logits[0, :2, 1] = 9
    perfect = query_loss(logits, boxes, targets)
    assert perfect < 0.01
    moved = boxes.clone()
    moved[0, 0, 0] += 0.1
    doubled, false = logits.clone(), logits.clone()
    doubled[0, 2, 0] = false[1, 0, 2] = 9
    for worse in (query_loss(logits, moved, targets), query_loss(doubled, boxes, targets)):
        assert worse > perfect + 0.1
    assert query_loss(false, boxes, targets) > perfect + 0.1


def test_what_is_too_small_to_tell_costs_nothing_either_way() -> None:
    small = torch.tensor([[0.5, 0.5, 0.1, 0.1]])
    boxes, logits = small[None].clone(), torch.full((1, 1, 2), 9.0)
    unclear = Targets.of([torch.zeros(0, 4)], [small])
    absent = Targets.of([torch.zeros(0, 4)], [torch.zeros(0, 4)])
    assert query_loss(logits, boxes, unclear) == 0
    assert query_loss(logits, boxes, absent) > 1


def test_every_true_box_has_cells_that_answer_for_it() -> None:
    shapes = [(24, 17), (12, 9), (6, 5)]
    cells = sum(rows * columns for rows, columns in shapes)
    for side in (0.04, 0.1, 0.2, 0.4, 0.7, 0.95):
        targets = Targets.of([torch.tensor([[0.5, 0.5, side, side]])], [torch.zeros(0, 4)])
        boxes = lambda prompt, cell: torch.tensor([0.5, 0.5, side, side]).expand(len(cell), 4)  # noqa: B023, E731
        low, high = torch.full((1, cells, 2), -9.0), torch.full((1, cells, 2), 9.0)
        assert proposal_loss(low, boxes, shapes, (192, 136), targets) > 1, "missed"
        assert proposal_loss(high, boxes, shapes, (192, 136), targets) > 1, "everywhere"


def test_a_phrase_is_there_when_its_best_score_says_so() -> None:
    box, none = torch.tensor([[0.5, 0.5, 0.1, 0.1]]), torch.zeros(0, 4)
    targets = Targets.of([box, none, none], [none, none, box])
    logits = torch.full((3, 5, 2), -9.0)
    logits[0, 3, 1] = 9
    right = presence_loss(logits, targets)
    assert right < 0.01
    unclear = logits.clone()
    unclear[2, 0, 0] = 9
    assert presence_loss(unclear, targets) == right
    logits[1, 4, 0] = 9
    assert presence_loss(logits, targets) > 4


def test_words_are_learnt_from_the_cells_that_show_them() -> None:
    red, hat = Term("hat", "red"), Term("hat", "blue")
    assert [describes(word, red, Term("shirt", "red")) for word in ("red", "hat")] == [True, False]
    assert [classifies(word, red, hat) for word in ("red", "hat")] == [False, True]
    assert not describes("red", red, hat)
    shown = torch.tensor([1, 0, -1], dtype=torch.int8)
    assert word_loss(torch.tensor([9.0, -9.0, -9.0]), shown) < 0.01
    assert word_loss(torch.tensor([9.0, 9.0, 9.0]), shown) > 2


def test_the_pass_of_training_says_what_the_library_says(drawn: list[Scene]) -> None:
    torch.manual_seed(0)
    plan = grounding_plan.CPU
    model = network(eyes(plan), plan).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1 and "embeddings" not in name:
                torch.nn.init.normal_(weight, std=1.2 / weight[0].numel() ** 0.5)
    views = [frame_view(scene, (96, 160), 2, np.random.default_rng(3)) for scene in drawn[:2]]
    tokens = processor(plan).tokenizer(
        [prompt(ask.text) for view in views for ask in view.asks], padding=True, return_tensors="pt"
    )
    pixels = normalised(torch.as_tensor(np.stack([view.pixels for view in views])))
    with torch.no_grad():
        ours, theirs = answers(model, pixels, tokens), model(pixel_values=pixels[[0, 0, 1, 1]], **tokens)
    length = tokens["input_ids"].shape[1]
    assert torch.allclose(ours.cells, theirs.enc_outputs_class[..., :length], atol=1e-3)
    assert torch.allclose(ours.logits[-1], theirs.logits[..., :length], atol=1e-3)
    assert torch.allclose(ours.boxes[-1], theirs.pred_boxes, atol=1e-4)


def test_overlaps_are_those_of_boxes() -> None:
    a, b = torch.tensor([0.25, 0.5, 0.5, 1.0]), torch.tensor([0.5, 0.5, 0.5, 1.0])
    assert [round(v.item(), 4) for v in iou(a, b)] == [0.3333, 0.3333]
    apart = torch.tensor([0.875, 0.5, 0.25, 1.0])
    assert [round(v.item(), 4) for v in iou(a, apart)] == [0.0, -0.25]


def test_words_of_the_world_are_tokens_of_their_own() -> None:
    words = processor(grounding_plan.CPU).tokenizer
    assert words.tokenize("a blue striped t-shirt.") == ["a", "blue", "striped", "t", "-", "shirt", "."]
    for index in range(40):
        shot = example(TRAINING, index).shot
        people = [actor.person for actor in shot.actors]
        for entity in entities(people, [placed.thing for placed in shot.objects]):
            assert not [piece for piece in words.tokenize(entity.term.text) if "#" in piece or piece == "[UNK]"]
    assert words("person.")["input_ids"][0] == 101
    assert words("person.")["input_ids"][-2:] == [1012, 102]


def test_questions_are_of_what_is_there_and_of_what_is_not() -> None:
    asked = [case for i in range(12) for case in cases(example(HELD_OUT, i), np.random.default_rng(i))]
    present = {case.of for case in asked if case.true}
    absent = {case.of for case in asked if not case.true}
    assert {"garments", "hair", "objects"} <= present
    assert absent >= {"random phrases", "the noun in another colour", "the colour of another noun"}
    case = next(case for case in asked if case.true)
    assert dict(judged(case, [])) == {f"box recall of {case.of}": False}


def test_a_few_steps_write_a_checkpoint_that_the_adapter_loads_and_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = replace(grounding_plan.CPU, first=6, views=2)
    folder, state = tmp_path / "checkpoint", tmp_path / "state"
    said: list[str] = []
    log = grounding_dino.train(folder, steps=2, say=said.append, state=state, plan=plan)
    assert read_log(folder) == log
    assert log.bytes < 6e6
    assert held_out(folder, 1)
    again = grounding_dino.train(folder, steps=3, say=said.append, state=state, plan=plan, workers=2)
    assert "goes on at step 2" in said
    assert again.cpu_minutes >= log.cpu_minutes
    model = GroundingDino(GroundingDinoSettings(weights=str(folder), device="cpu", floor=0))
    model.load()
    image = example(HELD_OUT, 0).image
    assert len(model.find([image], ["person"])[0]) > 1


def test_the_learning_rate_rises_stays_and_falls() -> None:
    rates = [grounding_dino.rate_at(step, step / 1000) for step in (0, 99, 500, 749, 875, 999)]
    assert rates == pytest.approx([0.01, 1, 1, 1, 0.5, 0.004])


def test_crops_are_stretched_by_half_a_step_of_the_adapters_aspects_at_most() -> None:
    """`Pool` sorts crops by the adapter's own rounding, so that training and production show the same sizes."""
    image = np.zeros((168, 280, 3), np.uint8)
    seen = set()
    for right in range(60, 280, 7):
        window = crop_around(Box(50, 20, right, 160), 0.1, image)
        seen.add(nearest_aspect(window))
        assert 2 ** (-1 / 16) <= nearest_aspect(window) / (window.width / window.height) <= 2 ** (1 / 16)
    assert len(seen) > 8


def test_the_committed_checkpoint_finds_what_it_is_trained_to_find() -> None:
    """Floors under what `training.json` says of 200 examples, as 30 vary more."""
    found = {figure.name: figure.value for figure in held_out(CHECKPOINTS / "grounding_dino", 30)}
    for kind in ("garments", "hair", "hats", "glasses", "scarves"):
        assert found[f"box recall of {kind}"] >= 0.85
    assert found["box recall of persons"] >= 0.88
    assert found["own garment beside another's of its kind"] >= 0.95
    assert found["false positives, all"] <= 0.25


def test_a_steps_data_fits_what_the_network_makes_of_it() -> None:
    """For crops and frames of both plans: a table for every cell, boxes of what is there, and objects in most frames
    where the plan wants them."""
    for plan in (grounding_plan.CPU, grounding_plan.GPU):
        small = replace(plan, first=12, views=6, asks=3, shots=2)
        make = Drawing(0, small)
        learner, model = Eyes(small, 3), network(eyes(small), small)
        for step in (-2, -1):
            shown = make(step)
            assert isinstance(shown, Named)
            names = [torch.as_tensor(name).long() for name in shown.names]
            assert learner.learn(normalised(torch.as_tensor(shown.pixels)), names) > 0
        sizes = set()
        for step in range(6):
            data = make(step)
            assert isinstance(data, Asked)
            sizes.add(data.pixels.shape[1:3])
            assert np.isfinite(grounding_dino.loss(model, data, small.absent).item())
            assert (data.there & data.unclear).sum() == 0
        assert len(sizes) > 1
        assert max(max(size) for size in sizes) == small.longest


def test_absent_phrases_count_as_often_as_they_are_told_to() -> None:
    box, none = torch.tensor([[0.5, 0.5, 0.1, 0.1]]), torch.zeros(0, 4)
    targets = Targets.of([box, none], [none, none])
    sure = torch.full((2, 5, 2), -1.0)
    missed, false = sure.clone(), sure.clone()
    false[1] = 3
    missed[0] = -3
    alike, doubled = (presence_loss(false, targets, weight) for weight in (1.0, 2.0))
    assert doubled > alike * 1.05
    assert presence_loss(missed, targets, 2.0) < presence_loss(missed, targets, 1.0)


def test_a_plan_may_prefer_frames_with_objects() -> None:
    shares = []
    for furnished in (0.0, 1.0):
        pool = Pool(TRAINING, 0, lambda *_: (96, 160), np.random.default_rng(0), Mix(furnished=furnished))
        pool.grow(12)
        views = pool.frames(60, 1)
        shares.append(np.mean([any(e.owner is None for e in view.entities) for view in views]))
    assert shares[0] < 0.9
    assert shares[1] == 1
