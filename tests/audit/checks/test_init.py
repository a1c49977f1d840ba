"""Each check passes a clean sample and catches the fault planted for it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from dataengine.audit.checks import CHECKS, QUESTIONS, CheckLimits, Finding, check_sample
from dataengine.audit.scene import Scene
from dataengine.records import Box, Pair, Phrase, Span

LIMITS = CheckLimits()
Masks = dict[str, NDArray[np.bool_]]


@pytest.fixture
def scene(scenes: list[Scene]) -> Scene:
    return scenes[0]


@pytest.fixture
def pair(scene: Scene) -> Pair:
    return scene.pair


@pytest.fixture
def masks(scene: Scene) -> Masks:
    return {entity: mask.copy() for entity, mask in scene.masks.items()}


def failed(
    scene: Scene, pair: Pair, masks: Masks | None = None, limits: CheckLimits = LIMITS
) -> dict[tuple[str, str], Finding]:
    found = check_sample(seen(scene, pair, masks), limits)
    return {(f.check, f.entity): f for f in found if not f.passed and f.check not in ABOUT_PICTURES}


ABOUT_PICTURES = {"mask_cuts_reference"}
"""Checks that see that a mask was changed and its picture was not: other tests are about them."""


def seen(scene: Scene, pair: Pair, masks: Masks | None = None) -> Scene:
    """The sample with another record and other masks, nothing validated: what a damaged dataset may hold."""
    changed = Scene(pair, scene.members)
    if masks is not None:
        vars(changed)["masks"] = masks
    return changed


def with_attribute(pair: Pair, subject: int, number: int, **changes: object) -> Pair:
    """The pair with one attribute changed and nothing validated: what a damaged dataset may hold."""
    attributes = list(pair.subjects[subject].attributes)
    attributes[number] = attributes[number].model_copy(update=changes)
    return with_subject(pair, subject, attributes=tuple(attributes))


def with_subject(pair: Pair, subject: int, **changes: object) -> Pair:
    subjects = list(pair.subjects)
    subjects[subject] = subjects[subject].model_copy(update=changes)
    return pair.model_copy(update={"subjects": tuple(subjects)})


def test_a_clean_sample_passes_every_check(scene: Scene, pair: Pair, masks: Masks) -> None:
    findings = check_sample(seen(scene, pair, masks), LIMITS)
    assert [f for f in findings if not f.passed] == []
    silent = {"phrase_has_tokens", "phrase_fits_picture", "reference_from_clip"}  # nobody gave them what they ask
    silent |= {"not_copied", "identity_consistent", "face_visible"}  # nothing in the sample to look at
    assert {f.check for f in findings} == {check.__name__ for check in CHECKS} - silent
    assert {check.__name__ for check in CHECKS} <= QUESTIONS.keys()


@pytest.mark.parametrize(
    ("phrase", "says"),
    [
        (Phrase(text="orange suit", span=Span(0, 11)), "On the left"),
        (Phrase(text="orange suit", span=Span(5000, 5011)), "outside"),
        (Phrase(text="orange suit", span=None), "outside"),
        (Phrase(text=" ", span=Span(2, 3)), "' '"),
    ],
)
def test_a_phrase_that_is_not_at_its_span(scene: Scene, pair: Pair, masks: Masks, phrase: Phrase, says: str) -> None:
    found = failed(scene, with_attribute(pair, 0, 0, phrase=phrase), masks)
    assert says in found["phrase_at_span", "s0.a0"].reason


def test_two_attributes_that_share_words(scene: Scene, pair: Pair, masks: Masks) -> None:
    taken = pair.subjects[0].attributes[0].phrase
    found = failed(scene, with_attribute(pair, 1, 0, phrase=taken), masks)
    # The uniform that s1.a0 had is nobody's any more.
    assert set(found) == {("spans_apart", "s0.a0"), ("spans_apart", "s1.a0"), ("clothes_taken", "")}
    assert "uniform" in found["clothes_taken", ""].reason
    assert "s1.a0" in found["spans_apart", "s0.a0"].reason


def test_two_subjects_that_share_a_noun(scene: Scene, pair: Pair, masks: Masks) -> None:
    noun = pair.subjects[0].noun
    face = pair.subjects[1].face.model_copy(update={"phrase": noun})
    found = failed(scene, with_subject(pair, 1, noun=noun, face=face), masks)
    assert ("spans_apart", "s1.face") in found


def test_swapped_attributes(scene: Scene, pair: Pair, masks: Masks) -> None:
    masks["s0.a0"], masks["s1.a0"] = masks["s1.a0"], masks["s0.a0"]
    found = failed(scene, pair, masks)
    assert found["attribute_inside_owner", "s0.a0"].score < 0.05
    assert found["owner_margin", "s0.a0"].score < -0.9
    assert found["owner_margin", "s1.a0"].score < -0.9


def test_a_small_attribute_scores_by_its_own_area(scene: Scene, pair: Pair, masks: Masks) -> None:
    # One in a hundred of the body: its IoU with the body would be 0.01, containment is 1.
    rows, columns = np.nonzero(masks["s1.a0"])
    badge = np.zeros_like(masks["s1.a0"])
    badge[rows[:: len(rows) // 200], columns[:: len(rows) // 200]] = True
    masks["s1.a0"] = badge
    assert ("attribute_inside_owner", "s1.a0") not in failed(scene, pair, masks)


def test_an_attribute_half_outside_its_owner(scene: Scene, pair: Pair, masks: Masks) -> None:
    masks["s0.body"] &= ~masks["s0.a1"]
    assert failed(scene, pair, masks)["attribute_inside_owner", "s0.a1"].score == 0


def test_masks_of_different_stills_are_not_compared(scene: Scene, pair: Pair, masks: Masks) -> None:
    moved = with_attribute(pair, 0, 0, still=0)
    masks["s0.a0"] = ~masks["s0.body"]
    compared = {(f.check, f.entity) for f in check_sample(seen(scene, moved, masks), LIMITS)}
    assert ("attribute_inside_owner", "s0.a0") not in compared
    assert ("attribute_inside_owner", "s0.a1") in compared


def test_a_tied_vote(scene: Scene, pair: Pair, masks: Masks) -> None:
    assert ("owner_agreed", "s1.face") in failed(scene, with_subject(pair, 1, owner_share=0.4), masks)


def test_a_tiny_face(scene: Scene, pair: Pair, masks: Masks) -> None:
    tiny = pair.subjects[0].face.model_copy(update={"box": Box(10, 10, 200, 40)})
    found = failed(scene, with_subject(pair, 0, face=tiny), masks)["face_size", "s0.face"]
    assert found.score == 30
    assert "30 pixels" in found.reason


def test_one_face_twice(scene: Scene, pair: Pair, masks: Masks) -> None:
    box = pair.subjects[0].face.box
    near = Box(box.x0 + 4, box.y0, box.x1 + 4, box.y1)
    found = failed(scene, with_subject(pair, 1, face=pair.subjects[1].face.model_copy(update={"box": near})), masks)
    assert ("faces_apart", "s1.face") in found


def _speck(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    speck = np.zeros_like(mask)
    speck[100:104, 100:104] = True
    return speck


def _sieve(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    sieve = np.zeros_like(mask)
    sieve[60:260, 60:260] = True
    sieve[70:250, 70:250] = False
    return sieve


def _strip(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    strip = np.zeros_like(mask)
    strip[-3:, :] = True
    return strip


@pytest.mark.parametrize(
    ("check", "damage"),
    [
        ("mask_area", _speck),
        ("mask_area", np.zeros_like),
        ("mask_area", np.ones_like),
        ("mask_inside_box", np.flip),
        ("mask_on_border", _strip),
        ("mask_holes", _sieve),
    ],
)
def test_a_damaged_mask(
    scene: Scene, pair: Pair, masks: Masks, check: str, damage: Callable[[NDArray[np.bool_]], NDArray[np.bool_]]
) -> None:
    masks["s0.a0"] = damage(masks["s0.a0"])
    assert (check, "s0.a0") in failed(scene, pair, masks)


def test_an_invented_background(scene: Scene, pair: Pair, masks: Masks) -> None:
    assert pair.background is not None
    invented = pair.model_copy(update={"background": pair.background.model_copy(update={"score": 0.45})})
    assert "45%" in failed(scene, invented, masks)["background_seen", "bg"].reason


def test_limits_move_the_verdict_and_not_the_score(scene: Scene, pair: Pair, masks: Masks) -> None:
    strict = {(f.check, f.entity): f for f in check_sample(seen(scene, pair, masks), CheckLimits(face_px=500))}
    lax = {(f.check, f.entity): f for f in check_sample(seen(scene, pair, masks), LIMITS)}
    assert not strict["face_size", "s0.face"].passed
    assert strict["face_size", "s0.face"].score == lax["face_size", "s0.face"].score
