"""Checks of the reference pictures: cut from where the record says, none twice, and a background with nobody in it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import cv2
import numpy as np
from numpy.typing import NDArray

from dataengine.audit.checks.basis import Case, Finding, finding, whole
from dataengine.audit.checks.faces import difference
from dataengine.records import Box, Reference

_SEARCHED_WIDTH = 640
"""Frames that are wider are searched for copies at this width."""


def references_differ(case: Case) -> Iterator[Finding]:
    """No two references of a sample are the same picture."""
    shown = [r for r in case.pair.references if r.kind not in ("body", "background")]
    pictures = {r.entity: case.scene.image(r) for r in shown}
    same: dict[str, tuple[float, str]] = {}
    for one, other in combinations(shown, 2):
        if not _alike_in_shape(one.box, other.box) or one.kind == other.kind == "face":
            continue  # `subjects_differ` is about faces
        apart = difference(pictures[one.entity], pictures[other.entity])
        for entity, partner in ((one.entity, other.entity), (other.entity, one.entity)):
            if apart < same.get(entity, (np.inf, ""))[0]:
                same[entity] = (apart, partner)
    for entity, (apart, partner) in same.items():
        reason = f"it differs from {partner} by {apart:.1f} levels (more than {case.limits.same_picture:.1f})"
        yield finding(references_differ, entity, apart, apart > case.limits.same_picture, reason)


def reference_from_clip(case: Case) -> Iterator[Finding]:
    """A reference shows what the clip's frame shows in its box: nothing was pasted, swapped or cut elsewhere."""
    if not case.aids.frames:
        return
    stills = case.scene.stills
    for reference in case.pair.references:
        if reference.kind == "background" or not reference.located or not 0 <= reference.still < len(stills):
            continue
        frame, mask = stills[reference.still], case.masks.get(reference.entity)
        x0, y0, x1, y1 = whole(reference.box)
        there = frame[y0:y1, x0:x1].astype(np.int16)
        shown = np.asarray(case.scene.image(reference)).astype(np.int16)
        if there.shape != shown.shape:
            reason = f"its picture is {shown.shape[1]}x{shown.shape[0]}, its box {there.shape[1]}x{there.shape[0]}"
            yield finding(reference_from_clip, reference.entity, 255.0, False, reason)
            continue
        apart = np.abs(there - shown).mean(axis=2)
        inside = np.ones(apart.shape, bool) if mask is None else mask[y0:y1, x0:x1]
        level = float(apart[inside].mean()) if inside.any() else 0.0
        reason = f"it differs from the frame by {level:.1f} levels (at most {case.limits.off_clip:.0f})"
        yield finding(reference_from_clip, reference.entity, level, level <= case.limits.off_clip, reason)


def not_copied(case: Case) -> Iterator[Finding]:
    """A reference from another clip is not, pixel for pixel, to be seen in the sample's own clip."""
    strange = [r for r in case.pair.references if r.origin is not None and r.kind in ("face", "attribute", "object")]
    if not case.aids.frames or not strange:
        return
    scale = min(1.0, _SEARCHED_WIDTH / case.pair.width)
    frames = [_smooth(frame, scale) for frame in case.scene.stills]
    for reference in strange:
        picture = _smooth(np.asarray(case.scene.image(reference)), scale)
        height, width = picture.shape[:2]
        if min(height, width) < 8 or height > frames[0].shape[0] or width > frames[0].shape[1]:
            continue
        shown = _shown(case, reference, (height, width))
        if not shown.any():
            continue
        weights = np.repeat(shown[..., None], 3, axis=2)
        least = min(float(cv2.matchTemplate(f, picture, cv2.TM_SQDIFF, mask=weights).min()) for f in frames)
        alike = 1 - float(np.sqrt(max(0.0, least) / weights.sum())) / 255
        reason = f"{alike:.1%} like a place in the sample's own clip (at most {case.limits.copied:.1%})"
        yield finding(not_copied, reference.entity, alike, alike <= case.limits.copied, reason)


def background_seen(case: Case) -> Iterator[Finding]:
    """A background was mostly seen in some frame and not invented where people stood."""
    background, least = case.pair.background, case.limits.background_seen
    if background is not None:
        seen = background.score
        reason = f"{seen:.0%} of it was seen in some frame (at least {least:.0%})"
        yield finding(background_seen, background.entity, seen, seen >= least, reason)


def background_empty(case: Case) -> Iterator[Finding]:
    """A background no longer shows the people: where a face stood there is something else."""
    background, most = case.pair.background, case.limits.background_person
    faces = [s.face for s in case.pair.subjects if s.face.located]
    if background is None or background.origin is not None or not faces:
        return
    scene = np.asarray(case.scene.image(background))
    left = {}
    for face in faces:
        x0, y0, x1, y1 = whole(face.box)
        there, shown = scene[y0:y1, x0:x1], np.asarray(case.scene.image(face))
        if there.size and there.shape == shown.shape:
            left[face.entity] = _correlation(there, shown)
    if left:
        entity = max(left, key=lambda name: left[name])
        reason = f"where {entity} stood it correlates with the face at {left[entity]:.2f} (at most {most:.2f})"
        yield finding(background_empty, background.entity, left[entity], left[entity] <= most, reason)


def _alike_in_shape(one: Box, other: Box) -> bool:
    """Whether two boxes have about one aspect ratio: pictures of others cannot be the same."""
    sides = (one.width, one.height, other.width, other.height)
    return min(sides) > 0 and 0.8 < (one.width / one.height) / (other.width / other.height) < 1.25


def _smooth(picture: NDArray[np.uint8], scale: float) -> NDArray[np.float32]:
    """The picture at the searched size without grain: what a codec did to it must not hide a copy."""
    size = (max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale)))
    small = picture if scale == 1 else cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    return cv2.GaussianBlur(small, (5, 5), 0).astype(np.float32)


def _shown(case: Case, reference: Reference, size: tuple[int, int]) -> NDArray[np.float32]:
    """1 where a picture at the searched size shows what it is of: not in the white around a cut-out, nor near it."""
    mask = case.masks.get(reference.entity)
    if mask is None:
        return np.ones(size, np.float32)
    x0, y0, x1, y1 = whole(reference.box)
    inside = np.pad(mask[y0:y1, x0:x1].astype(np.uint8), 1)
    core = cv2.erode(inside, np.ones((7, 7)))[1:-1, 1:-1]
    return cv2.resize(core, size[::-1], interpolation=cv2.INTER_NEAREST).astype(np.float32)


def _correlation(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """Correlation of two grey pictures of one size after a light blur, −1…1; 0 where one has no structure."""
    a, b = (
        cv2.GaussianBlur(cv2.cvtColor(p, cv2.COLOR_RGB2GRAY), (5, 5), 0).astype(np.float64).ravel()
        for p in (one, other)
    )
    a, b = a - a.mean(), b - b.mean()
    length = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / length if length > 1e-6 else 0.0
