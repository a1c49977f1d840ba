"""The embedded profile against the truth of the sample video: cuts, faces, and above all who wears what."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from dataengine.decide.clips import shot_boundaries
from dataengine.engine.measurements import Measurements
from dataengine.records import Box, Pair, Reference, ShotScores, Subject
from dataengine.shards.reader import PairDataset
from dataengine.store import Store
from dataengine.world.sample import Appearance, SampleTruth, Shot


def iou(a: Box | tuple[float, ...], b: Box) -> float:
    a = Box(*a)
    common = a.intersection(b).area
    return common / (a.area + b.area - common)


def pairs_of_sample(built) -> list[Pair]:
    return [s.pair for s in map(PairDataset(Store.at(built.out)).__getitem__, range(built.summary.pairs))
            if s.pair.source_names == ("sample.mp4",)]  # fmt: skip


def shot_at(truth: SampleTruth, time_s: float) -> Shot:
    return next(shot for shot in truth.shots if shot.start_s <= time_s < shot.end_s)


def appearance_of(subject: Subject, pair: Pair, truth: SampleTruth) -> Appearance | None:
    """The true person whose face the subject's reference shows."""
    time = pair.clip.start_s + subject.face.time_s
    for person in shot_at(truth, time).people:
        nearest = min(person.sightings, key=lambda s: abs(s.time_s - time))
        if iou(nearest.face_box, subject.face.box) > 0.3:
            return person
    return None


@dataclass(frozen=True)
class Attribute:
    phrase: str
    right: bool
    person: str


def judged(built, truth: SampleTruth) -> list[Attribute]:
    """Every attribute of every subject: is its colour one that this very person wears in that place?"""
    found = []
    for pair in pairs_of_sample(built):
        for subject in pair.subjects:
            person = appearance_of(subject, pair, truth)
            assert person is not None, f"{pair.key}: a face where nobody is"
            found += [Attribute(a.phrase.text, is_worn(a, person), person.person) for a in subject.attributes]
    return found


def is_worn(attribute: Reference, person: Appearance) -> bool:
    words = attribute.phrase.text.lower().split()
    return any(words[-1] in worn.nouns and " ".join(words[:-1]) in worn.colours for worn in person.worn)


def test_all_cuts_are_found_and_no_others(built, sample_video) -> None:
    measurements = Measurements(Store.at(built.out).child("measurements"))
    print_ = next(s.fingerprint for s in built.summary.stages if s.stage == "shots")
    source = pairs_of_sample(built)[0].clip.source_id
    stored = measurements.records(measurements.ledger("shots", print_), [source])[source]
    scores = ShotScores.from_json(stored.record or "")
    found = shot_boundaries(scores, threshold=0.3)
    true = [*sample_video.truth.hard_cuts_s, *((d.start_s + d.end_s) / 2 for d in sample_video.truth.dissolves)]
    assert len(found) == len(true)
    for cut in true:
        # A hard cut to the frame, a dissolve somewhere in it.
        limit_s = 1.01 / sample_video.truth.fps if cut in sample_video.truth.hard_cuts_s else 0.35
        assert min(abs(cut - f) for f in found) < limit_s, f"cut at {cut:.2f} s"
    print(f"\nshots found {len(found) + 1}, true {len(sample_video.truth.shots)}")


def test_every_shot_with_people_gives_a_pair_with_all_of_them(built, sample_video) -> None:
    pairs = pairs_of_sample(built)
    for shot in sample_video.truth.shots:
        inside = [p for p in pairs if shot.start_s - 0.2 <= p.clip.start_s and p.clip.end_s <= shot.end_s + 0.2]
        assert bool(inside) == bool(shot.people), f"shot {shot.start_s:.2f}…{shot.end_s:.2f}"
        for pair in inside:
            people = {getattr(appearance_of(s, pair, sample_video.truth), "person", None) for s in pair.subjects}
            assert people == {p.person for p in shot.people}


def test_attributes_are_on_the_right_person(built, sample_video) -> None:
    attributes = judged(built, sample_video.truth)
    wrong = [a for a in attributes if not a.right]
    print(f"\nattributes right {len(attributes) - len(wrong)}, wrong {len(wrong)}: {wrong}")
    assert len(attributes) >= len(pairs_of_sample(built))
    assert len(wrong) <= 0.1 * len(attributes), wrong


def test_positions_are_named_right(built, sample_video) -> None:
    for pair in pairs_of_sample(built):
        if len(pair.subjects) < 2:
            continue
        left, right = sorted(pair.subjects, key=lambda s: s.face.box.x0)
        assert pair.caption.index("left") > left.noun.span.start  # type: ignore[union-attr]
        assert pair.caption.index("left") < pair.caption.index("right")
        assert right.noun.span.start > left.noun.span.start  # type: ignore[union-attr]


@pytest.mark.parametrize("person", ["Eileen Collins", "Grace Hopper"])
def test_each_person_is_seen(built, sample_video, person: str) -> None:
    assert person in {a.person for a in judged(built, sample_video.truth)}
