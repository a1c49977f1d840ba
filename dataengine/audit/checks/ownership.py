"""Checks of who owns what: the relation that a dataset exists for.

Containment is measured over the attribute's own area, never as IoU: a watch covers a hundredth of who wears it.
Masks are compared only when they were taken from the same still of the same clip; people move.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from dataengine.audit.checks.basis import Case, Finding, finding, pixels
from dataengine.audit.scene import MaskPixels
from dataengine.records import EntityId, Reference, Subject


@dataclass(frozen=True)
class Cell:
    """What each witness says of one attribute and one subject, 0…1; None where it says nothing."""

    votes: float | None
    inside: float | None
    match: float | None

    @property
    def evidence(self) -> float | None:
        """The mean of the witnesses that speak."""
        known = [value for value in (self.votes, self.inside, self.match) if value is not None]
        return sum(known) / len(known) if known else None


Matrix = Mapping[tuple[EntityId, int], Cell]
"""Every attribute of a sample against every subject."""


def score_matrix(case: Case) -> Matrix:
    """N × M: attributes by subjects.

    Votes are the annotator's, as the pair stores them. `inside` is measured on the masks of attribute and body where
    both are of one still, else it is what the pair stores (inside the body's box). `match` is how well the phrase fits
    the subject's body, where there is a scorer.
    """
    pair = case.pair
    stored = {(r.attribute, r.subject): r for r in pair.relations}
    matches = _matches(case)
    cells = {}
    for owner in pair.subjects:
        for attribute in owner.attributes:
            for subject in pair.subjects:
                place = (attribute.entity, subject.index)
                relation = stored.get(place)
                inside = containment(attribute, subject, case.masks)
                if inside is None and relation is not None:
                    inside = relation.inside
                cells[place] = Cell(None if relation is None else relation.votes, inside, matches.get(place))
    return cells


def attribute_inside_owner(case: Case) -> Iterator[Finding]:
    """An attribute's pixels lie inside its owner's body."""
    least = case.limits.inside_owner
    for subject in case.pair.subjects:
        for attribute in subject.attributes:
            share = containment(attribute, subject, case.masks)
            if share is not None:
                reason = f"{share:.0%} of it is inside s{subject.index}'s body (at least {least:.0%})"
                yield finding(attribute_inside_owner, attribute.entity, share, share >= least, reason)


def owner_margin(case: Case) -> Iterator[Finding]:
    """An attribute lies in its owner's body and not as much in another subject's."""
    for subject in case.pair.subjects:
        for attribute in subject.attributes:
            own = containment(attribute, subject, case.masks)
            rivals = {s.index: containment(attribute, s, case.masks) for s in case.pair.subjects if s is not subject}
            shares = {index: share for index, share in rivals.items() if share is not None}
            if own is None or not shares:
                continue
            rival = max(shares, key=lambda index: shares[index])
            margin = own - shares[rival]
            reason = f"{own:.0%} of it is inside s{subject.index}, {shares[rival]:.0%} inside s{rival}"
            yield finding(owner_margin, attribute.entity, margin, margin >= case.limits.owner_margin, reason)


def owner_agreed(case: Case) -> Iterator[Finding]:
    """The annotator's votes agree on whose face the subject's noun names."""
    for subject in case.pair.subjects:
        passed = subject.owner_share >= case.limits.agreement
        reason = f"{subject.owner_share:.0%} of the votes (at least {case.limits.agreement:.0%})"
        yield finding(owner_agreed, subject.face.entity, subject.owner_share, passed, reason)


def swap_alarm(case: Case) -> Iterator[Finding]:
    """All witnesses together tie an attribute to its owner, and no exchange of two attributes would fit better."""
    pair = case.pair
    if len(pair.subjects) < 2:
        return
    matrix = score_matrix(case)
    owners = {attribute.entity: subject.index for subject in pair.subjects for attribute in subject.attributes}
    exchanges = _exchanges(matrix, owners, case.limits.swap_gain)
    for entity, owner in owners.items():
        row = {
            s.index: cell.evidence
            for s in pair.subjects
            if (cell := matrix[entity, s.index]).evidence is not None and _comparable(matrix, entity, owner, s.index)
        }
        rivals = {index: value for index, value in row.items() if index != owner and value is not None}
        own = row.get(owner)
        if own is None or not rivals:
            continue
        rival = max(rivals, key=lambda index: rivals[index])
        margin = own - rivals[rival]
        passed = margin >= case.limits.swap_margin and entity not in exchanges
        reason = f"evidence {own:.2f} for s{owner} ({_told(matrix[entity, owner])}), {rivals[rival]:.2f} for s{rival} "
        reason += f"({_told(matrix[entity, rival])})"
        if entity in exchanges:
            reason += f"; it fits better exchanged with {exchanges[entity]}"
        yield finding(swap_alarm, entity, margin, passed, reason)


def _comparable(matrix: Matrix, entity: EntityId, owner: int, rival: int) -> bool:
    """Whether the same witnesses speak of both: a mean over others would compare nothing."""
    one, other = matrix[entity, owner], matrix[entity, rival]
    return all(
        (a is None) == (b is None)
        for a, b in ((one.votes, other.votes), (one.inside, other.inside), (one.match, other.match))
    )


def _exchanges(matrix: Matrix, owners: Mapping[EntityId, int], least: float) -> dict[EntityId, EntityId]:
    """Attributes of two subjects whose exchange would gain more than `least` of evidence, on rows and columns."""
    found: dict[EntityId, tuple[float, EntityId]] = {}
    for one, other in combinations(owners, 2):
        a, b = owners[one], owners[other]
        values = [matrix[place].evidence for place in ((one, b), (other, a), (one, a), (other, b))]
        if a == b or any(value is None for value in values):
            continue
        gain = float(np.dot([0.5, 0.5, -0.5, -0.5], np.array(values, float)))
        for entity, partner in ((one, other), (other, one)):
            if gain > least and gain > found.get(entity, (0.0, ""))[0]:
                found[entity] = (gain, partner)
    return {entity: partner for entity, (_, partner) in found.items()}


def phrase_fits_picture(case: Case) -> Iterator[Finding]:
    """Its own phrase fits an attribute's picture as well as any other attribute's phrase does."""
    scorer = case.aids.scorer
    attributes = [attribute for subject in case.pair.subjects for attribute in subject.attributes]
    if scorer is None or not attributes:
        return
    scores = scorer([case.scene.image(a) for a in attributes], [a.phrase.text for a in attributes])
    for i, attribute in enumerate(attributes):
        own = scores[i, i]
        others = {other.entity: scores[i, j] for j, other in enumerate(attributes) if j != i}
        rivals = {entity: score for entity, score in others.items() if not np.isnan(score)}
        if np.isnan(own):
            continue
        best = max(rivals, key=lambda entity: rivals[entity]) if rivals else ""
        # One alone is compared with an even chance of what it says being true.
        margin = float(own - max(rivals.get(best, 0.0), 0.0 if rivals else 0.5))
        reason = f"its own words score {own:.2f}"
        reason += f", those of {best} {rivals[best]:.2f}" if best else ""
        yield finding(phrase_fits_picture, attribute.entity, margin, margin >= case.limits.match_margin, reason)


def containment(attribute: Reference, subject: Subject, masks: Mapping[EntityId, MaskPixels]) -> float | None:
    """The share of an attribute's pixels inside a subject's body; None when the two cannot be compared."""
    body = subject.body
    if body is None or _seen_at(body) != _seen_at(attribute):
        return None
    mask, whole = masks.get(attribute.entity), masks.get(body.entity)
    if mask is None or whole is None:
        return None
    total = pixels(mask)
    return pixels(mask & whole) / total if total else 0.0


def _seen_at(reference: Reference) -> tuple[str, int]:
    """The clip, empty for the sample's own, and the still."""
    return "" if reference.origin is None else reference.origin.clip.clip_id, reference.still


def _matches(case: Case) -> dict[tuple[EntityId, int], float]:
    scorer, pair = case.aids.scorer, case.pair
    bodies = [subject for subject in pair.subjects if subject.body is not None]
    attributes = [attribute for subject in pair.subjects for attribute in subject.attributes]
    if scorer is None or len(bodies) < 2 or not attributes:
        return {}
    pictures = [case.scene.image(subject.body) for subject in bodies if subject.body is not None]
    scores = scorer(pictures, [attribute.phrase.text for attribute in attributes])
    return {
        (attribute.entity, subject.index): float(scores[i, j])
        for i, subject in enumerate(bodies)
        for j, attribute in enumerate(attributes)
        if not np.isnan(scores[i, j])
    }


def _told(cell: Cell) -> str:
    named = (("votes", cell.votes), ("inside", cell.inside), ("match", cell.match))
    return ", ".join(f"{name} {value:.2f}" for name, value in named if value is not None)
