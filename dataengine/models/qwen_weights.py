"""Which files a Qwen2.5-VL checkpoint is made of, and what memory it takes."""

from __future__ import annotations

import re

from dataengine.config import QwenSettings
from dataengine.weights import Weights

FILES = ("*.safetensors", "*.json", "chat_template*")
"""Weights, configurations and tokenizer, and the template, which is a .json on the hub and a .jinja when saved anew."""
_GIB = 1 << 30
_SIZES = {"3": (3.75e9, 36 * 2), "7": (8.29e9, 28 * 4), "32": (33.5e9, 64 * 8), "72": (73.4e9, 80 * 8)}
"""Parameters, and layers times key-value heads (of 128 numbers), of the released models."""
_WORKSPACE_GIB = 2.5
"""Images on their way through the vision tower, activations, CUDA itself."""


def weights(settings: QwenSettings) -> Weights:
    return Weights(settings.weights, settings.revision, FILES)


def gpu_gib(settings: QwenSettings) -> float:
    """What a GPU must have for weights, one longest question and the work itself; 0 where it cannot be told.

    By the name of the checkpoint, in two bytes a number (a half of one for AWQ), spread over the GPUs of one copy.
    """
    name = re.search(r"(?i)(?<![\d.])(3|7|32|72)B", settings.weights)
    if name is None or settings.device == "cpu":
        return 0.0
    parameters, heads = _SIZES[name[1]]
    stored = parameters * (0.5 if "awq" in settings.weights.lower() else 2)
    cached = settings.vllm.max_model_len * heads * 128 * 2 * 2
    return round((stored + cached) / settings.vllm.tensor_parallel / _GIB + _WORKSPACE_GIB, 1)
