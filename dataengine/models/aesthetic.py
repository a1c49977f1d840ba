"""How pleasing a picture is: a regression on CLIP's image embedding, as LAION's aesthetic predictors are.

The head is a chain of linear layers on the embedding of unit length. LAION's own files fit as they are: `sa_0_4_…`
(one layer, `weight` and `bias`) and `sac+logos+ava1-l14-linearMSE.pth` (`layers.0.weight` … `layers.7.bias`, trained
without non-linearities between them), both made for openai/clip-vit-large-patch14.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from dataengine.config import AestheticSettings
from dataengine.models.clip_encoder import FILES, ClipEncoder
from dataengine.models.interfaces import Image
from dataengine.models.placement import takes_gpu
from dataengine.weights import Needs, Weights

if TYPE_CHECKING:
    import torch

GPU_GIB = 1.5
"""CLIP ViT-L/14's image encoder in bfloat16 and a batch of images of 224 × 224."""


class Aesthetic:
    """Scores images, about 1 (dull) to 10."""

    name = "clip-aesthetic"

    def __init__(self, settings: AestheticSettings) -> None:
        self._settings = settings
        self._encoder = Weights(settings.weights, settings.revision, FILES)
        self._head = Weights(settings.head)
        self.needs = Needs((self._encoder, self._head), (), GPU_GIB if takes_gpu(settings) else 0.0)
        self._network: _Network | None = None

    @property
    def revision(self) -> str:
        versions = f"transformers {metadata.version('transformers')}"
        return f"{self._encoder.identity()} {self._head.identity()} {versions}"

    def load(self) -> None:
        """Raises `MissingWeightsError`, or `ValueError` for weights that do not fit the network or each other."""
        self._network = _Network.load(self._encoder.locate(), self._head.locate(), self._settings)

    def score(self, images: Sequence[Image]) -> list[float]:
        if self._network is None:
            raise RuntimeError("Aesthetic.load() must be called before score()")
        return self._network.score(images)


@dataclass(frozen=True)
class _Network:
    encoder: ClipEncoder
    head: torch.nn.Sequential

    @classmethod
    def load(cls, folder: Path, head_file: Path, settings: AestheticSettings) -> _Network:
        encoder = ClipEncoder.load(folder, settings)
        head = linear_layers(read_tensors(head_file), str(head_file))
        if (takes := head[0].in_features) != encoder.size:
            raise ValueError(f"{head_file}: the head takes {takes} values and {folder} gives {encoder.size}")
        return cls(encoder, head.to(encoder.network.device).eval())

    def score(self, images: Sequence[Image]) -> list[float]:
        import torch

        with torch.inference_mode():
            return self.head(self.encoder.embed(images))[:, 0].tolist()


def read_tensors(file: Path) -> Mapping[str, torch.Tensor]:
    """The tensors of a .safetensors file, or of a .pth file that holds nothing else: no code in it is run."""
    if file.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(file)
    import torch

    return torch.load(file, map_location="cpu", weights_only=True)


def linear_layers(tensors: Mapping[str, torch.Tensor], name: str) -> torch.nn.Sequential:
    """The tensors as linear layers in the order of the numbers in their names, the last of which gives one value.

    Raises `ValueError` for other names, or layers that do not follow each other.
    """
    import torch

    found: dict[int, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        match = re.fullmatch(r"(?:(?:\w+\.)?(\d+)\.)?(weight|bias)", key)
        if match is None:
            raise ValueError(f"{name}: {key} is no weight or bias of a numbered linear layer")
        found.setdefault(int(match[1] or 0), {})[match[2]] = tensor.float()
    layers = []
    for number in sorted(found):
        weight, bias = found[number].get("weight"), found[number].get("bias")
        if weight is None or bias is None or weight.ndim != 2 or bias.shape != weight.shape[:1]:
            raise ValueError(f"{name}: layer {number} lacks its weight or bias, or they do not fit")
        layer = torch.nn.Linear(weight.shape[1], weight.shape[0])
        layer.load_state_dict({"weight": weight, "bias": bias})
        layers.append(layer)
    sizes = [size for layer in layers for size in (layer.in_features, layer.out_features)]
    if not layers or sizes[-1] != 1 or any(a != b for a, b in zip(sizes[1:-1:2], sizes[2:-1:2], strict=True)):
        raise ValueError(f"{name}: its layers have sizes {sizes}, which are no chain that ends in one value")
    return torch.nn.Sequential(*layers)
