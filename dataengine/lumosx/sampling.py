"""From a trained run and one pair's references and caption to a video: the mp4, and a sheet to judge it by."""

from __future__ import annotations

import logging
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image as PilImage
from PIL import ImageDraw, ImageFont
from torch import Tensor

from dataengine.lumosx.augment import Image
from dataengine.lumosx.codec import Codec
from dataengine.lumosx.components import best_device, open_codec, open_text
from dataengine.lumosx.data import Batch, BatchEncoder, Example, ExampleMaker
from dataengine.lumosx.generate import generate_clip, generate_clips
from dataengine.lumosx.settings import SamplingSettings
from dataengine.lumosx.text import TextEncoder
from dataengine.lumosx.trained import Trained, read_trained
from dataengine.lumosx.transformer import DiT
from dataengine.lumosx.weights import load_into
from dataengine.lumosx.windows import SampleError
from dataengine.shards.reader import PairDataset
from dataengine.store import Store
from dataengine.video import encode_clip

log = logging.getLogger(__name__)

SHEET_FRAMES = 5


@dataclass(frozen=True, slots=True)
class SampleResult:
    """What `sample_pair` wrote.

    Attributes:
        video: mp4 of the generated clip.
        sheet: PNG beside it: references, generated frames, true frames, caption.
        key, split: of the pair; a `train` pair shows what the model remembers, a `val` pair what it has learned.
        step: of the checkpoint.
    """

    video: Path
    sheet: Path
    key: str
    split: str
    step: int


class ClipGenerator:
    """A model with its codec and text encoder, ready to sample."""

    def __init__(self, model: DiT, codec: Codec, text: TextEncoder, *, bf16: bool = False) -> None:
        """The model is frozen and used where it is; codec and text encoder must be on the same device.

        With `bf16` it computes in bfloat16 where training under autocast did.
        """
        self.bf16 = bf16
        self.model = model.requires_grad_(False).eval()
        self.codec = codec
        self.text = text
        self.encoder = BatchEncoder(codec, text, model.head.modulation.device)

    @classmethod
    def of(cls, trained: Trained) -> ClipGenerator:
        """With a run's weights, codec and text encoder, on the best device.

        Raises:
            MissingWeightsError: the codec or text encoder is not on this machine.
            WeightsError: the checkpoint does not fit the settings.
        """
        device = best_device()
        model = DiT(trained.config)
        load_into(model, trained.weights)
        settings = trained.settings
        codec, text = open_codec(settings.codec, device), open_text(settings.text, device)
        return cls(model.to(device), codec, text, bf16=settings.precision == "bf16")

    def generate(
        self, example: Example, settings: SamplingSettings, on_step: Callable[[int, Tensor], None] | None = None
    ) -> Image:
        """A video of the example's caption and references; its own frames give the size and length only.

        Returns:
            uint8 [F, H, W, 3].

        Raises:
            SampleError: a phrase of the example has no text token.
        """
        batch = self._encoded([example])
        return generate_clip(self.model, self.codec, self.text, batch, settings, bf16=self.bf16, on_step=on_step)

    def generate_together(self, examples: Sequence[Example], settings: SamplingSettings) -> Image:
        """Videos of examples of one size in one batch; each is what `generate` makes of it, to rounding.

        Returns:
            uint8 [B, F, H, W, 3].

        Raises:
            SampleError: a phrase of an example has no text token.
        """
        batch = self._encoded(examples)
        return generate_clips(self.model, self.codec, self.text, batch, settings, bf16=self.bf16)

    def _encoded(self, examples: Sequence[Example]) -> Batch:
        batch, refused = self.encoder.encode(examples)
        if refused:
            raise SampleError(f"{refused[0].key}: {refused[0].reason}")
        return batch


def sample_pair(
    run: Path,
    data: Path | str,
    key: str,
    output: Path,
    settings: SamplingSettings | None = None,
    on_step: Callable[[int, Tensor], None] | None = None,
) -> SampleResult:
    """Generate the clip that a pair's references and caption describe.

    Args:
        run: folder of a training run.
        data: folder or URI of the dataset that holds the pair; it need not be the one trained on.
        key: of the pair.
        output: the mp4; the sheet takes its name with `.png`.
        settings: of the sampler; None: the run's.
        on_step: called with (step index, latent) as the sampler goes.

    Raises:
        KeyError: the dataset has no such pair.
        SampleError: the pair cannot be used with this run.
        CheckpointError, ConfigError, MissingWeightsError, StoreError: a part is missing.
    """
    trained = read_trained(run)
    samples = PairDataset(Store.at(data))
    index = samples.index.find(key)
    example = ExampleMaker(samples, trained.settings.data, trained.settings.seed).plain(index)
    frames = ClipGenerator.of(trained).generate(example, settings or trained.settings.sampling, on_step)
    split = samples.index[index].split
    sheet = draw_sheet(example, frames, f"{key} ({split}) · step {trained.step}", true=example.video.numpy())
    return SampleResult(*write_clip(output, frames, trained.settings.data.fps, sheet), key, split, trained.step)


def write_clip(output: Path, frames: Image, fps: float, sheet: PilImage.Image) -> tuple[Path, Path]:
    """Write the mp4, and the sheet beside it as PNG. Returns both paths."""
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_bytes(encode_clip(list(frames), fps))
    beside = output.with_suffix(".png")
    sheet.save(beside)
    return output, beside


def draw_sheet(
    example: Example, generated: Image, title: str, *, true: Image | None = None, tile_width: int = 240
) -> PilImage.Image:
    """References by subject with their phrases, generated frames, true frames, and the caption.

    Args:
        generated: uint8 [F, H, W, 3].
        true: as many frames, or None where there is no truth.
    """
    height, width = generated.shape[1:3]
    tile = (tile_width, round(tile_width * height / width))
    picked = np.linspace(0, len(generated) - 1, min(SHEET_FRAMES, len(generated))).round().astype(int)
    rows = [
        [
            (image.numpy(), f"{binding.entity}: {binding.span.of(example.caption)}")
            for image, binding in zip(example.references, example.bindings, strict=True)
        ],
        [(generated[i], f"generated, frame {i}") for i in picked],
    ]
    if true is not None:
        rows.append([(true[i], f"true, frame {i}") for i in picked])
    columns = max(len(row) for row in rows)
    return _grid(rows, tile, columns, [title, *textwrap.wrap(example.caption, columns * tile_width // 8)])


def _grid(
    rows: Sequence[Sequence[tuple[Image, str]]], tile: tuple[int, int], columns: int, header: Sequence[str]
) -> PilImage.Image:
    font, line, gap = ImageFont.load_default(14), 20, 8
    top = gap + line * len(header)
    row_height = tile[1] + line + gap
    size = (columns * (tile[0] + gap) + gap, top + len(rows) * row_height + gap)
    sheet = PilImage.new("RGB", size, "#f4f4f2")
    draw = ImageDraw.Draw(sheet)
    for number, text in enumerate(header):
        draw.text((gap, gap + number * line), text, fill="#222222", font=font)
    for y, row in enumerate(rows):
        for x, (image, label) in enumerate(row):
            left, upper = gap + x * (tile[0] + gap), top + gap + y * row_height
            sheet.paste(PilImage.fromarray(image).resize(tile, PilImage.Resampling.BICUBIC), (left, upper))
            draw.text((left, upper + tile[1] + 2), label[:32], fill="#444444", font=font)
    return sheet
