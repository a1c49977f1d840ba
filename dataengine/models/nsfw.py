"""How surely a picture is not safe for work: any image classifier of transformers that has a class for it.

Made for Falconsai/nsfw_image_detection and AdamCodd/vit-base-nsfw-detector (ViT, two classes); others fit by
`stages.quality.nsfw.labels`. A score is a probability that a network gives, not a finding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from dataengine.config import NsfwSettings
from dataengine.models.clip_encoder import FILES
from dataengine.models.interfaces import Image
from dataengine.models.placement import device_of, dtype_of, takes_gpu
from dataengine.weights import Needs, Weights

GPU_GIB = 1.2
"""ViT-B/16 in bfloat16, a batch of images of 224 × 224, and CUDA itself."""


class Nsfw:
    """Scores images from 0 to 1: the probabilities of the configured classes, added up."""

    name = "nsfw-classifier"

    def __init__(self, settings: NsfwSettings) -> None:
        self._settings = settings
        self._weights = Weights(settings.weights, settings.revision, FILES)
        self.needs = Needs((self._weights,), (), GPU_GIB if takes_gpu(settings) else 0.0)
        self._network: _Network | None = None

    @property
    def revision(self) -> str:
        return f"{self._weights.identity()} transformers {metadata.version('transformers')}"

    def load(self) -> None:
        """Raises `MissingWeightsError`, or `ValueError` for a classifier that has none of the configured classes."""
        self._network = _Network.load(self._weights.locate(), self._settings)

    def score(self, images: Sequence[Image]) -> list[float]:
        if self._network is None:
            raise RuntimeError("Nsfw.load() must be called before score()")
        return self._network.score(images)


@dataclass(frozen=True)
class _Network:
    classifier: Any
    processor: Any
    classes: tuple[int, ...]
    images: int = 32

    @classmethod
    def load(cls, folder: Path, settings: NsfwSettings) -> _Network:
        from transformers import AutoImageProcessor, AutoModelForImageClassification

        device = device_of(settings)
        classifier, report = AutoModelForImageClassification.from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            dtype=dtype_of(settings, device),
            output_loading_info=True,
        )
        # A backbone without its head would be given a random one.
        if missing := sorted(map(str, report["missing_keys"])):
            raise ValueError(f"{folder}: no trained image classifier, these weights are missing: {missing[:5]}")
        named = {str(name).casefold(): number for number, name in classifier.config.id2label.items()}
        wanted = {label.casefold() for label in settings.labels}
        classes = tuple(sorted(named[label] for label in wanted & named.keys()))
        if not classes or len(classes) == len(named):
            raise ValueError(
                f"{folder}: its classes are {', '.join(named)}: name those that are not safe, and not all, in "
                "stages.quality.nsfw.labels"
            )
        processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True, backend="pil")
        return cls(classifier.to(device).eval(), processor, classes)

    def score(self, images: Sequence[Image]) -> list[float]:
        import torch

        scores: list[float] = []
        for start in range(0, len(images), self.images):
            batch = list(images[start : start + self.images])
            pixels = self.processor(batch, input_data_format="channels_last", return_tensors="pt")["pixel_values"]
            with torch.inference_mode():
                logits = self.classifier(pixels.to(self.classifier.device, self.classifier.dtype)).logits.float()
            scores += logits.softmax(dim=-1)[:, list(self.classes)].sum(dim=-1).clamp(0, 1).tolist()
        return scores
