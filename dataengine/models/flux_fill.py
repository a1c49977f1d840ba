"""FLUX.1 Fill (Black Forest Labs 2024): a diffusion transformer that paints what a prompt says into a hole."""

from __future__ import annotations

import gc
import hashlib
from importlib import metadata
from typing import Any

import numpy as np

from dataengine.config import FluxFillSettings
from dataengine.models.hole_patch import Canvas, Patch
from dataengine.models.interfaces import Image, Pixels
from dataengine.models.placement import device_of, dtype_of, takes_gpu
from dataengine.weights import Needs, Weights

MULTIPLE = 16
"""Pixels of a side of what becomes one token: the autoencoder's 8, in pairs."""
FILES = (
    "model_index.json",
    "scheduler/*",
    "text_encoder/*",
    "text_encoder_2/*",
    "tokenizer/*",
    "tokenizer_2/*",
    "transformer/*",
    "vae/*",
)
"""Of the repository's 58 GB the 34 that diffusers reads; the rest are the same weights in one file."""
PARAMETERS = 11.90e9 + 0.08e9
"""Of the transformer and the autoencoder. The text encoders (4.9e9) are gone before these are read."""
ACTIVATIONS = 1.2e9
"""Numbers beside them at 1024 × 1024: 0.77e9 are alive at once while the autoencoder decodes, by
`tests/bench/model_memory.py`, and half as much again is left for workspaces and fragments."""

CUDA_GIB = 0.5
"""What CUDA itself takes."""


class FluxFill:
    """Implements `Inpainter`. The noise comes from the picture and its hole: the same in, the same out."""

    name = "flux-fill"

    def __init__(self, settings: FluxFillSettings) -> None:
        self._settings = settings
        self._weights = Weights(settings.weights, settings.revision, FILES)
        self._canvas = Canvas(MULTIPLE, settings.max_side)
        self.needs = Needs((self._weights,), gpu_gib=_gpu_gib(settings))
        self._pipeline: Any = None
        self._said: dict[str, Any] = {}

    @property
    def revision(self) -> str:
        versions = (f"{package} {metadata.version(package)}" for package in ("diffusers", "transformers"))
        return ", ".join((self._weights.identity(), *versions))

    def load(self) -> None:
        """Reads the text encoders for the one prompt, drops them, and reads the rest. Nothing is unpickled."""
        import torch
        from diffusers import FluxFillPipeline

        device = device_of(self._settings)
        common = {"dtype": dtype_of(self._settings, device), "use_safetensors": True, "local_files_only": True}
        folder = str(self._weights.locate())
        speaker = FluxFillPipeline.from_pretrained(folder, transformer=None, vae=None, **common).to(device)
        with torch.inference_mode():
            said, pooled, _ = speaker.encode_prompt(self._settings.prompt, device=device)
        self._said = {"prompt_embeds": said, "pooled_prompt_embeds": pooled}
        del speaker
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
        silent = dict.fromkeys(("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"))
        self._pipeline = FluxFillPipeline.from_pretrained(folder, **silent, **common).to(device)
        self._pipeline.set_progress_bar_config(disable=True)

    def inpaint(self, image: Image, hole: Pixels) -> Image:
        import torch

        assert self._pipeline is not None, "load() first"
        if not hole.any():
            return image
        patch = Patch.of(image, hole, self._canvas)
        height, width = patch.hole.shape
        answer = self._pipeline(
            image=patch.image[None].astype(np.float32) / 255,
            mask_image=patch.hole[None, ..., None].astype(np.float32),
            height=height,
            width=width,
            num_inference_steps=self._settings.steps,
            guidance_scale=self._settings.guidance,
            # Drawn on the CPU: a GPU's own noise differs from one generation to the next.
            generator=torch.Generator("cpu").manual_seed(seed_of(patch)),
            output_type="np",
            **self._said,
        ).images[0]
        return patch.into(image, hole, (answer * 255).round().clip(0, 255).astype(np.uint8))


def seed_of(patch: Patch) -> int:
    """Of the noise: other for every picture, so that what the network makes of nothing is not the same everywhere."""
    return int.from_bytes(hashlib.sha256(patch.image.tobytes() + patch.hole.tobytes()).digest()[:7])


def _gpu_gib(settings: FluxFillSettings) -> float:
    if not takes_gpu(settings):
        return 0.0
    numbers = PARAMETERS + ACTIVATIONS * (settings.max_side / 1024) ** 2
    return round(numbers * (4 if settings.dtype == "float32" else 2) / (1 << 30) + CUDA_GIB, 1)
