"""Who is who, and what is whose: the annotator's votes, the pixels and their tracks over the stills must agree.

Whatever they do not agree on is nobody's: the pair goes without it, and it is listed with what every witness says
(`disputes.parquet`), so that a person decides. Nothing is guessed. Only where `owner_settled_by_pixels` says so do two
witnesses, the caption's list and the pixels, prevail against the votes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

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
    """Of the votes on the noun or phrase itself."""


def name_subjects(subjects: Sequence[SubjectWords], rules: FilterRules) -> tuple[Elected | Reason, ...]:
    """For each person that the caption names, which person of the clip it is, or why that is not certain.

    No two of them are one person, and a noun and what is listed under it are one person's: that assignment is taken in
    which most of their votes come true. Somebody is refused where less than `owner_min_share` of them do, on the noun
    and on all together, or where the best assignment without this tie is behind by less than `owner_min_vote_margin`.
    """
    nouns = [elect(subject.noun.votes, rules) for subject in subjects]
    if _agreed(subjects, nouns, rules):
        return tuple(nouns)
    asked = [[words for words in (subject.noun, *subject.attributes) if words.votes] for subject in subjects]
    people = sorted({person for phrases in asked for words in phrases for person in words.votes})
    votes = np.zeros((len(subjects), len(people) + len(subjects)))  # the last columns are nobody
    for row, subject, phrases in zip(votes, subjects, asked, strict=True):
        for words in phrases if subject.noun.votes else ():
            for person, share in words.votes.items():
                row[people.index(person)] += share
    chosen = _assignment(votes)
    named: list[Elected | Reason] = []
    for i, (subject, noun, column) in enumerate(zip(subjects, nouns, chosen, strict=True)):
        other = votes.copy()
        other[i, column] = -votes.sum()
        lead = _sum(votes, chosen) - _sum(votes, _assignment(other))
        count = max(1, len(asked[i]))
        own = subject.noun.votes.get(people[column], 0.0) if column < len(people) else 0.0
        share = max(own, round(votes[i, column] / count, 3))
        # Shares are rounded: what ties may differ by a little.
        clear = round(lead / count, 3) >= max(rules.owner_min_vote_margin, 0.001)
        if column < len(people) and clear and share >= rules.owner_min_share:
            named.append(Elected(people[column], own))
        elif isinstance(noun, Reason):
            named.append(noun)
        else:
            saw = f"voted to be person {noun.person}, against another subject or what is listed under it"
            named.append(Reason("owner_conflict", saw))
    return tuple(named)


def _agreed(subjects: Sequence[SubjectWords], nouns: Sequence[Elected | Reason], rules: FilterRules) -> bool:
    """Whether every phrase is clearly its noun's person's, and these differ: then no other assignment is near."""
    people = [noun.person for noun in nouns if isinstance(noun, Elected)]
    return len(set(people)) == len(nouns) and all(
        check_votes(words.votes, person, rules) is None
        for subject, person in zip(subjects, people, strict=True)
        for words in subject.attributes
        if words.votes
    )


def _assignment(votes: NDArray[np.float64]) -> NDArray[np.int64]:
    """A column for each row, no two the same: those with the largest sum."""
    from scipy.optimize import linear_sum_assignment  # half a second that most processes are spared

    return np.asarray(linear_sum_assignment(votes, maximize=True)[1])


def _sum(votes: NDArray[np.float64], columns: NDArray[np.int64]) -> float:
    return float(votes[np.arange(len(votes)), columns].sum())


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
    person: int, mine: int, elsewhere: Sequence[tuple[MaskFacts, Collection[int]]], least: float
) -> Reason | None:
    """Why pixels that are a person's in some stills are not certainly so: in others they lie rather on somebody else.

    Then a track changed people, or the phrase fits both. `mine` counts the stills in which `check_mask` found them to
    be the person's; `elsewhere` has the masks that it refused, each with those whose faces are sure in its still. They
    must be the person's in a share of `least` of both.
    """
    theirs = sum(
        any(mask.inside[other] > mask.inside[person] for other in mask.inside if other in seen)
        for mask, seen in elsewhere
        if person in seen and person in mask.inside
    )
    if not mine or mine / (mine + theirs) >= least:
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
