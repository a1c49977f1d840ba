"""Who is who, and what is whose: the annotator's votes must agree with where the pixels are."""

from __future__ import annotations

from collections import Counter

from dataengine import masks
from dataengine.config import FilterRules
from dataengine.records import Box, Caption, EntityMask, Mention, People, Reason, Vote


def name_subjects(caption: Caption, rules: FilterRules) -> tuple[Vote | Reason, ...]:
    """For each person that the caption names, the vote for the `Person` it is, or why that is not certain.

    Two names for one person are both refused: one of them is wrong, and nothing here tells which.
    """
    named = [_elected(person.noun, rules) for person in caption.people]
    claims = Counter(vote.person for vote in named if isinstance(vote, Vote))
    return tuple(
        Reason("owner_conflict", f"{claims[vote.person]} subjects of the caption are person {vote.person}")
        if isinstance(vote, Vote) and claims[vote.person] > 1
        else vote
        for vote in named
    )


def check_votes(mention: Mention, person: int, rules: FilterRules) -> Reason | None:
    """Why an attribute that the caption lists under a person is not that person's by the annotator's own votes."""
    vote = _elected(mention, rules)
    if isinstance(vote, Reason):
        return vote
    if vote.person != person:
        return Reason("owner_disagrees", f"listed under person {person}, voted to be person {vote.person}'s")
    return None


def check_mask(found: EntityMask, person: int, people: People, rules: FilterRules) -> Reason | None:
    """Why the pixels of an attribute or body are not a person's: shares of the mask's own area inside body boxes.

    Intersection over the *attribute's* area: 0.996 on right owners and 0 elsewhere, where IoU gives 0.12 to 0.44.
    """
    bodies = _bodies(people, found.still, rules)
    if person not in bodies:
        return Reason("owner_unseen", f"person {person} is not seen in still {found.still}")
    inside = {index: masks.share_inside(found.mask, found.box, body) for index, body in bodies.items()}
    if inside[person] < rules.owner_min_inside:
        return Reason("owner_min_inside", f"{inside[person]:.2f} of its pixels are on person {person}")
    rival = max((index for index in inside if index != person), key=lambda index: inside[index], default=None)
    if rival is not None and inside[person] - inside[rival] < rules.owner_min_margin:
        return Reason(
            "owner_min_margin",
            f"{inside[person]:.2f} of its pixels are on person {person}, {inside[rival]:.2f} on person {rival}",
        )
    return None


def _elected(mention: Mention, rules: FilterRules) -> Vote | Reason:
    owner = mention.owner
    if owner is None:
        return Reason("owner_votes", "no vote" if not mention.votes else "the votes tie")
    if owner.share < rules.owner_min_share:
        return Reason("owner_min_share", f"{owner.share:.2f} of the votes for person {owner.person}")
    # Shares are rounded fractions of votes: 0.6 less 0.4 is meant to be 0.2.
    if round(mention.margin, 6) < rules.owner_min_vote_margin:
        return Reason("owner_min_vote_margin", f"{mention.margin:.2f} more of the votes than for the next person")
    return owner


def _bodies(people: People, still: int, rules: FilterRules) -> dict[int, Box]:
    """Body boxes in a still of everyone whose face is sure there, by person."""
    return {
        person.index: sighting.body
        for person in people.people
        for sighting in person.sightings
        if sighting.still == still and sighting.face_score >= rules.face_score
    }
