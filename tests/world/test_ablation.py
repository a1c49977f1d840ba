"""The ablation: what its variants differ in, what it trains and measures on."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from dataengine.lumosx.text import open_tokenizer
from dataengine.world.ablation import (
    ARC_SIM,
    BASE,
    HELD_OUT,
    SIZES,
    TRAINING,
    VARIANTS,
    Asked,
    Size,
    captioned_clips,
    held_out,
    settings,
    stage,
    training_samples,
)
from dataengine.world.cast import COLOURS, GARMENTS
from dataengine.world.wording import SIDES

TINY = replace(SIZES["small"], clips=4, pairs=8, held_out=8)


@pytest.fixture(scope="module")
def asked() -> list[Asked]:
    return held_out(TINY)


def test_each_variant_has_the_parts_of_the_one_before_and_one_more() -> None:
    parts = [(v.r2pe, v.csam, v.mcam_ratio) for v in VARIANTS]
    assert parts[:3] == [(False, False, 0), (True, False, 0), (True, True, 0)]
    assert parts[3:] == [(True, True, r) for r in (0.1, 0.5, 1.0)]
    assert len(ARC_SIM) == len(VARIANTS)


def test_runs_of_a_seed_differ_in_the_relational_parts_alone() -> None:
    found = [settings(TINY, v, 1, base=Path("base.safetensors")).model_dump() for v in VARIANTS]
    models = [run.pop("model") for run in found]
    assert all(run == found[0] for run in found)
    switches = ("r2pe", "csam", "mcam_ratio")
    assert [tuple(model.pop(name) for name in switches) for model in models] == [
        (v.r2pe, v.csam, v.mcam_ratio) for v in VARIANTS
    ]
    assert all(model == models[0] for model in models)


def test_the_base_has_no_relational_part_and_begins_from_nothing() -> None:
    base = settings(TINY, VARIANTS[0], 0, base=None)
    assert base.model.init is None and not base.model.r2pe and not base.model.csam and base.model.mcam_ratio == 0


def test_training_pairs_show_two_and_three_people_in_what_they_wear() -> None:
    made = list(training_samples(TINY))
    assert len({sample.pair.key for sample in made}) == TINY.pairs
    for sample in made:
        pair = sample.pair
        assert pair.split == "train" and pair.frames == TINY.frames and not pair.objects and pair.background is not None
        for subject in pair.subjects:
            garment, *held = (attribute.phrase.text.split()[-1] for attribute in subject.attributes)
            assert garment in GARMENTS and held in ([], ["bag"], ["scarf"])
        named = {m for r in pair.references for m in (r.member, r.mask_member) if m}
        assert set(sample.members) == named | {"mp4", "json"}
    assert [len(sample.pair.subjects) for sample in made] == [2, 3] * (TINY.pairs // 2)
    again = islice(training_samples(TINY), 2)
    assert [dict(sample.members) for sample in again] == [dict(sample.members) for sample in made[:2]]


def test_neither_number_nor_order_of_references_tells_whose_they_are() -> None:
    shots = [stage(TRAINING, number).shots[0] for number in range(200)]
    assert 0.4 < np.mean([bool(a.person.accessories) for shot in shots for a in shot.actors]) < 0.6
    of_two = [shot.caption.order for shot in shots if len(shot.actors) == 2]
    assert 0.35 < np.mean([order == (0, 1) for order in of_two]) < 0.65
    assert len({shot.caption.order for shot in shots if len(shot.actors) == 3}) == 6
    for shot in shots:
        people = len(shot.actors)
        assert [actor.x for actor in shot.actors] == [(i + 0.5) / people for i in range(people)]


def test_captions_name_people_from_left_to_right_and_their_side() -> None:
    for number in range(20):
        shot = stage(TRAINING, number).shots[0]
        sides = [named.noun.text.split()[-1] for named in shot.caption.people]
        assert [sides[shot.caption.order.index(i)] for i in range(len(sides))] == list(SIDES[len(sides)])
        starts = [shot.caption.people[shot.caption.order.index(i)].noun.span for i in range(len(sides))]
        assert starts == sorted(starts)


def test_every_other_two_pairs_tell_no_colour_and_keep_their_ties() -> None:
    made = list(training_samples(TINY))
    told = [any(f" {colour} " in sample.pair.caption for colour in COLOURS) for sample in made]
    assert told == [True, True, False, False] * 2
    for number, sample in enumerate(made):
        full = stage(TRAINING, number).shots[0].caption
        for subject, named in zip(sample.pair.subjects, full.people, strict=True):
            assert subject.face.phrase.text == named.noun.text
            for attribute, phrase in zip(subject.attributes, named.attributes, strict=True):
                _, _, rest = phrase.text.partition(" ")
                assert attribute.phrase.text == (phrase.text if told[number] else rest)
                assert attribute.phrase.span is not None
                assert attribute.phrase.span.of(sample.pair.caption) == attribute.phrase.text


def test_the_base_learns_from_words_alone_that_name_colours() -> None:
    clips = list(captioned_clips(TINY))
    assert len(clips) == TINY.clips
    assert all(any(f" {colour} " in clip.pair.caption for colour in COLOURS) for clip in clips)
    base, variant = settings(TINY, VARIANTS[0], 0, base=None), settings(TINY, VARIANTS[0], 0, base=Path("base"))
    assert (base.data.reference_dropout, variant.data.reference_dropout) == (1, 0)


def test_held_out_pairs_are_of_two_and_of_three_and_in_no_training_pair(asked: list[Asked]) -> None:
    assert sorted(one.subjects for one in asked) == [2, 2, 2, 2, 3, 3, 3, 3]
    trained = {sample.pair.clip.source_id for sample in training_samples(TINY)}
    for one in asked:
        assert one.sample.pair.split == "val" and one.sample.pair.clip.source_id not in trained
        assert len(one.sample.pair.subjects) == one.subjects
        assert one.true.shape == one.background.shape == one.exchanged.shape == (TINY.height, TINY.width, 3)


def test_exchanging_changes_garments_and_nothing_else(asked: list[Asked]) -> None:
    for one in asked:
        changed = np.abs(one.true.astype(int) - one.exchanged).max(axis=2) > 8
        assert 0.02 < changed.mean() < 0.5
        assert not changed[: round(0.3 * TINY.height)].any(), "faces stay"


def test_the_large_size_is_larger() -> None:
    small, large = SIZES["small"], SIZES["large"]
    for field in Size.__dataclass_fields__:
        if not field.endswith("lr"):
            assert getattr(large, field) > getattr(small, field)


def test_no_caption_is_cut() -> None:
    tokenizer = open_tokenizer("minilm")
    limit = settings(TINY, VARIANTS[0], 0, base=None).text.max_tokens
    for seed in (BASE, TRAINING, HELD_OUT):
        captions = [stage(seed, number).shots[0].caption.text for number in range(600)]
        assert max(len(tokenizer(text)["input_ids"]) for text in captions) <= limit
