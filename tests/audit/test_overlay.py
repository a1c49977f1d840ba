from __future__ import annotations

import numpy as np
from scipy import ndimage

from dataengine.audit import overlay
from dataengine.audit.lettering import Style
from dataengine.audit.palette import SUBJECTS, colour_of
from dataengine.audit.scene import Scene
from dataengine.records import Box


def test_each_mask_is_tinted_in_its_owners_colour(scenes: list[Scene]) -> None:
    scene = scenes[0]
    plain = scene.stills[1].astype(float)
    drawn = np.asarray(overlay.annotated(scene, 1, scene.pair.width, label_size=None), float)
    for subject, attribute in ((0, "s0.a0"), (1, "s1.a0")):
        # Well inside of the mask, away from every other drawing.
        others = [scene.masks[e] for e in scene.masks if e != attribute and not e.endswith("body")]
        inside = ndimage.binary_erosion(scene.masks[attribute], iterations=8) & ~np.any(others, axis=0)
        expected = plain[inside] * 0.7 + np.array(SUBJECTS[subject].rgb) * 0.3
        assert np.abs(drawn[inside] - expected).mean() < 4
    # Outside of everything the frame is untouched.
    drawing = np.any(list(scene.masks.values()), axis=0)
    for subject in scene.pair.subjects:
        x0, y0, x1, y1 = (round(v) for v in subject.face.box)
        drawing[y0:y1, x0:x1] = True
    outside = ~ndimage.binary_dilation(drawing, iterations=10)
    assert np.abs(drawn[outside] - plain[outside]).max() <= 1


def test_a_face_stands_in_a_box_of_its_colour(scenes: list[Scene]) -> None:
    scene = scenes[0]
    drawn = np.asarray(overlay.annotated(scene, 1, scene.pair.width, label_size=None), int)
    box = scene.pair.subjects[1].face.box
    edge = drawn[round((box.y0 + box.y1) / 2), round(box.x0) : round(box.x0) + 2]
    assert np.abs(edge - np.array(SUBJECTS[1].rgb)).max() < 30


def test_labels_keep_inside_the_frame_apart_and_off_the_faces(scenes: list[Scene]) -> None:
    for scene in scenes:
        still = overlay.main_still(scene)
        placed = overlay.labels(scene, still, 640, Style(15, "bold"))
        named = {label.entity for label in placed}
        assert named == {r.entity for r in overlay.at_still(scene, still) if r.kind != "body"}
        frame = Box(0, 0, 640, 640 * scene.pair.height / scene.pair.width)
        for i, label in enumerate(placed):
            assert label.chip.intersection(frame).area == label.chip.area
            assert all(label.chip.intersection(other.chip).area == 0 for other in placed[:i])
            for subject in scene.pair.subjects:
                assert label.chip.intersection(subject.face.box).area < 0.1 * label.chip.area


def test_the_main_still_is_the_one_most_references_come_from(scenes: list[Scene]) -> None:
    assert [overlay.main_still(scene) for scene in scenes] == [1, 1, 2]


def test_parts_wear_the_colour_of_their_subject() -> None:
    assert colour_of("s1.a2") is colour_of("s1.face") is SUBJECTS[1]
    assert colour_of("s4.face") is SUBJECTS[0]
    assert len({colour_of(e).fill for e in ("s0.a0", "s1.a0", "s2.a0", "s3.a0", "o3", "bg")}) == 6
