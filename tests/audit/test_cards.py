from __future__ import annotations

import base64
import io
import re

import cv2
import numpy as np
from PIL import Image

from dataengine.audit.cards import card, svg_path
from dataengine.audit.checks import CheckLimits, check_sample
from dataengine.audit.scene import Scene


def _rasterised(path: str, shape: tuple[int, int]) -> np.ndarray:
    parts = [np.array(re.findall(r"(\d+) (\d+)", part), np.int32) for part in path.split("Z") if part]
    return cv2.fillPoly(np.zeros(shape, np.uint8), parts, 1).astype(bool)


def test_an_outline_is_its_mask(scenes: list[Scene]) -> None:
    for mask in scenes[0].masks.values():
        drawn = _rasterised(svg_path(mask), mask.shape)
        assert (drawn & mask).sum() / (drawn | mask).sum() > 0.94


def test_a_hole_stays_a_hole() -> None:
    mask = np.zeros((100, 120), bool)
    mask[10:90, 10:110] = True
    mask[30:70, 40:80] = False
    drawn = _rasterised(svg_path(mask), mask.shape)
    assert not drawn[50, 60]
    assert drawn[20, 20]
    assert svg_path(np.zeros((10, 10), bool)) == ""


def test_a_card_shows_who_owns_what(scenes: list[Scene]) -> None:
    scene = scenes[0]
    made = card(scene, check_sample(scene, CheckLimits()))
    assert made.problem is None
    assert [group.title for group in made.subjects] == ["woman", "older woman"]
    words = [thumb.words for thumb in made.subjects[1].thumbs]
    assert words == ["face", "dark uniform", "officer's cap", "glasses", "whole body"]
    assert made.matrix is not None
    for _, _, owner, shares in made.matrix.rows:
        assert shares[owner] == 1
        assert shares[1 - owner] == 0
    main = made.stills[0]
    assert {outline.entity for outline in main.outlines} == set(scene.masks) | {"s0.face", "s1.face"}
    picture = Image.open(io.BytesIO(base64.b64decode(main.picture.removeprefix("data:image/webp;base64,"))))
    assert picture.size == (640, 360)


def test_a_damaged_sample_still_has_a_card(scenes: list[Scene]) -> None:
    scene = scenes[0]
    broken = Scene(scene.pair, {**scene.members, "s0.face.png": b"not a picture", "mp4": scene.members["mp4"][:300]})
    made = card(broken, ())
    assert made.problem is not None
    assert "mp4" in made.problem
    face = made.subjects[0].thumbs[0]
    assert face.picture is None
    assert "s0.face.png" in face.note
    assert made.subjects[0].thumbs[1].picture is not None
