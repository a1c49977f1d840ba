"""Checks of faces: large, sharp and whole enough, and each one person's."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import cv2
import numpy as np
from PIL import Image

from dataengine.audit.checks.basis import Case, Finding, finding


def face_size(case: Case) -> Iterator[Finding]:
    """A face is large enough to tell who it is."""
    for subject in case.pair.subjects:
        side = min(subject.face.box.width, subject.face.box.height)
        reason = f"its short side has {side:.0f} pixels (at least {case.limits.face_px:.0f})"
        yield finding(face_size, subject.face.entity, side, side >= case.limits.face_px, reason)


def face_sharp(case: Case) -> Iterator[Finding]:
    """A face is not blurred."""
    for subject in case.pair.subjects:
        measured = sharpness(case.scene.image(subject.face))
        reason = f"variance of the Laplacian {measured:.0f} (at least {case.limits.face_sharpness:.0f})"
        yield finding(face_sharp, subject.face.entity, measured, measured >= case.limits.face_sharpness, reason)


def face_visible(case: Case) -> Iterator[Finding]:
    """A face is mostly inside the frame and not covered."""
    for subject in case.pair.subjects:
        if (visible := subject.face.visible) is not None:
            reason = f"{visible:.0%} of it is seen (at least {case.limits.face_visible:.0%})"
            yield finding(face_visible, subject.face.entity, visible, visible >= case.limits.face_visible, reason)


def faces_apart(case: Case) -> Iterator[Finding]:
    """Two subjects are two people: their faces stand in different places."""
    most = case.limits.faces_overlap
    for one, other in combinations(case.pair.subjects, 2):
        if one.face.still != other.face.still or one.face.origin != other.face.origin:
            continue
        if not (one.face.placed and other.face.placed):
            continue
        smaller = min(one.face.box.area, other.face.box.area)
        overlap = one.face.box.intersection(other.face.box).area / smaller if smaller else 1.0
        reason = f"{overlap:.0%} of the smaller face is covered by s{one.index}'s (at most {most:.0%})"
        yield finding(faces_apart, other.face.entity, overlap, overlap <= most, reason)


def identity_consistent(case: Case) -> Iterator[Finding]:
    """A subject is one person in all stills: the embeddings of the sightings agree."""
    for subject in case.pair.subjects:
        if (likeness := subject.likeness) is not None:
            reason = f"its least like sightings have a cosine of {likeness:.2f} (at least {case.limits.likeness:.2f})"
            yield finding(identity_consistent, subject.face.entity, likeness, likeness >= case.limits.likeness, reason)


def subjects_differ(case: Case) -> Iterator[Finding]:
    """Two subjects have two faces: by an embedder where one was given, else their pictures are not the same."""
    subjects, limits = case.pair.subjects, case.limits
    if len(subjects) < 2:
        return
    pictures = [case.scene.image(subject.face) for subject in subjects]
    vectors = None if case.aids.faces is None else case.aids.faces(pictures)
    for i, j in combinations(range(len(subjects)), 2):
        entity, other = subjects[j].face.entity, subjects[i].face.entity
        if vectors is not None:
            alike = float(vectors[i] @ vectors[j])
            reason = f"a cosine of {alike:.2f} with {other} (at most {limits.unlikeness:.2f})"
            yield finding(subjects_differ, entity, alike, alike <= limits.unlikeness, reason)
        else:
            apart = difference(pictures[i], pictures[j])
            reason = f"it differs from {other} by {apart:.1f} levels (more than {limits.same_picture:.1f})"
            yield finding(subjects_differ, entity, apart, apart > limits.same_picture, reason)


def sharpness(image: Image.Image) -> float:
    """Variance of the Laplacian over the picture at its own size, 0…255 grey levels."""
    return float(cv2.Laplacian(np.asarray(image.convert("L")), cv2.CV_64F).var())


def difference(one: Image.Image, other: Image.Image, side: int = 32) -> float:
    """Mean difference of two pictures, 0…255, both made `side` squares: near 0 for the same picture at any scale."""
    a, b = (np.asarray(i.convert("RGB").resize((side, side), Image.Resampling.BOX), np.float32) for i in (one, other))
    return float(np.abs(a - b).mean())
