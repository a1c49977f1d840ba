"""How well words fit a picture, by the cosine of CLIP's two embeddings (Radford et al., 2021).

Words are asked about a person's or a garment's own pixels, never about a whole frame: there CLIP knows that a red hat
is in it, and not whose.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import metadata
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dataengine.config import ClipScorerSettings
from dataengine.models.placement import device_of, dtype_of, takes_gpu
from dataengine.weights import Needs, Weights

if TYPE_CHECKING:
    import torch

FILES = ("config.json", "preprocessor_config.json", "tokenizer.json", "*.safetensors")
GPU_GIB = 2.0
UNRELATED, FITTING = 0.15, 0.35
"""Cosines of words that have nothing to do with a picture, and of its own caption: the ends of the scale 0…1."""


class ClipScorer:
    """Scores pictures against phrases."""

    name = "clip"

    def __init__(self, settings: ClipScorerSettings) -> None:
        self._settings = settings
        self._weights = Weights(settings.weights, settings.revision, FILES)
        self.needs = Needs((self._weights,), (), GPU_GIB if takes_gpu(settings) else 0.0)
        self._loaded: tuple[Any, Any] | None = None

    @property
    def revision(self) -> str:
        return f"{self._weights.identity()} transformers {metadata.version('transformers')}"

    def load(self) -> None:
        """Raises `MissingWeightsError`, or `ValueError` for weights that are no whole CLIP."""
        from transformers import AutoTokenizer, CLIPImageProcessor, CLIPModel

        folder, device = self._weights.locate(), device_of(self._settings)
        model, report = CLIPModel.from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,
            dtype=dtype_of(self._settings, device),
            output_loading_info=True,
        )
        if missing := sorted(map(str, report["missing_keys"])):
            raise ValueError(f"{folder}: the weights are no whole CLIP, these are missing: {missing[:5]}")
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        processor = CLIPImageProcessor.from_pretrained(folder, local_files_only=True)
        self._loaded = (model.to(device).eval(), (tokenizer, processor))

    def __call__(self, pictures: Sequence[Image.Image], phrases: Sequence[str]) -> NDArray[np.float64]:
        """(pictures, phrases), 0…1: the cosine, stretched from `UNRELATED` to `FITTING`."""
        if self._loaded is None:
            raise RuntimeError("ClipScorer.load() must be called before it scores")
        if not pictures or not phrases:
            return np.full((len(pictures), len(phrases)), np.nan)
        cosines = (self._of_pictures(pictures) @ self._of_words(phrases).T).numpy().astype(np.float64)
        return np.clip((cosines - UNRELATED) / (FITTING - UNRELATED), 0.0, 1.0)

    def _of_pictures(self, pictures: Sequence[Image.Image]) -> torch.Tensor:
        import torch

        assert self._loaded is not None
        model, (_, processor) = self._loaded
        rows = []
        for start in range(0, len(pictures), self._settings.images):
            batch = [picture.convert("RGB") for picture in pictures[start : start + self._settings.images]]
            pixels = processor(batch, return_tensors="pt")["pixel_values"].to(model.device, model.dtype)
            with torch.inference_mode():
                rows.append(model.visual_projection(model.vision_model(pixels).pooler_output).float().cpu())
        return _unit(torch.cat(rows))

    def _of_words(self, phrases: Sequence[str]) -> torch.Tensor:
        import torch

        assert self._loaded is not None
        model, (tokenizer, _) = self._loaded
        words = tokenizer(
            [f"a photo of {phrase}" for phrase in phrases], padding=True, truncation=True, return_tensors="pt"
        ).to(model.device)
        with torch.inference_mode():
            return _unit(model.text_projection(model.text_model(**words).pooler_output).float().cpu())


def _unit(rows: torch.Tensor) -> torch.Tensor:
    return rows / rows.norm(dim=-1, keepdim=True)
