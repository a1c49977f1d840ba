"""The ablation: what its variants differ in, what it trains and measures on."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from dataengine.lumosx.data import bind
from dataengine.lumosx.structure import Reference, SampleStructure
from dataengine.lumosx.text import open_tokenizer
from dataengine.world.ablation import (
    ARC_SIM,
    HELD_OUT,
    SIZES,
    TRAINING,
    VARIANTS,
    WORDS,
    Asked,
    Size,
    captioned_clips,
    held_out,
    settings,
    single_references,
    stage,
    training_samples,
)
from dataengine.world.ablation_reading import HEAD, TOP
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
    found = [settings(TINY, "pairs", v, 1, base=Path("base.safetensors")).model_dump() for v in VARIANTS]
    models = [run.pop("model") for run in found]
    assert all(run == found[0] for run in found)
    switches = ("r2pe", "csam", "mcam_ratio")
    assert [tuple(model.pop(name) for name in switches) for model in models] == [
        (v.r2pe, v.csam, v.mcam_ratio) for v in VARIANTS
    ]
    assert all(model == models[0] for model in models)


def test_the_base_begins_from_nothing_with_words_and_sees_references_only_then() -> None:
    words = settings(TINY, "words", VARIANTS[0], 0, base=None)
    single = settings(TINY, "single", VARIANTS[0], 0, base=Path("words.safetensors"))
    pairs = settings(TINY, "pairs", VARIANTS[0], 0, base=Path("base.safetensors"))
    assert words.model.init is None and [run.data.reference_dropout for run in (words, single, pairs)] == [1, 0, 0]
    for base in (words, single):
        assert not base.model.r2pe and not base.model.csam and base.model.mcam_ratio == 0
    assert [run.steps for run in (words, single, pairs)] == [TINY.words_steps, TINY.single_steps, TINY.steps]


def test_captions_of_the_base_name_colours() -> None:
    clips = list(captioned_clips(TINY))
    assert len(clips) == TINY.clips
    assert all(any(f" {colour} " in clip.pair.caption for colour in COLOURS) for clip in clips)


def test_a_single_reference_is_placed_alike_by_every_variant_and_shows_a_face_or_a_garment() -> None:
    clips = list(single_references(TINY))
    for number, clip in enumerate(clips):
        (reference,) = clip.pair.references
        assert reference.phrase.text.split()[-1] in (GARMENTS if number % 2 else SIDES[3])
        assert set(clip.members) == {"mp4", "json", reference.member} | {m for m in [reference.mask_member] if m}
        assert not any(f" {colour} " in clip.pair.caption for colour in COLOURS)
        bindings, groups = bind(clip.pair, bodies=False)
        structure = SampleStructure(1, (3, 5), tuple(Reference(b.kind, (1,), b.group) for b in bindings), groups)
        assert structure.frame_offsets(r2pe=True) == structure.frame_offsets(r2pe=False)


def test_training_pairs_show_two_and_three_people_in_what_they_wear() -> None:
    made = list(training_samples(TINY))
    assert len({sample.pair.key for sample in made}) == TINY.pairs
    for sample in made:
        pair = sample.pair
        assert pair.split == "train" and pair.frames == TINY.frames and not pair.objects and pair.background is None
        for subject in pair.subjects:
            garment, *held = (attribute.phrase.text.split()[-1] for attribute in subject.attributes)
            assert garment in GARMENTS and held in ([], ["scarf"])
        named = {m for r in pair.references for m in (r.member, r.mask_member) if m}
        assert set(sample.members) == named | {"mp4", "json"}
    assert [len(sample.pair.subjects) for sample in made] == [2, 3] * (TINY.pairs // 2)
    again = islice(training_samples(TINY), 2)
    assert [dict(sample.members) for sample in again] == [dict(sample.members) for sample in made[:2]]


def test_the_number_of_references_does_not_tell_whose_they_are() -> None:
    shots = [stage(TRAINING, number).shots[0] for number in range(200)]
    assert 0.4 < np.mean([bool(a.person.accessories) for shot in shots for a in shot.actors]) < 0.6
    for shot in shots:
        people = len(shot.actors)
        assert shot.caption.order == tuple(range(people))
        assert [actor.x for actor in shot.actors] == [(i + 0.5) / people for i in range(people)]
        assert [named.noun.text.split()[-1] for named in shot.caption.people] == list(SIDES[people])


def test_captions_of_pairs_leave_colours_to_references_and_keep_their_ties() -> None:
    for number, sample in enumerate(training_samples(TINY)):
        full = stage(TRAINING, number).shots[0].caption
        for subject, named in zip(sample.pair.subjects, full.people, strict=True):
            assert subject.face.phrase.text == subject.noun.text == named.noun.text
            for attribute, phrase in zip(subject.attributes, named.attributes, strict=True):
                colour, _, rest = phrase.text.partition(" ")
                assert attribute.phrase.text == rest and f" {colour} " not in sample.pair.caption
                assert attribute.phrase.span is not None
                assert attribute.phrase.span.of(sample.pair.caption) == rest


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
        assert not changed[: round((TOP + HEAD) * TINY.height) - 1].any(), "faces stay"


def test_the_large_size_is_larger() -> None:
    small, large = SIZES["small"], SIZES["large"]
    for field in Size.__dataclass_fields__:
        if not field.endswith("lr"):
            assert getattr(large, field) > getattr(small, field)


def test_no_caption_is_cut() -> None:
    tokenizer = open_tokenizer("minilm")
    limit = settings(TINY, "words", VARIANTS[0], 0, base=None).text.max_tokens
    for seed in (WORDS, TRAINING, HELD_OUT):
        captions = [stage(seed, number).shots[0].caption.text for number in range(600)]
        assert max(len(tokenizer(text)["input_ids"]) for text in captions) <= limit
