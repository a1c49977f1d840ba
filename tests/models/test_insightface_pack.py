"""Equals the package's own analysis of the same pack, exactly, whatever the image's size and shape; never downloads."""

import socket
from pathlib import Path

import numpy as np
import pytest
from insightface.app import FaceAnalysis

from dataengine.config import InsightFaceSettings
from dataengine.models.insightface_pack import InsightFace, _providers
from dataengine.weights import MissingWeightsError
from tiny.insightface import save_pack

FLOOR = 0.3


@pytest.fixture(scope="module")
def pack(tmp_path_factory) -> Path:
    return save_pack(tmp_path_factory.mktemp("packs") / "buffalo_tiny")


def loaded(folder: Path, side: int = 320, floor: float = FLOOR) -> InsightFace:
    model = InsightFace(InsightFaceSettings(weights=str(folder), side=side, device="cpu"), floor)
    model.load()
    return model


def scene(width: int, height: int, faces: list[tuple[int, int, int]]) -> np.ndarray:
    """Red squares at (x, y, side) on noise, every one with something of its own in it."""
    rng = np.random.default_rng(width * height)
    image = rng.integers(60, 120, (height, width, 3)).astype(np.uint8)
    for number, (x, y, side) in enumerate(faces):
        image[max(0, y) : y + side, max(0, x) : x + side] = (250, 10 + 9 * number, 10)
        image[y + side // 3 : y + side // 2, x + side // 4 : x + side // 2] = (240, 30 * number, 90)
    return image


SCENES = {
    "square": scene(320, 320, [(64, 64, 64)]),
    "wide": scene(641, 363, [(100, 40, 80), (400, 200, 90)]),
    "tall": scene(251, 517, [(30, 300, 70), (120, 60, 60)]),
    "small": scene(97, 61, [(32, 16, 24)]),
    "at the edges": scene(401, 299, [(-20, 100, 70), (340, 250, 70)]),
    "nobody": scene(200, 120, []),
}


@pytest.mark.parametrize("name", SCENES)
@pytest.mark.parametrize("side", [320, 160])
def test_equals_the_packages_own_analysis(name, side, pack) -> None:
    image = SCENES[name]
    height, width = image.shape[:2]
    reference = FaceAnalysis(name=str(pack), providers=["CPUExecutionProvider"])
    reference.prepare(ctx_id=0, det_thresh=FLOOR, det_size=(side, side))
    expected = reference.get(np.ascontiguousarray(image[..., ::-1]))
    (faces,) = loaded(pack, side).detect([image])
    assert bool(faces) == (name != "nobody")
    assert len(faces) == len(expected)
    for face, true in zip(faces, expected, strict=True):
        np.testing.assert_array_equal(face.box, np.clip(true.bbox, 0, [width, height, width, height]))
        assert face.score == true.det_score
        np.testing.assert_array_equal(face.landmarks, true.kps)
        np.testing.assert_allclose(face.embedding, true.normed_embedding, atol=6e-6)
    assert [face.score for face in faces] == sorted((face.score for face in faces), reverse=True)


def test_boxes_lie_around_what_was_drawn(pack) -> None:
    """Not only equal to the package: right. The net's boxes reach 1.5 strides to the left and right of its anchor."""
    image = scene(641, 363, [(100, 40, 80), (400, 200, 90)])
    (faces,) = loaded(pack).detect([image])
    for x, y, side in ((100, 40, 80), (400, 200, 90)):
        middle = x + side / 2, y + side / 2
        assert any(f.box.x0 < middle[0] < f.box.x1 and f.box.y0 < middle[1] < f.box.y1 for f in faces)
    assert all(image[int(f.landmarks[2][1]), int(f.landmarks[2][0]), 0] > 200 for f in faces if f.score > 0.8)


def test_colours_are_not_swapped(pack) -> None:
    """The pack's detector sees red; blue squares are nothing to it."""
    model = loaded(pack)
    assert model.detect([SCENES["square"][..., ::-1]]) == [[]]


def test_embeddings_are_of_unit_length_and_short(pack) -> None:
    (faces,) = loaded(pack).detect([SCENES["wide"]])
    for face in faces:
        assert np.linalg.norm(face.embedding) == pytest.approx(1, abs=1e-3)
        assert face.embedding == tuple(round(value, 5) for value in face.embedding)


def test_faces_of_many_images_share_the_recogniser_and_keep_their_order(pack) -> None:
    model = loaded(pack)
    together = model.detect(list(SCENES.values()))
    alone = [model.detect([image])[0] for image in SCENES.values()]
    for a, b in zip(together, alone, strict=True):
        assert [(f.box, f.score, f.landmarks) for f in a] == [(f.box, f.score, f.landmarks) for f in b]
        for one, other in zip(a, b, strict=True):
            np.testing.assert_allclose(one.embedding, other.embedding, atol=2e-5)


def test_a_recogniser_for_one_face_at_a_time_works_as_well(pack, tmp_path) -> None:
    single = save_pack(tmp_path / "single", batch=1)
    images = list(SCENES.values())
    assert loaded(single).detect(images) == [loaded(single).detect([image])[0] for image in images]
    for a, b in zip(loaded(single).detect(images), loaded(pack).detect(images), strict=True):
        assert [f.box for f in a] == [f.box for f in b]


def test_floor_is_the_least_score(pack) -> None:
    assert loaded(pack, floor=0.999).detect([SCENES["nobody"]]) == [[]]
    assert all(face.score > 0.85 for face in loaded(pack, floor=0.85).detect([SCENES["wide"]])[0])


# --- Weights ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def no_network(monkeypatch) -> None:
    def refuse(*args, **kwargs):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)


def test_a_missing_pack_is_named_and_not_downloaded(no_network, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    model = InsightFace(InsightFaceSettings(weights="buffalo_l"), FLOOR)
    assert model.needs.gpu_gib > 0
    for ask in (lambda: model.revision, model.load):
        with pytest.raises(MissingWeightsError, match=r"buffalo_l.*insightface-cli model\.download buffalo_l"):
            ask()
    assert list(tmp_path.iterdir()) == []


def test_a_pack_that_the_packages_command_downloaded_is_found_by_its_name(no_network, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    save_pack(tmp_path / ".insightface" / "models" / "buffalo_l")
    model = InsightFace(InsightFaceSettings(weights="buffalo_l", side=320, device="cpu"), FLOOR)
    model.load()
    assert len(model.detect([SCENES["square"]])[0]) > 0
    assert model.revision.startswith("buffalo_l#")


@pytest.mark.parametrize(("lacks", "what"), [("det_10g.onnx", "face detector"), ("w600k_r50.onnx", "recognition")])
def test_half_a_pack_is_refused_naming_what_is_missing(lacks, what, tmp_path) -> None:
    folder = save_pack(tmp_path / "half")
    (folder / lacks).unlink()
    with pytest.raises(MissingWeightsError, match=what):
        loaded(folder)


def test_the_revision_pins_weights_and_package(pack, tmp_path) -> None:
    other = save_pack(tmp_path / "buffalo_tiny", seed=1)
    revisions = {InsightFace(InsightFaceSettings(weights=str(p)), FLOOR).revision for p in (pack, other)}
    assert len(revisions) == 2
    assert all(r.startswith("buffalo_tiny#") and " insightface 2." in r for r in revisions)


def test_a_gpu_that_onnxruntime_cannot_use_is_refused() -> None:
    cpu, both = ["CPUExecutionProvider"], ["CUDAExecutionProvider", "CPUExecutionProvider"]
    assert _providers("auto", cpu) == _providers("cpu", both) == cpu
    assert _providers("auto", both) == _providers("cuda", both) == both
    with pytest.raises(RuntimeError, match="onnxruntime-gpu"):
        _providers("cuda", cpu)


def test_must_be_loaded(pack) -> None:
    with pytest.raises(RuntimeError, match="load"):
        InsightFace(InsightFaceSettings(weights=str(pack)), FLOOR).detect([])
