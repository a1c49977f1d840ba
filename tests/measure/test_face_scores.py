"""Scores of a face fall with what was done to it: turned, cut off, covered."""

from pathlib import Path

import cv2
import matplotlib
import numpy as np
import pytest
import skimage.data
from PIL import Image

from dataengine.measure.face_scores import frontal, visible, whole_face
from dataengine.models.centerface import CenterFace
from dataengine.models.interfaces import DetectedFace
from dataengine.records import Box

HEAD = np.array([(-31.5, -30, 0), (31.5, -30, 0), (0, 5, 27), (-25, 35, 5), (25, 35, 5)], float)
"""Eyes, nose and mouth corners of a head in mm: right, down, towards the camera."""


def seen(
    yaw: float, roll: float = 0.0, pitch: float = 0.0, scale: float = 1.0, from_above: bool = False
) -> list[tuple[float, float]]:
    """The landmarks of the head, turned by degrees aside, in the image plane and down, far from the camera.

    `from_above`: it is the camera that looks down by `pitch`, not the head.
    """
    y, r, p = np.radians([yaw, roll, pitch])
    turn = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    nod = np.array([[1, 0, 0], [0, np.cos(p), -np.sin(p)], [0, np.sin(p), np.cos(p)]])
    lean = np.array([[np.cos(r), -np.sin(r), 0], [np.sin(r), np.cos(r), 0], [0, 0, 1]])
    pose = nod @ turn if from_above else turn @ nod
    points = (lean @ pose @ HEAD.T).T[:, :2] * scale + (200, 150)
    return [(float(x), float(y)) for x, y in points]


# --- Frontal ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("roll", [-40, 0, 25])
@pytest.mark.parametrize("yaw", [-85, -60, -30, 0, 20, 45, 75])
def test_frontal_falls_with_the_angle_whatever_the_tilt_and_size(yaw, roll) -> None:
    for scale in (0.2, 3):
        assert frontal(seen(yaw, roll, scale=scale)) == pytest.approx(1 - abs(yaw) / 90, abs=0.05)


@pytest.mark.parametrize("from_above", [False, True])
@pytest.mark.parametrize("pitch", [-20, 20])
def test_a_nod_is_not_a_turn(pitch, from_above) -> None:
    assert frontal(seen(0, pitch=pitch, from_above=from_above)) > 0.98
    assert frontal(seen(50, pitch=pitch, from_above=from_above)) == pytest.approx(1 - 50 / 90, abs=0.15)


def test_profiles_and_missing_landmarks() -> None:
    assert frontal(()) is None
    assert frontal([(10, 10), (10, 10), (30, 20), (10, 30), (10, 30)]) == 0
    assert frontal([(10, 10), (11, 10), (30, 20), (12, 30), (13, 30)]) < 0.1
    assert frontal([(10, 10)] * 5) == 0


# --- The two portraits ------------------------------------------------------------------------------------------------


def load(name: str) -> np.ndarray:
    if name == "collins":
        return skimage.data.astronaut()
    return np.asarray(Image.open(Path(matplotlib.get_data_path(), "sample_data", "grace_hopper.jpg")).convert("RGB"))


@pytest.fixture(scope="module")
def detect():
    model = CenterFace(floor=0.3)
    model.load()
    return lambda image: model.detect([np.ascontiguousarray(image)])[0]


@pytest.fixture(scope="module", params=["collins", "hopper"])
def someone(request, detect) -> tuple[np.ndarray, DetectedFace]:
    image = load(request.param)
    return image, detect(image)[0]


def test_portraits_are_frontal_and_whole(someone, detect) -> None:
    image, face = someone
    assert frontal(face.landmarks) > 0.9
    assert visible(image, face.box, ()) > 0.95
    mirrored = np.ascontiguousarray(image[:, ::-1])
    assert frontal(detect(mirrored)[0].landmarks) == pytest.approx(frontal(face.landmarks), abs=0.08)


@pytest.mark.parametrize("factor", [0.06, 0.2, 0.5, 2.0])
def test_size_and_light_do_not_make_a_face_less_visible(factor, someone) -> None:
    image, face = someone
    scaled = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    assert visible(scaled, Box(*(v * factor for v in face.box)), ()) > 0.95
    for light in (0.35, 0.7, 1.2):
        assert visible(cv2.convertScaleAbs(image, alpha=light), face.box, ()) > 0.9
    grey = np.dstack([cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)] * 3)
    assert visible(grey, face.box, ()) > 0.9


COVERS = {
    "bar over the eyes": ((-0.1, 0.28, 1.1, 0.45), (0, 0, 0), 0.78),
    "black mask": ((-0.1, 0.55, 1.1, 1.1), (0, 0, 0), 0.57),
    "blue mask": ((-0.1, 0.55, 1.1, 1.1), (120, 160, 220), 0.57),
    "white mask": ((-0.1, 0.55, 1.1, 1.1), (235, 235, 235), 0.57),
    "door at one half": ((-0.1, -0.1, 0.5, 1.1), (128, 128, 128), 0.5),
    "all of it": ((-0.5, -0.5, 1.5, 1.5), (40, 60, 40), 0.0),
}


@pytest.mark.parametrize("name", [n for n in COVERS if n != "all of it"])
def test_what_is_covered_is_not_visible(name, someone) -> None:
    image, face = someone
    (u0, v0, u1, v1), colour, share = COVERS[name]
    covered, box = image.copy(), face.box
    corners = [(int(box.x0 + u * box.width), int(box.y0 + v * box.height)) for u, v in ((u0, v0), (u1, v1))]
    cv2.rectangle(covered, *corners, colour, -1)
    assert visible(covered, box, ()) == pytest.approx(share, abs=0.06)


def test_a_glove_is_a_cover_and_a_bare_hand_of_the_same_colour_is_not_told(someone) -> None:
    """The limit of going by colour, written down: only what differs from the face's own skin is seen."""
    image, face = someone
    box = face.box
    middle = image[int(box.y0 + 0.4 * box.height) : int(box.y1), int(box.x0) : int(box.x1)][:, 20:-20]
    own = np.median(middle.reshape(-1, 3), axis=0)
    shares = []
    for colour in ((30, 60, 40), tuple(int(c) for c in own)):
        held, fist = image.copy(), (int(box.x0 + 0.5 * box.width), int(box.y0 + 0.8 * box.height))
        cv2.circle(held, fist, int(0.3 * box.width), colour, -1)
        shares.append(visible(held, box, ()))
    assert shares[0] < 0.85 and shares[1] > 0.9


@pytest.mark.parametrize("side", ["left", "right", "top", "bottom"])
@pytest.mark.parametrize("cut", [0.25, 0.4, 0.5])
def test_a_face_that_the_frame_cuts_is_visible_in_part(side, cut, someone, detect) -> None:
    """By the box that the detector gives for it, which ends at the frame's edge."""
    image, face = someone
    box, (height, width) = face.box, image.shape[:2]
    x0, y0, x1, y1 = 0, 0, width, height
    if side == "left":
        x0 = int(box.x0 + cut * box.width)
    elif side == "right":
        x1 = int(box.x1 - cut * box.width)
    elif side == "top":
        y0 = int(box.y0 + cut * box.height)
    else:
        y1 = int(box.y1 - cut * box.height)
    part = np.ascontiguousarray(image[y0:y1, x0:x1])
    true = Box(box.x0 - x0, box.y0 - y0, box.x1 - x0, box.y1 - y0).clipped(part.shape[1], part.shape[0])
    assert visible(part, true, ()) == pytest.approx(1 - cut, abs=0.2)
    (found, *_) = detect(part)
    if cut == 0.5:
        assert visible(part, found.box, ()) < 0.7


def test_the_whole_face_reaches_beyond_the_edges() -> None:
    assert whole_face(Box(100, 100, 178, 200), 640, 360) == (100, 100, 178, 200)
    assert whole_face(Box(0, 100, 40, 200), 640, 360) == pytest.approx((-38, 100, 40, 200))
    assert whole_face(Box(602, 100, 640, 200), 640, 360) == pytest.approx((602, 100, 680, 200))
    assert whole_face(Box(100, 0, 178, 60), 640, 360) == pytest.approx((100, -40, 178, 60))
    assert whole_face(Box(100, 300, 178, 360), 640, 360) == pytest.approx((100, 300, 178, 400))


def test_the_nearer_face_hides_the_farther_one() -> None:
    """Two ellipses of one colour: only the larger face, which is nearer, can cover the other."""
    image = np.full((300, 400, 3), (200, 150, 130), np.uint8)
    far, near, beside = Box(100, 100, 160, 180), Box(130, 80, 230, 210), Box(300, 100, 400, 230)
    assert visible(image, far, (near,)) < 0.75
    assert visible(image, near, (far,)) == visible(image, far, (beside,)) == 1
