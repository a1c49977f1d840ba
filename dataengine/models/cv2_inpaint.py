"""OpenCV's inpainting (Telea 2004), from coarse to fine."""

from __future__ import annotations

import cv2
import numpy as np

from dataengine.models.interfaces import Image, Pixels
from dataengine.weights import Needs

REACH = 16
"""Holes are scaled down until no pixel is farther than this from the rim: beyond it the method draws streaks."""
RADIUS = 4
"""Pixels that the method looks around, at that scale."""


class Cv2Inpainter:
    """Implements `Inpainter`. It continues colours and broad gradients, not texture: large fills are smooth."""

    name = "cv2-telea"
    needs = Needs()
    revision = f"opencv {cv2.__version__}"

    def load(self) -> None:
        """There are no weights."""

    def inpaint(self, image: Image, hole: Pixels) -> Image:
        """The image with the hole filled; all other pixels as they were. A hole without a rim is filled with grey."""
        if not hole.any():
            return image
        if hole.all():
            return np.full_like(image, 128)
        # Outside the frame there is no rim: the border of ones keeps it from counting as one.
        distance = cv2.distanceTransform(hole.astype(np.uint8), cv2.DIST_L2, 5)
        scale = min(1.0, REACH / float(distance.max()))
        height, width = hole.shape
        small_size = (max(1, round(width * scale)), max(1, round(height * scale)))
        # Averages of the known pixels alone: nothing of what is to be removed leaks in at the rim.
        known = (~hole).astype(np.float32)
        weight = cv2.resize(known, small_size, interpolation=cv2.INTER_AREA)
        colours = cv2.resize(image.astype(np.float32) * known[..., None], small_size, interpolation=cv2.INTER_AREA)
        small = (colours / np.maximum(weight, 1e-6)[..., None]).clip(0, 255).astype(np.uint8)
        small_hole = (weight < 0.25).astype(np.uint8)
        filled = cv2.inpaint(small, small_hole, RADIUS, cv2.INPAINT_TELEA) if small_hole.any() else small
        smooth = cv2.resize(filled, (width, height), interpolation=cv2.INTER_CUBIC)
        return np.where(hole[..., None], smooth, image)
