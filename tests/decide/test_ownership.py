"""Ownership: votes and pixels must agree, with a margin to the next person."""

import numpy as np
import pytest

from dataengine import masks
from dataengine.config import FilterRules
from dataengine.decide import facts, ownership
from dataengine.decide.facts import MaskFacts, SubjectWords, Words
from dataengine.decide.ownership import Elected, check_track, name_subjects
from dataengine.records import Box, EntityMask, People, Person, Reason, Sighting, Witness

RULES = FilterRules(owner_min_share=0.5, owner_min_inside=0.6, owner_min_margin=0.2)


def mention(*shares: float) -> dict[int, float]:
    """These shares of votes for person 0, 1, …"""
    return dict(enumerate(shares))


def caption(*nouns: dict[int, float]) -> tuple[SubjectWords, ...]:
    return tuple(SubjectWords(Words("words", None, None, None, votes), ()) for votes in nouns)


def people(*bodies: Box, score: float = 0.9) -> People:
    """Everybody in still 0 only."""
    return People(
        people=tuple(
            Person(
                index=index,
                sightings=(
                    Sighting(
                        still=0, face=body, face_score=score, landmarks=(), body=body, body_score=None, sharpness=1
                    ),
                ),
            )
            for index, body in enumerate(bodies)
        )
    )


def found(x0: int, x1: int, still: int = 0) -> EntityMask:
    """A mask over columns x0…x1 of a 200x100 frame."""
    pixels = np.zeros((100, 200), bool)
    pixels[40:60, x0:x1] = True
    mask = masks.encode(pixels)
    return EntityMask(entity="s0.a0", still=still, box=masks.tight_box(mask), mask=mask, score=1)


def check_votes(votes: dict[int, float], person: int, rules: FilterRules) -> Reason | None:
    return ownership.check_votes(votes, person, rules)


def check_mask(mask: EntityMask, person: int, everybody: People, rules: FilterRules) -> Reason | None:
    sure = [p.index for p in everybody.people for s in p.sightings if s.face_score >= rules.face_score]
    return ownership.check_mask(facts.of_mask(mask, 1.0, everybody), person, sure, rules)


def rule(reason: object) -> str | None:
    assert reason is None or isinstance(reason, Reason)
    return None if reason is None else reason.rule


def test_subjects_are_named_by_votes():
    named = name_subjects(caption(mention(0.1, 0.9), mention(0.6, 0.4)), RULES)
    assert named == (Elected(1, 0.9), Elected(0, 0.6))
    unsure = name_subjects(caption(mention(), mention(0.5, 0.5), mention(0.49, 0.1)), RULES)
    assert [rule(reason) for reason in unsure] == ["owner_votes", "owner_votes", "owner_min_share"]


def test_two_names_for_one_person_are_both_refused():
    named = name_subjects(caption(mention(0.9, 0), mention(0.6, 0.1), mention(0, 0.8)), RULES)
    assert [rule(r) for r in named[:2]] == ["owner_conflict", "owner_conflict"]
    assert named[2] == Elected(1, 0.8)


def test_votes_against_the_caption():
    assert check_votes(mention(0.8, 0.2), 0, RULES) is None
    assert rule(check_votes(mention(0.8, 0.2), 1, RULES)) == "owner_disagrees"
    assert rule(check_votes(mention(0.5, 0.5), 0, RULES)) == "owner_votes"
    assert rule(check_votes(mention(0.4), 0, RULES)) == "owner_min_share"


def test_pixels_inside_the_owner():
    two = people(Box(0, 0, 100, 100), Box(100, 0, 200, 100))
    assert check_mask(found(20, 60), 0, two, RULES) is None
    assert rule(check_mask(found(20, 60), 1, two, RULES)) == "owner_min_inside"
    assert check_mask(found(60, 120), 0, two, RULES) is None, "2/3 here, 1/3 there"
    assert rule(check_mask(found(50, 150), 0, two, RULES)) == "owner_min_inside"


def test_the_margin_to_the_next_person():
    overlapping = people(Box(0, 0, 120, 100), Box(50, 0, 200, 100))
    assert rule(check_mask(found(50, 100), 0, overlapping, RULES)) == "owner_min_margin"
    assert check_mask(found(20, 100), 0, overlapping, RULES) is None
    doubtful = people(Box(0, 0, 120, 100), Box(50, 0, 200, 100), score=0.4)
    assert rule(check_mask(found(50, 100), 0, doubtful, RULES)) == "owner_unseen", "nobody is sure to be there"


def test_a_small_attribute_is_its_owners_though_iou_is_tiny():
    alone = people(Box(0, 0, 200, 100))
    assert check_mask(found(100, 104), 0, alone, RULES) is None


def test_the_owner_must_be_seen_in_that_still():
    assert rule(check_mask(found(20, 60, still=1), 0, people(Box(0, 0, 100, 100)), RULES)) == "owner_unseen"


@pytest.mark.parametrize("inside", [0.0, 1.0])
def test_limits_are_configuration(inside):
    rules = FilterRules(owner_min_inside=inside, owner_min_margin=0)
    two = people(Box(0, 0, 100, 100), Box(150, 0, 200, 100))
    assert (check_mask(found(90, 110), 0, two, rules) is None) == (inside == 0.0)


def test_votes_that_nearly_tie_name_nobody():
    close, clear = mention(0.55, 0.4), mention(0.6, 0.4)
    assert rule(check_votes(close, 0, RULES)) == "owner_min_vote_margin"
    assert check_votes(clear, 0, RULES) is None, "0.6 less 0.4 is 0.2, whatever floats say"
    assert check_votes(close, 0, RULES.model_copy(update={"owner_min_vote_margin": 0.1})) is None
    assert [rule(reason) for reason in name_subjects(caption(close, mention(0, 0.9)), RULES)[:1]] == [
        "owner_min_vote_margin"
    ]


def on(still: int, **inside: float) -> MaskFacts:
    """A mask with these shares inside p0, p1, …"""
    shares = {int(name[1:]): share for name, share in inside.items()}
    return MaskFacts(still, Box(0, 0, 9, 9), 0.1, 1.0, None, 1.0, shares)


def test_a_track_that_changes_people_is_nobodys():
    theirs, unclear, nobody = on(0, p0=0.1, p1=0.9), on(1, p0=0.9, p1=0.8), on(2, p0=0.2, p1=0.1)
    both = [0, 1]
    assert check_track(0, 1, [(theirs, both)], RULES) is None, "half of the stills are enough"
    assert rule(check_track(0, 1, [(theirs, both), (theirs, both)], RULES)) == "owner_min_stills"
    assert check_track(0, 1, [(unclear, both), (nobody, both)], RULES) is None, "that speaks for nobody else"
    assert check_track(0, 1, [(theirs, [1]), (theirs, [1])], RULES) is None, "the owner is not seen there"
    strict = RULES.model_copy(update={"owner_min_stills": 1.0})
    assert check_track(0, 2, [(theirs, both)], strict) == Reason(
        "owner_min_stills", "on person 0 in 2 stills, rather on others in 1"
    )


def test_witnesses_are_listed_still_by_still():
    heard = ownership.witnesses({0: 0.7, 2: 0.3}, [on(0, p0=0.1, p1=0.9)])
    assert heard == (
        Witness(person=0, still=0, votes=0.7, inside=0.1),
        Witness(person=1, still=0, votes=0.0, inside=0.9),
        Witness(person=2, still=0, votes=0.3, inside=None),
    )
    assert ownership.witnesses({}, [on(0, p0=1.0)])[0].votes is None
    assert ownership.witnesses({1: 0.5}, []) == (Witness(person=1, still=None, votes=0.5, inside=None),)
