"""Who is who, and what is whose: the annotator's votes, the pixels and their tracks over the stills must agree.

Whatever they do not agree on is nobody's: the pair goes without it, and it is listed with what every witness says
(`disputes.parquet`), so that a person decides. Nothing is guessed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from dataengine.config import FilterRules
from dataengine.decide.facts import MaskFacts, SubjectWords
from dataengine.records import Reason, Witness

DISPUTES = (
    "owner_conflict",
    "owner_votes",
    "owner_min_share",
    "owner_min_vote_margin",
    "owner_disagrees",
    "owner_unseen",
    "owner_min_inside",
    "owner_min_margin",
    "owner_min_stills",
)
"""Rules by which something is not tied because its witnesses do not agree, or are not sure enough."""


class Elected(NamedTuple):
    person: int
    share: float
    """Of the votes."""


def name_subjects(subjects: Sequence[SubjectWords], rules: FilterRules) -> tuple[Elected | Reason, ...]:
    """For each person that the caption names, which person of the clip it is, or why that is not certain.

    Two names for one person are both refused: one of them is wrong, and nothing here tells which.
    """
    named = [elect(subject.noun.votes, rules) for subject in subjects]
    claims = Counter(owner.person for owner in named if isinstance(owner, Elected))
    return tuple(
        Reason("owner_conflict", f"{claims[owner.person]} subjects of the caption are person {owner.person}")
        if isinstance(owner, Elected) and claims[owner.person] > 1
        else owner
        for owner in named
    )


def elect(votes: Mapping[int, float], rules: FilterRules) -> Elected | Reason:
    """Whom the annotator's votes name, clearly enough."""
    if not votes:
        return Reason("owner_votes", "no vote")
    first, *others = sorted(votes.items(), key=lambda vote: -vote[1])
    second = others[0][1] if others else 0.0
    if first[1] == second:
        return Reason("owner_votes", "the votes tie")
    if first[1] < rules.owner_min_share:
        return Reason("owner_min_share", f"{first[1]:.2f} of the votes for person {first[0]}")
    # Shares are rounded fractions of votes: 0.6 less 0.4 is meant to be 0.2.
    if round(first[1] - second, 6) < rules.owner_min_vote_margin:
        margin = f"{first[1] - second:.2f} more of the votes than for the next person"
        return Reason("owner_min_vote_margin", margin)
    return Elected(*first)


def check_votes(votes: Mapping[int, float], person: int, rules: FilterRules) -> Reason | None:
    """Why an attribute that the caption lists under a person is not that person's by the annotator's own votes."""
    owner = elect(votes, rules)
    if isinstance(owner, Reason):
        return owner
    if owner.person != person:
        return Reason("owner_disagrees", f"listed under person {person}, voted to be person {owner.person}'s")
    return None


def check_mask(found: MaskFacts, person: int, seen: Collection[int], rules: FilterRules) -> Reason | None:
    """Why the pixels of an attribute or body are not a person's; `seen` are those whose faces are sure in its still."""
    inside = found.inside if len(seen) >= len(found.inside) else {i: s for i, s in found.inside.items() if i in seen}
    if person not in inside:
        return Reason("owner_unseen", f"person {person} is not seen in still {found.still}")
    if inside[person] < rules.owner_min_inside:
        return Reason("owner_min_inside", f"{inside[person]:.2f} of its pixels are on person {person}")
    if len(inside) == 1:
        return None
    rival = max((index for index in inside if index != person), key=inside.__getitem__)
    if inside[person] - inside[rival] < rules.owner_min_margin:
        return Reason(
            "owner_min_margin",
            f"{inside[person]:.2f} of its pixels are on person {person}, {inside[rival]:.2f} on person {rival}",
        )
    return None


def check_track(
    person: int, mine: int, elsewhere: Sequence[tuple[MaskFacts, Collection[int]]], rules: FilterRules
) -> Reason | None:
    """Why pixels that are a person's in some stills are not certainly so: in others they lie rather on somebody else.

    Then a track changed people, or the phrase fits both. `mine` counts the stills in which `check_mask` found them to
    be the person's; `elsewhere` has the masks that it refused, each with those whose faces are sure in its still.
    """
    theirs = sum(
        any(mask.inside[other] > mask.inside[person] for other in mask.inside if other in seen)
        for mask, seen in elsewhere
        if person in seen and person in mask.inside
    )
    if not mine or mine / (mine + theirs) >= rules.owner_min_stills:
        return None
    return Reason("owner_min_stills", f"on person {person} in {mine} stills, rather on others in {theirs}")


def witnesses(votes: Mapping[int, float], found: Sequence[MaskFacts]) -> tuple[Witness, ...]:
    """All that is known of whose something is: for everybody who has a vote or some of its pixels, still by still."""
    heard: list[Witness] = []
    for mask in found:
        for person in sorted({*votes, *mask.inside}):
            share = votes.get(person, 0.0) if votes else None
            heard.append(Witness(person=person, still=mask.still, votes=share, inside=mask.inside.get(person)))
    if not found:
        heard = [Witness(person=p, still=None, votes=share, inside=None) for p, share in sorted(votes.items())]
    return tuple(heard)
