"""How well a face is seen: turned to the camera or away, whole or cut off and covered, sharp or blurred."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from dataengine.measure.tracks import crop
from dataengine.models.face_regions import face_unit
from dataengine.models.interfaces import Image
from dataengine.records import Box

NOSE_DEPTH = 0.85
"""How far the tip of the nose stands before the eyes, over half the distance between these: 27 over 31.5 mm."""

ASPECT = 0.78
"""Width over height of a face box, between detectors' habits (CenterFace: 0.74 and 0.89 on the two portraits)."""
AT_EDGE = 0.05
"""A box that ends nearer to the frame's edge than this share of its size is cut off there: detectors end boxes in the
frame, a pixel or two before its edge."""

GRID = (48, 64)
"""Columns and rows at which a face is looked at, whatever its size."""
FACE = 0.9
"""The ellipse of the face inside its box: the corners, and a little hair at the sides, are left out."""
CHROMA = 12.0
"""Distance in CIELAB's a and b (8 bits) from the face's own skin beyond which a pixel is something else …"""
LIGHT = 60.0
"""… or in L, which differs more over a face: one side lies in the shade."""
FEATURE = 9
"""Eyes, brows and lips are thinner than this many cells of the grid and belong to a face; what is thicker covers it."""
LEAST_SKIN = 0.1
"""Share of the ellipse that must look like anybody's skin for that to be the model of this face's."""


def frontal(landmarks: Sequence[tuple[float, float]]) -> float | None:
    """1 for a face that looks straight ahead, 0 in profile, by where the nose stands between the eyes.

    The nose's tip is nearer to the camera than the eyes, so turning the head moves it off their middle: the score falls
    evenly with the angle (1 - angle / 90°). Tilting and nodding change little: all is measured across the line from
    the middle of the eyes to that of the mouth. None without landmarks.
    """
    if len(landmarks) < 5:
        return None
    left, right, nose, mouth_left, mouth_right = (np.array(point, float) for point in landmarks[:5])
    eyes = (left + right) / 2
    down = (mouth_left + mouth_right) / 2 - eyes
    across = np.array([down[1], -down[0]])
    aside, apart = abs(float((nose - eyes) @ across)), abs(float((right - left) @ across))
    if aside == apart == 0:
        return 0.0
    return round(1 - float(np.degrees(np.arctan2(aside / NOSE_DEPTH, apart / 2))) / 90, 4)


def whole_face(face: Box, width: int, height: int) -> Box:
    """The face as large as it would be were it not cut off by the edges of an image of that size.

    What is cut off is inferred from the other side's length; a face cut at a corner comes out too small.
    """
    margin_x, margin_y = AT_EDGE * face.width, AT_EDGE * face.height
    wide, high = max(0.0, ASPECT * face.height - face.width), max(0.0, face.width / ASPECT - face.height)
    return Box(
        face.x0 - wide if face.x0 <= margin_x else face.x0,
        face.y0 - high if face.y0 <= margin_y else face.y0,
        face.x1 + wide if face.x0 > margin_x and face.x1 >= width - margin_x else face.x1,
        face.y1 + high if face.y0 > margin_y and face.y1 >= height - margin_y else face.y1,
    )


def visible(image: Image, face: Box, others: Sequence[Box]) -> float:
    """Share of the face's ellipse that is in the frame, not behind a nearer face, and looks like the face's own skin.

    Things as small as eyes and lips are no cover. A hand of the same colour isn't told from the face; a full beard is.
    """
    height, width = image.shape[:2]
    whole = whole_face(face, width, height)
    columns, rows = GRID
    x, y = np.meshgrid(
        whole.x0 + (np.arange(columns) + 0.5) / columns * whole.width,
        whole.y0 + (np.arange(rows) + 0.5) / rows * whole.height,
    )
    ellipse = _in_ellipse(whole, x, y)
    shown = ellipse & (x >= 0) & (x < width) & (y >= 0) & (y < height)
    for other in others:
        if face_unit(other) > face_unit(face):  # the larger face is the nearer one
            shown &= ~_in_ellipse(other, x, y)
    if not shown.any():
        return 0.0
    scale = np.array([columns / whole.width, rows / whole.height])
    # Scaled by area, so that a large face's texture averages out; then laid where the whole face has it.
    inside = whole.clipped(width, height)
    part = crop(image, inside)
    size = np.maximum(1, np.round([part.shape[1] * scale[0], part.shape[0] * scale[1]])).astype(int)
    small = cv2.resize(part, size.tolist(), interpolation=cv2.INTER_AREA)
    grid = cv2.copyMakeBorder(small, 0, rows, 0, columns, cv2.BORDER_REPLICATE)
    left, top = np.round((np.array([inside.x0, inside.y0]) - [whole.x0, whole.y0]) * scale).astype(int)
    grid = cv2.copyMakeBorder(grid, int(top), 0, int(left), 0, cv2.BORDER_REPLICATE)[:rows, :columns]
    return round(float((shown & ~_something_else(grid, shown)).sum() / ellipse.sum()), 4)


def sharpness(image: Image, face: Box) -> float:
    """Variance of the Laplacian over the face."""
    grey = cv2.cvtColor(crop(image, face), cv2.COLOR_RGB2GRAY)
    return float(cv2.Laplacian(grey, cv2.CV_64F).var())


def _in_ellipse(box: Box, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    across = (x - (box.x0 + box.x1) / 2) / (FACE * box.width / 2)
    down = (y - (box.y0 + box.y1) / 2) / (FACE * box.height / 2)
    return across**2 + down**2 < 1


def _something_else(grid: Image, shown: np.ndarray) -> np.ndarray:
    """Where a face, scaled to the grid, is covered by something of another colour than its skin."""
    smooth = cv2.GaussianBlur(grid, (0, 0), 1)
    lab = cv2.cvtColor(smooth, cv2.COLOR_RGB2LAB).astype(float)
    luma, cr, cb = cv2.split(cv2.cvtColor(smooth, cv2.COLOR_RGB2YCrCb))
    # Skin of all people is within these bounds under daylight and lamps (Chai and Ngan 1999, widened).
    skin = shown & (luma > 40) & (cr >= 133) & (cr <= 180) & (cb >= 77) & (cb <= 130)
    if skin.sum() < LEAST_SKIN * shown.sum():  # a grey or tinted picture: what most of the face looks like
        skin = shown
    own = np.median(lab[skin], axis=0)
    other = (np.hypot(*np.moveaxis(lab[..., 1:] - own[1:], 2, 0)) > CHROMA) | (np.abs(lab[..., 0] - own[0]) > LIGHT)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (FEATURE, FEATURE))
    thick = cv2.morphologyEx((other & shown).astype(np.uint8), cv2.MORPH_OPEN, kernel, borderValue=0)
    return thick > 0
