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


def subject(noun: dict[int, float], *attributes: dict[int, float]) -> SubjectWords:
    words, *worn = (Words("words", None, None, None, votes) for votes in (noun, *attributes))
    return SubjectWords(words, tuple(worn))


def caption(*nouns: dict[int, float]) -> tuple[SubjectWords, ...]:
    return tuple(subject(votes) for votes in nouns)


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
    unsure = (mention(), mention(0.5, 0.5), mention(0.49, 0.1))
    alone = [rule(name_subjects(caption(noun), RULES)[0]) for noun in unsure]
    assert alone == ["owner_votes", "owner_votes", "owner_min_share"]


def test_two_names_for_one_person():
    named = name_subjects(caption(mention(0.9, 0), mention(0.6, 0.1), mention(0, 0.8)), RULES)
    assert named[0] == Elected(0, 0.9) and named[2] == Elected(1, 0.8)
    assert rule(named[1]) == "owner_conflict", "nobody is left"
    equal = name_subjects(caption(mention(0.9, 0), mention(0.8, 0)), RULES)
    assert [rule(reason) for reason in equal] == ["owner_conflict"] * 2, "one of them is wrong, and nothing tells which"


def test_what_is_listed_under_a_noun_tells_whose_it_is():
    both_left = (subject(mention(1, 0), mention(1, 0)), subject(mention(1, 0), mention(0, 1), mention(0, 1)))
    assert name_subjects(both_left, RULES) == (Elected(0, 1), Elected(1, 0.0)), "its noun's own votes stay low"
    tied = (subject(mention(0.5, 0.5), mention(0, 1)), subject(mention(1, 0)))
    assert name_subjects(tied, RULES) == (Elected(1, 0.5), Elected(0, 1))


def test_who_is_left_is_the_other():
    assert name_subjects(caption(mention(0.5, 0.5), mention(0, 1)), RULES) == (Elected(0, 0.5), Elected(1, 1))
    nobody_left = name_subjects(caption(mention(1, 0), mention(0.5, 0.5), mention(0, 1)), RULES)
    assert (nobody_left[0], nobody_left[2]) == (Elected(0, 1), Elected(1, 1))
    assert rule(nobody_left[1]) == "owner_votes"
    with_doubt = name_subjects(caption(mention(0.3, 0.3, 0.3), mention(1), mention(0, 1)), RULES)
    assert rule(with_doubt[0]) == "owner_votes", "too few votes are left for whom nobody else is"


@pytest.mark.parametrize(
    "subjects",
    [
        (subject(mention(0.5, 0.5), mention(0.5, 0.5)), subject(mention(0.5, 0.5), mention(0.5, 0.5))),
        (subject(mention(1, 0), mention(0, 1)), subject(mention(0, 1), mention(1, 0))),
        (subject(mention(1, 0), mention(0, 1)), subject(mention(0.5, 0.5))),
        (subject(mention(), mention(1, 0)), subject(mention())),
    ],
    ids=["a model that prefers a number", "everything exchanged", "noun against attribute", "not among the people"],
)
def test_equally_good_assignments_are_refused(subjects):
    assert [rule(reason) for reason in name_subjects(subjects, RULES)] in (
        ["owner_votes"] * 2,
        ["owner_conflict"] * 2,
        ["owner_conflict", "owner_votes"],
    )


def test_a_noun_that_all_of_its_attributes_contradict_is_not_believed():
    swapped = (
        subject(mention(0, 1), mention(1, 0), mention(1, 0)),
        subject(mention(1, 0), mention(0, 1), mention(0, 1)),
    )
    assert name_subjects(swapped, RULES) == (Elected(0, 0), Elected(1, 0))


def test_agreement_needs_no_search():
    """What is clear at once is what the search would say."""
    clear = (subject(mention(0.9, 0.1), mention(0.8, 0.2)), subject(mention(0, 1), mention()))
    assert name_subjects(clear, RULES) == (Elected(0, 0.9), Elected(1, 1))
    doubtful = name_subjects((*clear, subject(mention(0.4, 0.5))), RULES)
    assert doubtful[:2] == (Elected(0, 0.9), Elected(1, 1)) and rule(doubtful[2]) == "owner_min_vote_margin"


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
    assert rule(name_subjects(caption(close), RULES)[0]) == "owner_min_vote_margin"


def on(still: int, **inside: float) -> MaskFacts:
    """A mask with these shares inside p0, p1, …"""
    shares = {int(name[1:]): share for name, share in inside.items()}
    return MaskFacts(still, Box(0, 0, 9, 9), 0.1, 1.0, None, 1.0, shares)


def test_a_track_that_changes_people_is_nobodys():
    theirs, unclear, nobody = on(0, p0=0.1, p1=0.9), on(1, p0=0.9, p1=0.8), on(2, p0=0.2, p1=0.1)
    both, half = [0, 1], RULES.owner_min_stills
    assert check_track(0, 1, [(theirs, both)], half) is None, "half of the stills are enough"
    assert rule(check_track(0, 1, [(theirs, both), (theirs, both)], half)) == "owner_min_stills"
    assert check_track(0, 1, [(unclear, both), (nobody, both)], half) is None, "that speaks for nobody else"
    assert check_track(0, 1, [(theirs, [1]), (theirs, [1])], half) is None, "the owner is not seen there"
    assert check_track(0, 2, [(theirs, both)], 1.0) == Reason(
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
