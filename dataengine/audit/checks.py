"""Automatic checks of one sample: pure functions over its record and its masks, each giving a score and a reason.

Containment is measured over the attribute's own area, never as IoU: a watch covers a hundredth of who wears it.
Masks are compared only when they were taken from the same still; people move.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import combinations

import cv2
import numpy as np
from pydantic import Field

from dataengine.audit.scene import MaskPixels
from dataengine.config import Settings
from dataengine.records import EntityId, Pair, Record, Reference, Share, Subject

Masks = Mapping[EntityId, MaskPixels]


class CheckLimits(Settings):
    """When a check fails."""

    inside_owner: Share = Field(0.9, description="least share of an attribute's pixels inside its owner's body")
    owner_margin: Share = Field(0.3, description="least lead of the owner's share over the next subject's")
    agreement: Share = Field(0.5, description="least share of the annotator's votes for whose face it is")
    face_px: float = Field(64, gt=0, description="least short side of a face box")
    faces_overlap: Share = Field(0.3, description="most of the smaller face that another subject's face covers")
    mask_area: Share = Field(0.002, description="least share of the frame that a mask covers")
    mask_area_most: Share = Field(0.8, description="most of the frame that a mask covers: it has leaked")
    inside_box: Share = Field(0.95, description="least share of a mask inside the box it was cut by")
    on_border: Share = Field(0.5, description="most of a mask's outline that is the frame's edge")
    background_seen: Share = Field(0.5, description="least share of the background that was seen and not invented")
    holes: Share = Field(0.2, description="most of a mask's filled shape that is holes")


class Finding(Record):
    """What one check says of one entity."""

    check: str
    entity: EntityId
    score: float = Field(description="what was measured, in the check's own unit")
    passed: bool
    reason: str


Check = Callable[[Pair, Masks, CheckLimits], Iterator[Finding]]


def check_sample(pair: Pair, masks: Masks, limits: CheckLimits) -> tuple[Finding, ...]:
    """All findings of all checks that apply to the sample, passed ones too: rates need to know how often one ran."""
    return tuple(finding for check in CHECKS for finding in check(pair, masks, limits))


def phrase_at_span(pair: Pair, masks: Masks, limits: CheckLimits) -> Iterator[Finding]:
    """The caption says a reference's phrase at the span it is tied to."""
    for reference in pair.references:
        span, words = reference.phrase.span, reference.phrase.text
        said = "" if span is None or not 0 <= span.start < span.end <= len(pair.caption) else span.of(pair.caption)
        passed = bool(words.strip()) and said == words
        found = f"the caption says {said!r}" if said else "its span is empty or outside the caption"
        yield _finding(
            phrase_at_span, reference.entity, float(passed), passed, found if passed else f"{found}, not {words!r}"
        )


def spans_apart(pair: Pair, masks: Masks, limits: CheckLimits) -> Iterator[Finding]:
    """No two entities share characters of the caption: two subjects called "man" have a "man" each."""
    for reference in pair.references:
        span = reference.phrase.span
        if span is None:
            continue
        shared = [
            other.entity
            for other in pair.references
            if other.phrase.span is not None
            and _ties(other) != _ties(reference)
            and max(span.start, other.phrase.span.start) < min(span.end, other.phrase.span.end)
        ]
        reason = f"it shares characters with {', '.join(shared)}" if shared else "its characters are its own"
        yield _finding(spans_apart, reference.entity, float(not shared), not shared, reason)


def attribute_inside_owner(pair: Pair, masks: Masks, limits: CheckLimits) -> Iterator[Finding]:
    """An attribute's pixels lie inside its owner's body."""
    for subject in pair.subjects:
        for attribute in subject.attributes:
            share = containment(attribute, subject, masks)
            if share is not None:
                passed = share >= limits.inside_owner
                reason = f"{share:.0%} of it is inside s{subject.index}'s body (at least {limits.inside_owner:.0%})"
                yield _finding(attribute_inside_owner, attribute.entity, share, passed, reason)


def owner_margin(pair: Pair, masks: Masks, limits: CheckLimits) -> Iterator[Finding]:
    """An attribute lies in its owner's body and not as much in another subject's."""
    for subject in pair.subjects:
        for attribute in subject.attributes:
            own = containment(attribute, subject, masks)
            rivals = {s.index: containment(attribute, s, masks) for s in pair.subjects if s is not subject}
            shares = {index: share for index, share in rivals.items() if share is not None}
            if own is None or not shares:
                continue
            rival = max(shares, key=lambda index: shares[index])
            margin = own - shares[rival]
            reason = f"{own:.0%} of it is inside s{subject.index}, {shares[rival]:.0%} inside s{rival}"
            yield _finding(owner_margin, attribute.entity, margin, margin >= limits.owner_margin, reason)


def owner_agreed(pair: Pair, masks: Masks, limits: CheckLimits) -> Iterator[Finding]:
    """The annotator's votes agree on whose face the subject's noun names."""
    for subject in pair.subjects:
        passed = subject.owner_share >= limits.agreement
        reason = f"{subject.owner_share:.0%} of the votes (at least {limits.agreement:.0%})"
        yield _finding(owner_agreed, subject.face.entity, subject.owner_share, passed, reason)


def face_size(pair: Pair, masks: Masks, limits: CheckLimits) -> Iterator[Finding]:
    """A face is large enough to tell who it is."""
    for subject in pair.subjects:
        side = min(subject.face.box.width, subject.face.box.height)
        reason = f"its short side has {side:.0f} pixels (at least {limits.face_px:.0f})"
        yield _finding(face_size, subject.face.entity, side, side >= limits.face_px, reason)


def faces_apart(pair: Pair, masks: Masks, limits: CheckLimits) -> Iterator[Finding]:
    """Two subjects are two people: their faces stand in different places."""
    for one, other in combinations(pair.subjects, 2):
        if one.face.still != other.face.still:
            continue
        smaller = min(one.face.box.area, other.face.box.area)
        overlap = one.face.box.intersection(other.face.box).area / smaller if smaller else 1.0
        reason = f"{overlap:.0%} of the smaller face is covered by s{one.index}'s (at most {limits.faces_overlap:.0%})"
        yield _finding(faces_apart, other.face.entity, overlap, overlap <= limits.faces_overlap, reason)


def mask_area(pair: Pair, masks: Masks, limits: CheckLimits) -> Iterator[Finding]:
    """A mask is neither a speck nor most of the frame."""
    for reference, mask in _masked(pair, masks):
        share = _pixels(mask) / mask.size
        passed = limits.mask_area <= share <= limits.mask_area_most
        reason = f"{share:.2%} of the frame ({limits.mask_area:.1%} to {limits.mask_area_most:.0%})"
        yield _finding(mask_area, reference.entity, share, passed, reason)


def mask_inside_box(pair: Pair, masks: Masks, limits: CheckLimits) -> Iterator[Finding]:
    """A mask lies inside the box it was cut by."""
    for reference, mask in _masked(pair, masks):
        total = _pixels(mask)
        x0, y0, x1, y1 = (max(0, round(value)) for value in reference.box)
        share = _pixels(mask[y0:y1, x0:x1]) / total if total else 0.0
        reason = f"{share:.0%} of it is inside its box (at least {limits.inside_box:.0%})"
        yield _finding(mask_inside_box, reference.entity, share, share >= limits.inside_box, reason)


def mask_on_border(pair: Pair, masks: Masks, limits: CheckLimits) -> Iterator[Finding]:
    """A mask is not mostly cut off by the frame's edge."""
    for reference, mask in _masked(pair, masks):
        framed = np.pad(mask, 1)
        inner = framed[:-2, 1:-1] & framed[2:, 1:-1] & framed[1:-1, :-2] & framed[1:-1, 2:]
        outline = mask & ~inner
        border = outline.copy()
        border[1:-1, 1:-1] = False
        share = _pixels(border) / max(1, _pixels(outline))
        reason = f"{share:.0%} of its outline is the frame's edge (at most {limits.on_border:.0%})"
        yield _finding(mask_on_border, reference.entity, share, share <= limits.on_border, reason)


def mask_holes(pair: Pair, masks: Masks, limits: CheckLimits) -> Iterator[Finding]:
    """A mask is not riddled with holes."""
    for reference, mask in _masked(pair, masks):
        shapes, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        filled = int(cv2.drawContours(np.zeros(mask.shape, np.uint8), shapes, -1, 1, cv2.FILLED).sum())
        share = 1 - _pixels(mask) / filled if filled else 0.0
        reason = f"{share:.0%} of its filled shape is holes (at most {limits.holes:.0%})"
        yield _finding(mask_holes, reference.entity, share, share <= limits.holes, reason)


def background_seen(pair: Pair, masks: Masks, limits: CheckLimits) -> Iterator[Finding]:
    """A background was mostly seen in some frame and not invented where people stood."""
    if pair.background is not None:
        seen = pair.background.score
        reason = f"{seen:.0%} of it was seen in some frame (at least {limits.background_seen:.0%})"
        yield _finding(background_seen, pair.background.entity, seen, seen >= limits.background_seen, reason)


CHECKS: tuple[Check, ...] = (
    phrase_at_span,
    spans_apart,
    attribute_inside_owner,
    owner_margin,
    owner_agreed,
    face_size,
    faces_apart,
    mask_area,
    mask_inside_box,
    mask_on_border,
    mask_holes,
    background_seen,
)


def containment(attribute: Reference, subject: Subject, masks: Masks) -> float | None:
    """The share of an attribute's pixels inside a subject's body; None when the two cannot be compared."""
    if subject.body is None or subject.body.still != attribute.still:
        return None
    mask, body = masks.get(attribute.entity), masks.get(subject.body.entity)
    if mask is None or body is None:
        return None
    total = _pixels(mask)
    return _pixels(mask & body) / total if total else 0.0


def _pixels(mask: MaskPixels) -> int:
    return int(np.count_nonzero(mask))


def _masked(pair: Pair, masks: Masks) -> Iterator[tuple[Reference, MaskPixels]]:
    """References with a mask, but for bodies: they only serve the other checks and may fill the frame."""
    for reference in pair.references:
        if reference.kind != "body" and reference.entity in masks:
            yield reference, masks[reference.entity]


def _ties(reference: Reference) -> str:
    """What a phrase is tied to: a subject's face and body share its noun."""
    head, _, part = reference.entity.partition(".")
    return head if part in ("face", "body") else reference.entity


def _finding(check: Check, entity: str, score: float, passed: bool, reason: str) -> Finding:
    return Finding(check=check.__name__, entity=entity, score=score, passed=passed, reason=reason)
