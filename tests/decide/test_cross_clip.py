"""Cross-clip pairs: the same person in the same clothes, not too alike, of the same split; words stay one's own."""

import random

import numpy as np
import pytest

from dataengine.config import DecideSettings, PairRules
from dataengine.decide.cross_clip import Appearance, Garment, Swap, find_swaps, is_chosen, swapped
from dataengine.decide.pairs import decide_pair
from dataengine.records import Pair, Provenance

RULES = PairRules(cross_clip_share=1.0, face_floor=0.5, face_ceiling=0.9)


def at(cosine: float) -> np.ndarray:
    """A unit vector with that cosine to `at(1)`."""
    return np.array([cosine, (1 - cosine**2) ** 0.5, 0], np.float32)


def seen(clip: str, face: np.ndarray, *garments: Garment, **values) -> Appearance:
    known = {"source_id": "s", "split": "train", "subject": 0, "identity": 0} | values
    return Appearance(clip_id=clip, face=face, garments=garments, **known)


def partners(*people: Appearance, rules: PairRules = RULES, seed: int = 0) -> dict[str, str]:
    return {clip: swaps[0].clip_id for clip, swaps in find_swaps(people, rules, seed).items()}


def test_alike_but_not_too_alike():
    me = seen("a", at(1))
    assert partners(me, seen("b", at(0.7))) == {"a": "b", "b": "a"}
    assert partners(me, seen("b", at(0.49))) == {}
    assert partners(me, seen("b", at(0.95))) == {}, "nearly the same picture teaches to paste"
    assert partners(me, seen("b", at(0.6)), seen("c", at(0.8)))["a"] == "c"


def test_only_the_same_person_and_split():
    me = seen("a", at(1))
    assert partners(me, seen("b", at(0.7), identity=1)) == {}
    assert partners(me, seen("b", at(0.7), split="val")) == {}
    assert partners(me, seen("a", at(0.7), subject=1)) == {}, "another clip, not another subject of this one"


def test_the_scope():
    me, other = seen("a", at(1)), seen("b", at(0.7), source_id="t")
    assert partners(me, other) == {"a": "b", "b": "a"}
    assert partners(me, other, rules=RULES.model_copy(update={"cross_clip_scope": "source"})) == {}


def test_the_same_clothes_are_preferred_and_named():
    top, blue = Garment("s0.a0", "orange top", at(1)), Garment("s0.a0", "an orange top", at(0.3))
    same = Garment("s1.a2", "an orange top", at(0.9))
    swaps = find_swaps([seen("a", at(1), top), seen("b", at(0.8), blue), seen("c", at(0.6), same, subject=1)], RULES, 0)
    assert swaps["a"] == (Swap(0, "c", 1, pytest.approx(0.6), {"s0.a0": ("s1.a2", pytest.approx(0.9))}),)
    jacket = Garment("s1.a2", "orange jacket", at(0.9))
    (swap,) = find_swaps([seen("a", at(1), top), seen("c", at(0.6), jacket)], RULES, 0)["a"]
    assert swap.garments == {}, "a jacket is no top, however alike in colour"
    unknown = Garment("s0.a0", "orange top", None)
    (swap,) = find_swaps([seen("a", at(1), unknown), seen("c", at(0.6), same)], RULES, 0)["a"]
    assert swap.garments == {}, "nobody looked at it"


def test_the_draw_grows_with_the_share_and_order_does_not_matter():
    few = {i for i in range(2000) if is_chosen(f"clip{i}", 0.2, 0)}
    assert 320 < len(few) < 480
    assert few < {i for i in range(2000) if is_chosen(f"clip{i}", 0.5, 0)}
    assert not any(is_chosen(f"clip{i}", 0.0, 0) for i in range(50))
    rng = np.random.default_rng(0)
    rows = 0.8 * np.eye(5)[rng.integers(0, 5, 60)]
    faces = [np.append(row, rng.standard_normal(4) * 0.3).astype(np.float32) for row in rows]
    people = [
        seen(f"c{i:02}", face / np.linalg.norm(face), identity=int(row.argmax()))
        for i, (face, row) in enumerate(zip(faces, rows, strict=True))
    ]
    half = RULES.model_copy(update={"cross_clip_share": 0.5})
    found = find_swaps(people, half, 3)
    assert found and found == find_swaps(random.Random(1).sample(people, len(people)), half, 3)
    assert list(found) == sorted(found)
    assert set(found) <= {one.clip_id for one in people if is_chosen(one.clip_id, 0.5, 3)}


def pair_of(measured) -> Pair:
    outcome = decide_pair(measured, Provenance(stages=(), decided_by=""), DecideSettings(), 0).outcome
    assert isinstance(outcome, Pair)
    return outcome


def test_a_swapped_pair_shows_the_other_clip_under_its_own_words(measured_clip):
    mine, theirs = pair_of(measured_clip(0)), pair_of(measured_clip(1))
    swap = Swap(0, theirs.clip.clip_id, 1, 0.7, {"s0.a0": ("s1.a0", 0.9)})
    pair, dropped = swapped(mine, [swap], {theirs.clip.clip_id: theirs})
    woman, man = pair.subjects
    assert man == mine.subjects[1], "nobody was found for him"
    assert pair.pairing == "cross_clip" and dropped == ()
    assert Pair.from_json(pair.to_json()) == pair
    assert woman.face.phrase == mine.subjects[0].noun and woman.face.member == "s0.face.png"
    assert woman.face.box == theirs.subjects[1].face.box
    assert woman.face.origin.entity == "s1.face" and woman.face.origin.clip == theirs.clip
    assert (woman.attributes[0].origin.entity, woman.attributes[0].origin.similarity) == ("s1.a0", 0.9)
    assert woman.body.origin.entity == "s1.body"
    assert pair.relations == mine.relations and pair.caption == mine.caption


def test_a_body_in_other_clothes_is_left_out(measured_clip):
    mine, theirs = pair_of(measured_clip(0)), pair_of(measured_clip(1))
    pair, dropped = swapped(mine, [Swap(0, theirs.clip.clip_id, 0, 0.7)], {theirs.clip.clip_id: theirs})
    assert pair.subjects[0].body is None and pair.subjects[0].attributes[0].origin is None
    assert [(d.entity, d.rule) for d in dropped] == [("s0.body", "cross_clip")]


def test_pairing_and_origins_must_agree(measured_clip):
    mine = pair_of(measured_clip(0))
    with pytest.raises(ValueError, match="pairing cross_clip"):
        Pair.model_validate(mine.model_dump() | {"pairing": "cross_clip"})
