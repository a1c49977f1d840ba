"""Who owns what: the score matrix and the swap alarm, from each witness alone and from all together."""

from __future__ import annotations

import numpy as np
import pytest

from dataengine.audit.checks import Aids, Case, CheckLimits, ownership, score_matrix
from dataengine.audit.repairs import changed
from dataengine.audit.scene import Scene


def with_relations(scene: Scene, **values: object) -> Scene:
    """The sample with witnesses' values replaced: `votes=None` silences them, a function of (relation) gives them."""

    def one(relation):
        return changed(relation, **{k: v(relation) if callable(v) else v for k, v in values.items()})

    return Scene(changed(scene.pair, relations=tuple(map(one, scene.pair.relations))), scene.members)


def without_bodies(scene: Scene) -> Scene:
    subjects = tuple(s.model_copy(update={"body": None}) for s in scene.pair.subjects)
    return Scene(scene.pair.model_copy(update={"subjects": subjects}), scene.members)


def owner(relation) -> int:
    return int(relation.attribute.split(".")[0][1:])


def right(relation) -> float:
    return float(owner(relation) == relation.subject)


def wrong(relation) -> float:
    return 1.0 - right(relation)


def test_the_matrix_holds_every_witness(clean) -> None:
    even = Aids(scorer=lambda pictures, phrases: np.full((2, len(phrases)), 0.5))
    matrix = score_matrix(Case(clean, CheckLimits(), even))
    attributes = [a.entity for s in clean.pair.subjects for a in s.attributes]
    assert set(matrix) == {(a, s) for a in attributes for s in (0, 1)}
    votes = {(r.attribute, r.subject): r.votes for r in clean.pair.relations}
    assert {place: cell.votes for place, cell in matrix.items()} == votes
    assert all(cell.match == 0.5 for cell in matrix.values())
    assert matrix["s0.a0", 0].inside > 0.9 > 0.1 > matrix["s0.a0", 1].inside
    # Without bodies' masks what the pair stores is taken, by bodies' boxes.
    stored = score_matrix(Case(without_bodies(clean), CheckLimits(), Aids()))
    inside = {(r.attribute, r.subject): r.inside for r in clean.pair.relations}
    assert {place: cell.inside for place, cell in stored.items()} == inside


def test_a_clean_sample_raises_no_alarm(clean, found) -> None:
    findings = found(ownership.swap_alarm, clean)
    assert set(findings) == {a.entity for s in clean.pair.subjects for a in s.attributes}
    assert all(finding.passed for finding in findings.values())


@pytest.mark.parametrize(
    "witnesses",
    [
        {"votes": wrong, "inside": None},  # votes alone
        {"votes": None, "inside": wrong},  # pixels alone
        {"votes": wrong, "inside": right},  # one against one
        {"votes": right, "inside": wrong},
    ],
)
def test_any_witness_against_the_owner_raises_the_alarm(clean, found, witnesses: dict) -> None:
    findings = found(ownership.swap_alarm, with_relations(without_bodies(clean), **witnesses))
    assert findings
    assert not any(finding.passed for finding in findings.values())


def test_an_exchange_is_named(clean, found) -> None:
    one, other = (s.attributes[0].entity for s in clean.pair.subjects)

    def swapped(relation) -> float:
        return wrong(relation) if relation.attribute in (one, other) else right(relation)

    findings = found(ownership.swap_alarm, with_relations(without_bodies(clean), votes=swapped, inside=swapped))
    assert {entity for entity, finding in findings.items() if not finding.passed} == {one, other}
    assert f"exchanged with {other}" in findings[one].reason
    assert findings[one].score == pytest.approx(-1)


def test_a_row_alone_may_be_weak_and_the_exchange_tells(clean, found) -> None:
    """Both attributes are a little likelier the other's: no row's lead is lost by much, but together it shows."""
    one, other = (s.attributes[0].entity for s in clean.pair.subjects)

    def unsure(relation) -> float:
        return 0.5 - 0.15 * (right(relation) * 2 - 1) if relation.attribute in (one, other) else right(relation)

    lax = CheckLimits(swap_margin=-0.5, swap_gain=0.25)
    scene = with_relations(without_bodies(clean), votes=unsure, inside=None)
    findings = found(ownership.swap_alarm, scene, limits=lax)
    assert not findings[one].passed
    assert found(ownership.swap_alarm, scene, limits=CheckLimits(swap_margin=-0.5, swap_gain=0.35))[one].passed


def test_witnesses_that_speak_of_one_subject_only_are_not_compared(clean, found) -> None:
    """A vote for the owner and none at all for the other: nothing follows from that, whatever the pixels say."""
    silent = with_relations(without_bodies(clean), votes=lambda r: 1.0 if right(r) else None, inside=None)
    assert found(ownership.swap_alarm, silent) == {}


def test_a_scorer_is_a_witness(clean, found) -> None:
    """A picture of CLIP's kind: it sees every phrase in the other's body."""
    phrases = {a.phrase.text: s.index for s in clean.pair.subjects for a in s.attributes}

    def scorer(pictures, asked):
        return np.array([[float(phrases[p] != i) for p in asked] for i in range(len(pictures))])

    scene = with_relations(without_bodies(clean), votes=None, inside=None)
    assert found(ownership.swap_alarm, scene, scorer=scorer) == {}  # there is no body to look at
    subjects = tuple(s for s in clean.pair.subjects)
    bodies = Scene(changed(scene.pair, subjects=subjects), clean.members)
    vars(bodies)["masks"] = {}  # containment says nothing
    findings = found(ownership.swap_alarm, bodies, scorer=scorer)
    assert findings
    assert not any(f.passed for f in findings.values())


def test_words_that_fit_another_picture_better(clean, found) -> None:
    attributes = [a for s in clean.pair.subjects for a in s.attributes]
    assert found(ownership.phrase_fits_picture, clean) == {}

    def exact(pictures, phrases):
        return np.eye(len(attributes))

    def swapped(pictures, phrases):
        scores = np.eye(len(attributes))
        scores[[0, -1]] = scores[[-1, 0]]
        return scores

    def silent(pictures, phrases):
        return np.full((len(pictures), len(phrases)), np.nan)

    assert all(f.passed for f in found(ownership.phrase_fits_picture, clean, scorer=exact).values())
    findings = found(ownership.phrase_fits_picture, clean, scorer=swapped)
    bad = {entity for entity, finding in findings.items() if not finding.passed}
    assert bad == {attributes[0].entity, attributes[-1].entity}
    assert attributes[-1].entity in findings[attributes[0].entity].reason
    assert found(ownership.phrase_fits_picture, clean, scorer=silent) == {}


def test_masks_of_other_clips_are_not_compared(clean) -> None:
    from dataengine.records import Clip, Origin

    subject = clean.pair.subjects[0]
    origin = Origin(clip=Clip.of("x", 0, 1), width=640, height=360, entity="s0.a0", similarity=0.8)
    strange = subject.attributes[0].model_copy(update={"origin": origin})
    assert ownership.containment(subject.attributes[0], subject, clean.masks) > 0.9
    assert ownership.containment(strange, subject, clean.masks) is None
