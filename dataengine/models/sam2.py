"""SAM 2 (Ravi et al. 2024, arXiv:2408.00714) on single frames, through transformers: masks from boxes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any

from dataengine.config import Sam2Settings
from dataengine.models.interfaces import Prompted, Segment
from dataengine.models.placement import device_of, dtype_of, takes_gpu
from dataengine.models.pretrained import load_exactly
from dataengine.weights import Needs, Weights

if TYPE_CHECKING:
    import torch

FILES = ("config.json", "*processor_config.json", "*.safetensors")
GPU_GIB = {"tiny": (0.9, 0.3), "small": (0.9, 0.3), "base-plus": (1.2, 0.4), "large": (2.1, 0.4)}
"""Float32 weights, their bfloat16 copies, decoder and 0.5 for CUDA itself; and what each image in the encoder adds,
counted over the live tensors of a float32 pass. The largest where the name of the weights tells none."""


class Sam2:
    """Implements `Segmenter`. An image is encoded once, whatever the number of boxes in it.

    The weights stay float32; `dtype` is what the encoder multiplies matrices in (autocast).
    """

    name = "sam2"

    def __init__(self, settings: Sam2Settings) -> None:
        self._settings = settings
        self._weights = Weights(settings.weights, settings.revision, FILES)
        weights, image = GPU_GIB[next((size for size in GPU_GIB if size in settings.weights), "large")]
        self.needs = Needs((self._weights,), (), weights + settings.images * image if takes_gpu(settings) else 0.0)
        self._network: _Network | None = None

    @property
    def revision(self) -> str:
        return f"{self._weights.identity()} transformers {metadata.version('transformers')}"

    def load(self) -> None:
        """Raises `MissingWeightsError`, or `ValueError` for weights that do not fit the network exactly."""
        self._network = _Network.load(self._weights, self._settings)

    def segment(self, scenes: Sequence[Prompted]) -> Iterator[list[Segment]]:
        """One mask a prompt; its score is the predicted IoU."""
        if self._network is None:
            raise RuntimeError("Sam2.load() must be called before segment()")
        for start in range(0, len(scenes), self._settings.images):
            yield from self._network.segment(scenes[start : start + self._settings.images])


@dataclass(frozen=True)
class _Network:
    """The loaded network with its processor."""

    model: Any
    processor: Any
    device: torch.device
    dtype: torch.dtype

    @classmethod
    def load(cls, weights: Weights, settings: Sam2Settings) -> _Network:
        from transformers import Sam2Model, Sam2Processor

        folder = weights.locate()
        model = load_exactly(Sam2Model, folder)
        processor = Sam2Processor.from_pretrained(folder, local_files_only=True)
        device = device_of(settings)
        return cls(model.to(device).eval(), processor, device, dtype_of(settings, device))

    def segment(self, scenes: Sequence[Prompted]) -> list[list[Segment]]:
        """One encoder call for all images, one decoder call for all boxes of an image."""
        import torch

        pixels = self.processor.image_processor(
            [scene.image for scene in scenes],
            input_data_format="channels_last",
            device=self.device,
            return_tensors="pt",
        )["pixel_values"]
        half = self.dtype is not torch.float32
        with torch.inference_mode():
            with torch.autocast(self.device.type, self.dtype, enabled=half):
                levels = self.model.get_image_embeddings(pixels)
            return [self._cut(scene, [level[i : i + 1].float() for level in levels]) for i, scene in enumerate(scenes)]

    def _cut(self, scene: Prompted, levels: list[torch.Tensor]) -> list[Segment]:
        from dataengine.models.sam_network import segments_of

        size = scene.image.shape[:2]
        boxes = self.processor(
            original_sizes=[size], input_boxes=[[list(prompt.box) for prompt in scene.prompts]], return_tensors="pt"
        )["input_boxes"]
        found = self.model(image_embeddings=levels, input_boxes=boxes.to(self.device), multimask_output=False)
        logits = self.processor.post_process_masks([found.pred_masks[0]], [size], binarize=False)[0]
        return segments_of(logits[:, 0], found.iou_scores[0, :, 0])
