"""Faces: what is too small, blurred, covered, or somebody else's."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import ImageFilter

from audit_samples import png
from dataengine.audit.checks import faces
from dataengine.audit.overlay import at_still
from dataengine.audit.scene import Scene
from dataengine.records import Box


def with_subject(scene: Scene, number: int, **changes: object) -> Scene:
    subjects = list(scene.pair.subjects)
    subjects[number] = subjects[number].model_copy(update=changes)
    return Scene(scene.pair.model_copy(update={"subjects": tuple(subjects)}), scene.members)


def test_blur(clean, found) -> None:
    face = clean.pair.subjects[0].face
    blurred = clean.image(face).filter(ImageFilter.GaussianBlur(6))
    scene = Scene(clean.pair, clean.members | {face.member: png(np.asarray(blurred))})
    assert all(f.passed for f in found(faces.face_sharp, clean).values())
    findings = found(faces.face_sharp, scene)
    assert not findings["s0.face"].passed
    assert findings["s1.face"].passed


@pytest.mark.parametrize(("visible", "passes"), [(0.9, True), (0.3, False), (None, None)])
def test_covered_faces(clean, found, visible: float | None, passes: bool | None) -> None:
    face = clean.pair.subjects[0].face.model_copy(update={"visible": visible})
    finding = found(faces.face_visible, with_subject(clean, 0, face=face)).get("s0.face")
    assert (None if finding is None else finding.passed) is passes


@pytest.mark.parametrize(("likeness", "passes"), [(0.7, True), (0.2, False), (None, None)])
def test_one_person_in_all_stills(clean, found, likeness: float | None, passes: bool | None) -> None:
    finding = found(faces.identity_consistent, with_subject(clean, 1, likeness=likeness)).get("s1.face")
    assert (None if finding is None else finding.passed) is passes


def test_one_face_for_two_subjects(clean, found) -> None:
    one, other = (subject.face for subject in clean.pair.subjects)
    copy = clean.image(one).resize(clean.image(other).size)
    scene = Scene(clean.pair, clean.members | {other.member: png(np.asarray(copy))})
    assert found(faces.subjects_differ, clean)["s1.face"].passed
    assert not found(faces.subjects_differ, scene)["s1.face"].passed


def test_an_embedder_decides_where_there_is_one(clean, found) -> None:
    def twins(pictures):
        return np.array([[1.0, 0.0], [0.8, 0.6]])

    def strangers(pictures):
        return np.array([[1.0, 0.0], [0.2, 0.98]])

    assert found(faces.subjects_differ, clean, faces=twins)["s1.face"].score == pytest.approx(0.8)
    assert not found(faces.subjects_differ, clean, faces=twins)["s1.face"].passed
    assert found(faces.subjects_differ, clean, faces=strangers)["s1.face"].passed


def test_nothing_is_said_of_places_that_nobody_knows(clean, found) -> None:
    """Faces of an imported benchmark have the size of their pictures and no place: they would cover each other."""
    corner = Box(0, 0, 40, 40)
    scene = clean
    for number, subject in enumerate(clean.pair.subjects):
        face = subject.face.model_copy(update={"box": corner, "still": 0})
        scene = with_subject(scene, number, face=face)
    assert not found(faces.faces_apart, scene)["s1.face"].passed
    for number, subject in enumerate(scene.pair.subjects):
        scene = with_subject(scene, number, face=subject.face.model_copy(update={"placed": False}))
    assert found(faces.faces_apart, scene) == {}
    assert not [r for still in range(3) for r in at_still(scene, still) if r.kind == "face"]
