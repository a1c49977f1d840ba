"""LaMa (Suvorov et al. 2022, arXiv:2109.07161): large holes filled by a network of Fourier convolutions, as ONNX.

The authors publish a pickle that needs their training code, and others a TorchScript archive, which is a program: it
runs what it holds when it is loaded. An ONNX file is a graph of known operators, and onnxruntime loads nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib import metadata
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataengine.config import LamaSettings
from dataengine.models.hole_patch import Canvas, Patch
from dataengine.models.interfaces import Image, Pixels
from dataengine.models.onnx_session import open_session
from dataengine.models.placement import takes_gpu
from dataengine.weights import Needs, Weights

MULTIPLE = 8
"""Where a file takes any size: three times halved."""
LONGEST = 1024
FILE = "lama_fp32.onnx"
"""In a folder or repository."""
GPU_GIB = 2.0
"""51 million weights in float32 are 0.2 GiB; the rest is onnxruntime's arena at 1024 × 1024 and CUDA (estimated)."""
_NUMBERS: dict[str, type[np.floating]] = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


@dataclass(frozen=True)
class _Graph:
    """A file that was understood."""

    session: Any
    image: str
    mask: str
    numbers: type[np.floating]
    canvas: Canvas
    white: float = 1.0
    """What stands for 255 in its answers."""

    @classmethod
    def of(cls, session: Any, name: str) -> _Graph:
        """Raises `ValueError` for a file that is no image and mask in, image out."""
        inputs = {i.shape[1]: i for i in session.get_inputs() if len(i.shape) == 4}
        if set(inputs) != {1, 3} or len(session.get_inputs()) != 2 or len(session.get_outputs()) != 1:
            found = ", ".join(f"{i.name} {i.shape}" for i in session.get_inputs())
            raise ValueError(f"{name}: expected an image (N, 3, H, W) and a mask (N, 1, H, W), found {found}")
        image, mask = inputs[3], inputs[1]
        height, width = image.shape[2:]
        free = not (isinstance(height, int) and isinstance(width, int))
        canvas = Canvas(MULTIPLE, LONGEST, None if free else (width, height))
        return cls(session, image.name, mask.name, _NUMBERS[image.type], canvas)

    def fill(self, image: Image, hole: Pixels) -> NDArray[np.float32]:
        """The picture (H, W, 3) in the numbers that the file answers with."""
        given = {
            self.image: (image.astype(np.float32) / 255).transpose(2, 0, 1)[None].astype(self.numbers),
            self.mask: hole[None, None].astype(self.numbers),
        }
        return self.session.run(None, given)[0][0].transpose(1, 2, 0).astype(np.float32)


class Lama:
    """Implements `Inpainter`. The file takes an image (0…1, RGB) and a mask (1: to be filled), and gives the image.

    Its height and width are fixed or free, as the file says. Exports differ in whether white is 1 or 255 in their
    answers; a grey picture shows which.
    """

    name = "lama"

    def __init__(self, settings: LamaSettings) -> None:
        self._settings = settings
        self._weights = Weights(settings.weights, settings.revision, (FILE,))
        self.needs = Needs((self._weights,), gpu_gib=GPU_GIB if takes_gpu(settings) else 0.0)
        self._graph: _Graph | None = None

    @property
    def revision(self) -> str:
        return f"{self._weights.identity()}, onnxruntime {metadata.version('onnxruntime')}"

    def load(self) -> None:
        """Raises `MissingWeightsError`, or `ValueError` for a file of another kind."""
        file = self._weights.locate()
        file = file / FILE if file.is_dir() else file
        graph = _Graph.of(open_session(file, self._settings), str(file))
        width, height = graph.canvas.fixed or (64, 64)
        grey = graph.fill(np.full((height, width, 3), 128, np.uint8), np.zeros((height, width), bool))
        self._graph = replace(graph, white=255 if grey.mean() > 2 else 1)

    def inpaint(self, image: Image, hole: Pixels) -> Image:
        assert self._graph is not None, "load() first"
        if not hole.any():
            return image
        patch = Patch.of(image, hole, self._graph.canvas)
        answer = self._graph.fill(patch.image, patch.hole) * (255 / self._graph.white)
        return patch.into(image, hole, answer.round().clip(0, 255).astype(np.uint8))
