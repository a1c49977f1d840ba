"""InsightFace's model packs: SCRFD finds faces (Guo et al. 2022, arXiv:2105.04714), ArcFace says who it is
(Deng et al. 2019, arXiv:1801.07698).

A pack is a folder with a detector and a recogniser as .onnx files, as `insightface-cli model.download buffalo_l` leaves
it under ~/.insightface/models. The package (MIT) reads and runs it, pre- and post-processing included. Nothing is
downloaded here: the package would only do that for a name that is no folder, and it is always given a folder.

**Licence.** The public packs (buffalo_l, buffalo_s, antelopev2, …) are for non-commercial research only, says their
publisher, InsightFace. For anything else, license them there or bring a pack of your own.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from dataengine.config import InsightFaceSettings
from dataengine.models.interfaces import DetectedFace, Image
from dataengine.records import Box
from dataengine.weights import MissingWeightsError, Needs, Weights

FACES = 64
"""Faces in one pass of the recogniser."""
DIGITS = 5
"""Of an embedding's values: errors of 1e-5 in 512 of them change a cosine by less than 1e-4."""
GPU_GIB = 1.5
"""Both networks of buffalo_l with onnxruntime's arena."""


class InsightFace:
    """Implements `FaceDetector`. Faces that score less than `floor` are not reported."""

    name = "insightface"

    def __init__(self, settings: InsightFaceSettings, floor: float) -> None:
        self._settings = settings
        self._floor = floor
        advice = _advice(Path(settings.weights))
        self._weights = Weights(_folder(settings.weights), settings.revision, ("*.onnx",), advice)
        self.needs = Needs((self._weights,), (), 0.0 if settings.device == "cpu" else GPU_GIB)
        self._analysis: Any = None

    @property
    def revision(self) -> str:
        return f"{self._weights.identity()} insightface {metadata.version('insightface')}"

    def load(self) -> None:
        """Raises `MissingWeightsError` when the folder or one of its networks is missing, and `RuntimeError` when a GPU
        was asked for and onnxruntime has none.
        """
        folder = self._weights.locate()
        import onnxruntime
        from insightface.app import FaceAnalysis

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1  # workers share the machine, not threads
        tasks = ["detection", "recognition"]
        providers = _providers(self._settings.device, onnxruntime.get_available_providers())
        try:
            analysis = FaceAnalysis(name=str(folder), allowed_modules=tasks, providers=providers, sess_options=options)
        except AssertionError as error:  # what the package raises when it recognises no detector
            raise MissingWeightsError(f"{folder}: no face detector among its .onnx files. {_advice(folder)}") from error
        if missing := [task for task in tasks if task not in analysis.models]:
            raise MissingWeightsError(f"{folder}: no network for {missing[0]} among its .onnx files. {_advice(folder)}")
        used = analysis.models["detection"].session.get_providers()
        if self._settings.device.startswith("cuda") and "CUDAExecutionProvider" not in used:
            raise RuntimeError(f"insightface.device={self._settings.device}: onnxruntime could not start CUDA")
        side = self._settings.side
        analysis.prepare(ctx_id=0, det_thresh=self._floor, det_size=(side, side))
        self._analysis = analysis

    def detect(self, images: Sequence[Image]) -> list[list[DetectedFace]]:
        """The faces of each image, best first, in its own pixels and cut off at its edges."""
        if self._analysis is None:
            raise RuntimeError("InsightFace.load() must be called before detect()")
        from insightface.utils.face_align import norm_crop

        detector, recogniser = (self._analysis.models[task] for task in ("detection", "recognition"))
        found: list[list[tuple[Box, float, np.ndarray]]] = []
        crops: list[Image] = []
        for image in images:
            # The detector takes one image at a time: published packs fix that number in the file.
            bgr = np.ascontiguousarray(image[..., ::-1])
            height, width = image.shape[:2]
            found.append([])
            for (*corners, score), points in zip(*detector.detect(bgr), strict=True):
                box = Box(*map(float, corners)).clipped(width, height)
                if box.area > 0:
                    found[-1].append((box, float(score), points))
                    crops.append(norm_crop(bgr, points, recogniser.input_size[0]))
        who = iter(_unit(self._embeddings(recogniser, crops)))
        return [
            [DetectedFace(box, score, tuple((float(x), float(y)) for x, y in points), next(who))
             for box, score, points in faces]
            for faces in found
        ]  # fmt: skip

    def _embeddings(self, recogniser: Any, crops: Sequence[Image]) -> np.ndarray:
        if not crops:
            return np.empty((0, 1))
        many = FACES if not isinstance(recogniser.input_shape[0], int) else recogniser.input_shape[0]
        return np.vstack([recogniser.get_feat(list(crops[i : i + many])) for i in range(0, len(crops), many)])


def _folder(weights: str) -> str:
    """The pack's folder; a bare name may be a pack that the package's own command downloaded."""
    downloaded = Path("~/.insightface/models", weights).expanduser()
    here = Path(weights).expanduser()
    return str(downloaded) if here.name == weights and not here.exists() and downloaded.is_dir() else weights


def _advice(folder: Path) -> str:
    return (
        f"Download a pack with: insightface-cli model.download {folder.name} (into ~/.insightface/models; the public "
        "packs are for non-commercial research), or give the folder of one as faces.insightface.weights"
    )


def _providers(device: str, available: Sequence[str]) -> list[str]:
    """What onnxruntime shall run on, best first. Raises `RuntimeError` for a GPU that this onnxruntime can't use."""
    if device == "cpu" or (device == "auto" and "CUDAExecutionProvider" not in available):
        return ["CPUExecutionProvider"]
    if "CUDAExecutionProvider" not in available:
        raise RuntimeError(
            f"insightface.device={device}, but this onnxruntime knows {', '.join(available)} only: "
            "replace the package onnxruntime by onnxruntime-gpu"
        )
    return ["CUDAExecutionProvider", "CPUExecutionProvider"]


def _unit(embeddings: np.ndarray) -> list[tuple[float, ...]]:
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    unit = embeddings / np.maximum(lengths, np.finfo(np.float32).tiny)
    return [tuple(round(float(value), DIGITS) for value in row) for row in unit]
