"""Targets are what the adapter reads as true faces, the file is the network, and the checkpoint sees faces."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import onnx
import torch

from dataengine.config import CenterFaceSettings
from dataengine.models.centerface import OUTPUTS, CenterFace, decode
from dataengine.records import Box
from dataengine.world.figure import Part, label
from dataengine.world.script import HEIGHT, WIDTH
from dataengine.world.training import CHECKPOINTS, centerface
from dataengine.world.training.centerface import CLEAR, SIZE, Network, exported, faces, iou, restored, targets
from dataengine.world.training.examples import HELD_OUT, TRAINING, example
from dataengine.world.training.log import read_log


def test_targets_are_read_as_the_faces_that_are_there() -> None:
    for index in range(10):
        found = [face for face in faces(example(TRAINING, index)) if face.pixels >= CLEAR]
        true = targets([found])
        maps = np.zeros((14, SIZE[0] // 4, SIZE[1] // 4), np.float32)
        maps[:, true.row, true.column] = true.maps.T.numpy()
        heat = true.heat[0].numpy() * (true.heat[0].numpy() == 1)
        read = decode(heat, maps[:2], maps[2:4], maps[4:], 0.5, np.ones(2), (WIDTH, HEIGHT))
        assert len(read) == len(found)
        for face in found:
            box = Box(*face.box.tolist())
            best = max(read, key=lambda one: iou(one.box, box))
            assert iou(best.box, box) > 0.99
            np.testing.assert_allclose(best.landmarks, face.landmarks, atol=0.01)


def test_landmarks_are_on_eyes_and_lips() -> None:
    seen = 0
    for index in range(12):
        one = example(HELD_OUT, index)
        for face in faces(one):
            x, y = face.landmarks.astype(int).T
            if x.min() < 0 or x.max() >= WIDTH:
                continue
            shown = one.labels[y, x].tolist()
            eyes = {label(person, Part.EYES) for person in range(3)}
            seen += 1
            assert set(shown[:2]) <= eyes or face.pixels < 600
    assert seen > 15


def test_small_and_hidden_faces_are_neither_right_nor_wrong() -> None:
    face = next(faces(example(TRAINING, 0)))
    hidden = centerface.Face(0, 50, face.box, face.landmarks)
    true = targets([[hidden]])
    assert true.heat.max() == 0
    x, y = ((face.box[:2] + face.box[2:]) / 8).astype(int)
    assert true.counts[0, y, x] == 0
    assert true.counts.mean() > 0.9
    assert len(true.maps) == 0


def test_the_file_is_the_network(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Network()
    network(torch.rand(4, 3, 64, 64) * 255)  # batch norms that do something
    network.eval()
    onnx.save(exported(network), tmp_path / "x.onnx")
    net = cv2.dnn.readNetFromONNX(str(tmp_path / "x.onnx"))
    for size in (SIZE, (64, 320)):
        image = np.random.default_rng(0).integers(0, 255, (*size, 3)).astype(np.uint8)
        net.setInput(cv2.dnn.blobFromImage(image))
        with torch.no_grad():
            maps = network(torch.from_numpy(image).permute(2, 0, 1)[None].float())
        expected = (maps[:, :1].sigmoid(), maps[:, 1:3], maps[:, 3:5], maps[:, 5:])
        for got, want in zip(net.forward(OUTPUTS), expected, strict=True):
            np.testing.assert_allclose(got, want.numpy(), atol=1e-4)


def test_a_file_is_read_back_as_the_network(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network, images = Network(), torch.rand(2, 3, 64, 96) * 255
    network(images)
    onnx.save(exported(network.eval()), tmp_path / "x.onnx")
    with torch.no_grad():
        torch.testing.assert_close(restored(tmp_path / "x.onnx")(images), network(images), atol=1e-4, rtol=1e-4)


def test_a_few_steps_lower_the_loss_and_the_adapter_runs_what_they_leave(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(centerface, "HELD_OUT_EXAMPLES", 2)
    monkeypatch.setattr(centerface, "IMAGES", 4)
    monkeypatch.setattr(centerface, "POOL", 8)
    told: list[str] = []
    log = centerface.train(tmp_path, steps=20, say=told.append)
    assert read_log(tmp_path) == log
    losses = [point.loss for point in log.curve]
    assert sum(losses[-4:]) < 0.8 * sum(losses[:4])
    assert len(told) == 20
    model = CenterFace(0.01, CenterFaceSettings(weights=str(tmp_path / centerface.FILE)))
    model.load()
    assert model.detect([example(HELD_OUT, 0).image])[0]


def test_the_committed_checkpoint_finds_drawn_faces() -> None:
    figures = centerface.held_out(CHECKPOINTS / "centerface", range(1000, 1040))
    found, false, boxes, _, marks = (figure.value for figure in figures)
    assert found >= 0.97
    assert false <= 0.05
    assert boxes >= 0.8
    assert marks <= 0.05
