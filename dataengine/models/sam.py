"""SAM (Kirillov et al. 2023, arXiv:2304.02643): masks from boxes, with segment-anything's classes and checkpoints.

The network (`sam_network`), and with it torch, is imported when it is loaded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from dataengine.config import SamSettings
from dataengine.models.interfaces import Prompted, Segment
from dataengine.models.placement import device_of, dtype_of, takes_gpu
from dataengine.weights import MissingWeightsError, Needs, Weights

if TYPE_CHECKING:
    from dataengine.models.sam_network import Network

PUBLISHED = {"vit_h": "sam_vit_h_4b8939.pth", "vit_l": "sam_vit_l_0b3195.pth", "vit_b": "sam_vit_b_01ec64.pth"}
GPU_GIB = {"vit_h": (1.8, 1.7), "vit_l": (1.2, 1.7), "vit_b": (0.8, 1.3)}
"""In half precision: weights, decoder and 0.5 for CUDA itself; and what each image in the encoder adds, counted over
the live tensors of a pass (most of it the attention between 64 x 64 patches). float32 takes twice as much. The largest
where the name of the file tells no size."""


class Sam:
    """Implements `Segmenter`. An image is encoded once, whatever the number of boxes in it."""

    name = "sam"

    def __init__(self, settings: SamSettings) -> None:
        self._settings = settings
        name = Path(settings.weights).name
        address = f"https://dl.fbaipublicfiles.com/segment_anything/{name}"
        self._weights = Weights(
            settings.weights, hint=f"Download it with: curl -LO {address}" if name in PUBLISHED.values() else ""
        )
        size = next((size for size in PUBLISHED if size in name), "vit_h")
        weights, image = GPU_GIB[size]
        gib = (weights + settings.images * image) * (2 if settings.dtype == "float32" else 1)
        self.needs = Needs((self._weights,), (), gib if takes_gpu(settings) else 0.0)
        self._network: Network | None = None

    @property
    def revision(self) -> str:
        return f"{self._weights.identity()} segment-anything {metadata.version('segment-anything')}"

    def load(self) -> None:
        """Raises `MissingWeightsError`, or `ValueError` for a file that is no SAM or more than tensors."""
        from dataengine.models.sam_network import load_network

        file = self._weights.locate()
        if not file.is_file():
            raise MissingWeightsError(f"{file}: SAM's weights are one file, .pth or .safetensors, and not a folder")
        device = device_of(self._settings)
        self._network = load_network(file, device, dtype_of(self._settings, device))

    def segment(self, scenes: Sequence[Prompted]) -> Iterator[list[Segment]]:
        """One mask a prompt; its score is the predicted IoU."""
        if self._network is None:
            raise RuntimeError("Sam.load() must be called before segment()")
        for start in range(0, len(scenes), self._settings.images):
            yield from self._network.segment(scenes[start : start + self._settings.images])
