"""CLIP's image encoder: what a picture shows, as a vector of unit length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataengine.config import NetworkSettings
from dataengine.models.interfaces import Image
from dataengine.models.placement import device_of, dtype_of

if TYPE_CHECKING:
    import torch

FILES = ("config.json", "preprocessor_config.json", "*.safetensors")
"""Of a hub repository or folder."""


@dataclass(frozen=True)
class ClipEncoder:
    network: Any
    processor: Any
    images: int = 32
    """In one forward pass."""

    @classmethod
    def load(cls, folder: Path, settings: NetworkSettings, images: int = 32) -> ClipEncoder:
        """Raises `ValueError` for weights that are not CLIP's."""
        from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection

        device = device_of(settings)
        network, report = CLIPVisionModelWithProjection.from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,
            dtype=dtype_of(settings, device),
            output_loading_info=True,
        )
        # A whole CLIP holds the text half too; what the image half lacks would be left at random values.
        if missing := sorted(map(str, report["missing_keys"])):
            raise ValueError(f"{folder}: the weights do not fit CLIP's image encoder, these are missing: {missing[:5]}")
        processor = CLIPImageProcessor.from_pretrained(folder, local_files_only=True)
        return cls(network.to(device).eval(), processor, images)

    @property
    def size(self) -> int:
        """Of the vectors."""
        return int(self.network.config.projection_dim)

    def embed(self, images: Sequence[Image]) -> torch.Tensor:
        """(n, size) float32, rows of unit length."""
        import torch

        found = [torch.empty(0, self.size, device=self.network.device)]
        for start in range(0, len(images), self.images):
            batch = list(images[start : start + self.images])
            pixels = self.processor(batch, input_data_format="channels_last", return_tensors="pt")["pixel_values"]
            with torch.inference_mode():
                embeddings = self.network(pixels.to(self.network.device, self.network.dtype)).image_embeds.float()
            found.append(embeddings / embeddings.norm(dim=-1, keepdim=True))
        return torch.cat(found)
