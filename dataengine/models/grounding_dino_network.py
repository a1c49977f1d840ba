"""Grounding DINO's network with its processor, as transformers has them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import GroundingDinoForObjectDetection, GroundingDinoProcessor
from transformers.image_transforms import get_size_with_aspect_ratio

from dataengine.config import GroundingDinoSettings
from dataengine.models.grounding_dino import Look, prompt
from dataengine.models.interfaces import Region
from dataengine.models.placement import device_of, dtype_of
from dataengine.models.pretrained import load_exactly
from dataengine.records import Box


class SharedBackbone(nn.Module):
    """Looks once at an image that stands several times in a batch, because several phrases are asked of it."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.which: list[int] = []
        """For each row of the batch which of the distinct images it is, numbered by first appearance."""

    @property
    def position_embedding(self) -> Any:
        return self.backbone.position_embedding

    def forward(self, pixel_values: Tensor, pixel_mask: Tensor) -> tuple[list[tuple[Tensor, Tensor]], list[Tensor]]:
        first = [self.which.index(image) for image in range(max(self.which) + 1)]
        features, positions = self.backbone(pixel_values[first], pixel_mask[first])
        rows = self.which
        return [(values[rows], mask[rows]) for values, mask in features], [values[rows] for values in positions]


@dataclass(frozen=True)
class Network:
    """The loaded network. Its weights are float32, and `dtype` is what matrices are multiplied in."""

    model: Any
    processor: Any
    device: torch.device
    dtype: torch.dtype
    floor: float

    @classmethod
    def load(cls, folder: Path, settings: GroundingDinoSettings) -> Network:
        """Raises `ValueError` for weights that do not fit the network exactly."""
        model = load_exactly(GroundingDinoForObjectDetection, folder).eval()
        return cls.of(model, GroundingDinoProcessor.from_pretrained(folder, local_files_only=True), settings)

    @classmethod
    def of(cls, model: Any, processor: Any, settings: GroundingDinoSettings) -> Network:
        """A network in memory, moved to where it runs; it is changed by it."""
        device = device_of(settings)
        model.model.backbone = SharedBackbone(model.model.backbone)
        return cls(model.to(device), processor, device, dtype_of(settings, device), settings.floor)

    def seen_size(self, height: float, width: float) -> tuple[int, int]:
        """Rows and columns to which the processor scales an image of that size."""
        size = self.processor.image_processor.size
        rows, columns = get_size_with_aspect_ratio((height, width), size["shortest_edge"], size["longest_edge"])
        return int(rows), int(columns)

    @torch.inference_mode()
    def regions(self, looks: Sequence[Look]) -> list[list[Region]]:
        """What is found in each look, best first, in pixels of its window; all looks are seen at one size."""
        tokens = self.processor.tokenizer(
            [prompt(look.phrase) for look in looks],
            padding=True,  # padded tokens are masked everywhere: they change nothing
            truncation=True,
            max_length=self.model.config.max_text_len,
            return_tensors="pt",
        ).to(self.device)
        distinct = {look.place: look for look in looks}
        pixels = self.processor.image_processor(
            [np.ascontiguousarray(look.pixels) for look in distinct.values()],
            size=dict(zip(("height", "width"), looks[0].size, strict=True)),
            input_data_format="channels_last",
            device=self.device,
            return_tensors="pt",
        )
        number = {place: i for i, place in enumerate(distinct)}
        which = [number[look.place] for look in looks]
        self.model.model.backbone.which = which
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not torch.float32):
            outputs = self.model(**tokens, **{name: values[which] for name, values in pixels.items()})
        outputs.logits, outputs.pred_boxes = outputs.logits.float(), outputs.pred_boxes.float()
        found = self.processor.image_processor.post_process_object_detection(
            outputs, threshold=self.floor, target_sizes=[look.pixels.shape[:2] for look in looks]
        )
        return [_ranked(one["scores"], one["boxes"]) for one in found]


def _ranked(scores: Tensor, boxes: Tensor) -> list[Region]:
    order = scores.argsort(descending=True, stable=True)
    return [Region(Box(*box), score) for score, box in zip(scores[order].tolist(), boxes[order].tolist(), strict=True)]
