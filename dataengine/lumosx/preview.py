"""Clips generated while training goes on: a sheet of references and frames for each of a few pairs."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image as PilImage

from dataengine.lumosx.augment import Image
from dataengine.lumosx.codec import Codec
from dataengine.lumosx.data import Batch, BatchEncoder, Example, ExampleMaker
from dataengine.lumosx.distributed import ALONE, Ranks
from dataengine.lumosx.generate import generate_clip
from dataengine.lumosx.settings import TrainSettings
from dataengine.lumosx.text import TextEncoder
from dataengine.lumosx.transformer import DiT
from dataengine.lumosx.validation import spread
from dataengine.lumosx.windows import SampleError
from dataengine.shards.reader import PairDataset
from dataengine.video import VideoError

log = logging.getLogger(__name__)

_FRAMES = 5  # of the clip, shown
_GAP = 4


class Previewer:
    """Generates clips of a few pairs of every size, always from the same noise; draws from no shared random numbers.

    Ranks share the pairs. A split model computes with all ranks, so who has none left does another's again.
    """

    def __init__(
        self, samples: PairDataset, encoder: BatchEncoder, codec: Codec, text: TextEncoder, settings: TrainSettings,
        ranks: Ranks = ALONE,
    ) -> None:  # fmt: skip
        self._codec, self._text, self._settings, self._ranks = codec, text, settings, ranks
        maker = ExampleMaker(samples, settings.data.model_copy(update={"cache_mb": 0}), settings.seed)
        self._pairs: list[tuple[Example, Batch]] = []
        for index, size in spread(samples, settings.data, settings.validation.sample_clips):
            try:
                example = maker.plain(index, size)
            except (SampleError, VideoError) as error:
                log.warning("preview %d is left out: %s", index, error)
                continue
            batch, refused = encoder.encode([example])
            if refused:
                log.warning("preview %s is left out: %s", example.key, refused[0].reason)
            else:
                self._pairs.append((example, batch))

    @property
    def keys(self) -> list[str]:
        """Of the pairs, of all ranks."""
        return [example.key for example, _ in self._pairs]

    def __call__(self, model: DiT) -> Iterator[tuple[str, Image]]:
        """(key, sheet) of this rank's pairs; a sheet is rgb uint8: references, generated frames, true frames below."""
        count, world = len(self._pairs), self._ranks.world
        for first in range(0, count, world):
            number = first + self._ranks.rank
            example, batch = self._pairs[number % count]
            frames = self._generate(model, batch)
            if number < count:
                yield example.key, draw_frames(example, frames)

    @torch.no_grad()
    def _generate(self, model: DiT, batch: Batch) -> Image:
        bf16 = self._settings.precision == "bf16"
        return generate_clip(model, self._codec, self._text, batch, self._settings.sampling, bf16=bf16)


def draw_frames(example: Example, generated: Image) -> Image:
    """References, generated frames, true frames as rows of equal tiles, without words; rgb uint8."""
    picked = np.linspace(0, len(generated) - 1, min(_FRAMES, len(generated))).round().astype(int)
    rows = [list(example.references.numpy()), list(generated[picked]), list(example.video.numpy()[picked])]
    height, width = generated.shape[1:3]
    columns = max(map(len, rows))
    size = (len(rows) * (height + _GAP) + _GAP, columns * (width + _GAP) + _GAP, 3)
    sheet = np.full(size, 244, dtype=np.uint8)
    for y, row in enumerate(rows):
        for x, tile in enumerate(row):
            top, left = _GAP + y * (height + _GAP), _GAP + x * (width + _GAP)
            sheet[top : top + height, left : left + width] = tile
    return sheet


def read_sheet(file: Path) -> Image:
    """What `save_sheet` wrote."""
    with PilImage.open(file, formats=("PNG",)) as image:
        return np.asarray(image.convert("RGB"))


def save_sheet(sheet: Image, file: Path) -> None:
    """As a PNG, its folder made."""
    file.parent.mkdir(parents=True, exist_ok=True)
    PilImage.fromarray(sheet).save(file)
