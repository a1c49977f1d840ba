"""Reference pictures: of the clip, none twice, none copied, and nobody left in the background."""

from __future__ import annotations

import numpy as np
import pytest

from audit_samples import png, sample
from dataengine.audit.checks import pictures
from dataengine.audit.repairs import changed
from dataengine.audit.scene import Scene
from dataengine.records import Box, Clip, Origin


def with_face(scene: Scene, **changes: object) -> Scene:
    first = scene.pair.subjects[0]
    subject = first.model_copy(update={"face": first.face.model_copy(update=changes)})
    return Scene(scene.pair.model_copy(update={"subjects": (subject, *scene.pair.subjects[1:])}), scene.members)


def test_references_are_of_the_clip(clean, found) -> None:
    assert found(pictures.reference_from_clip, clean) == {}  # nobody allowed to decode it
    findings = found(pictures.reference_from_clip, clean, frames=True)
    assert set(findings) == {r.entity for r in clean.pair.references} - {"bg"}
    assert all(f.passed for f in findings.values())
    assert max(f.score for f in findings.values()) < 8


@pytest.mark.parametrize("fault", ["stranger", "shifted", "size"])
def test_a_face_that_is_not_of_the_clip(clean, found, fault: str) -> None:
    face = clean.pair.subjects[0].face
    if fault == "stranger":
        other = sample(77, 1)
        picture = np.asarray(other.image(other.pair.subjects[0].face).resize(clean.image(face).size))
    elif fault == "shifted":
        x0, y0, x1, y1 = (int(v) for v in face.box)
        picture = clean.stills[1][y0 + 20 : y1 + 20, x0:x1]
    else:
        picture = np.asarray(clean.image(face))[5:]
    findings = found(
        pictures.reference_from_clip, Scene(clean.pair, clean.members | {face.member: png(picture)}), frames=True
    )
    assert {entity for entity, f in findings.items() if not f.passed} == {"s0.face"}


def crossed(scene: Scene, picture: np.ndarray) -> Scene:
    """The sample as a cross-clip pair, the first face `picture` of another clip."""
    origin = Origin(clip=Clip.of("other", 0, 1), width=800, height=600, entity="s0.face", similarity=0.6)
    other = with_face(scene, origin=origin, box=Box(0, 0, picture.shape[1], picture.shape[0]))
    pair = other.pair.model_copy(update={"pairing": "cross_clip"})
    return Scene(pair, scene.members | {scene.pair.subjects[0].face.member: png(picture)})


def test_a_cross_clip_reference_that_is_in_the_clip(clean, found) -> None:
    face = clean.pair.subjects[0].face
    copy = crossed(clean, np.asarray(clean.image(face)))
    assert found(pictures.not_copied, clean, frames=True) == {}
    assert not found(pictures.not_copied, copy, frames=True)["s0.face"].passed
    stranger = sample(77, 1)
    other = crossed(clean, np.asarray(stranger.image(stranger.pair.subjects[0].face)))
    assert found(pictures.not_copied, other, frames=True)["s0.face"].passed
    # It is compared with no frame of the sample's own clip as if it had been cut there.
    assert "s0.face" not in found(pictures.reference_from_clip, other, frames=True)


def test_a_cross_clip_cut_out_that_is_in_the_clip(clean, found) -> None:
    """Only its pixels count, not the white around them."""
    attribute = clean.pair.subjects[0].attributes[0]
    origin = Origin(clip=Clip.of("other", 0, 1), width=640, height=360, entity="s0.a0", similarity=0.6)
    subject = changed(clean.pair.subjects[0], attributes=(changed(attribute, origin=origin),))
    scene = Scene(clean.pair.model_copy(update={"subjects": (subject, *clean.pair.subjects[1:])}), clean.members)
    assert not found(pictures.not_copied, scene, frames=True)["s0.a0"].passed


def test_one_picture_for_two_attributes(found) -> None:
    scene = next(s for s in (sample(n, 2) for n in range(30)) if len(s.pair.subjects[0].attributes) > 1)
    first, second = scene.pair.subjects[0].attributes[:2]
    twice = Scene(scene.pair, scene.members | {second.member: scene.members[first.member]})
    box = second.model_copy(update={"box": first.box})
    subject = scene.pair.subjects[0].model_copy(update={"attributes": (first, box)})
    twice = Scene(scene.pair.model_copy(update={"subjects": (subject, scene.pair.subjects[1])}), twice.members)
    findings = found(pictures.references_differ, twice)
    assert not findings[first.entity].passed
    assert second.entity in findings[first.entity].reason
    assert all(f.passed for f in found(pictures.references_differ, scene).values())


def test_people_left_in_the_background(clean, found) -> None:
    assert found(pictures.background_empty, clean)["bg"].passed
    left = Scene(clean.pair, clean.members | {"bg.png": png(clean.stills[1])})
    finding = found(pictures.background_empty, left)["bg"]
    assert not finding.passed
    assert finding.score > 0.9


def test_a_flat_background_says_nothing(clean, found) -> None:
    flat = Scene(clean.pair, clean.members | {"bg.png": png(np.full((360, 640, 3), 90, np.uint8))})
    assert found(pictures.background_empty, flat)["bg"].score == 0
