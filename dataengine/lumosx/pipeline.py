"""The relational pipeline: a model with all that belongs to it, from a run or an exported folder, called on requests.

from dataengine.lumosx.pipeline import RelationalPipeline
from dataengine.lumosx.request import read_request

frames = RelationalPipeline.open("exported")(read_request("sample"))
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, ValidationError
from torch import Tensor

from dataengine.config import ConfigError, Settings
from dataengine.lumosx.augment import Image
from dataengine.lumosx.components import best_device, open_codec, open_text
from dataengine.lumosx.request import Request, read_request
from dataengine.lumosx.sampling import ClipGenerator, SampleResult, draw_sheet, write_clip
from dataengine.lumosx.settings import CodecSettings, DataSettings, SamplingSettings, TextSettings
from dataengine.lumosx.trained import Trained, read_trained
from dataengine.lumosx.transformer import DiT, DiTConfig
from dataengine.lumosx.weights import WeightsError, load_into, load_weights

FILE = "relational.json"
HERE = "."
"""In place of a codec's or text encoder's model: it is in the exported folder itself."""


class PipelineSettings(Settings):
    """What `relational.json` says beside diffusers' own files: all that the model's results depend on."""

    format: Literal[1] = 1
    step: int = Field(description="optimizer steps that were trained")
    cell_map: Literal["exact", "released"]
    mcam_ratio: float = Field(ge=0)
    r2pe: bool = True
    csam: bool = True
    height: int = Field(ge=16, description="pixels")
    width: int = Field(ge=16, description="pixels")
    frames: int = Field(ge=1)
    fps: float = Field(gt=0)
    precision: Literal["fp32", "bf16"] = Field(description="of the compute")
    codec: CodecSettings
    text: TextSettings
    sampling: SamplingSettings

    @classmethod
    def of(cls, trained: Trained) -> Self:
        """Those of a run."""
        settings = trained.settings
        return cls(
            step=trained.step,
            cell_map=trained.config.cell_map,
            mcam_ratio=trained.config.mcam_ratio,
            r2pe=trained.config.r2pe,
            csam=trained.config.csam,
            height=settings.data.height,
            width=settings.data.width,
            frames=settings.data.frames,
            fps=settings.data.fps,
            precision=settings.precision,
            codec=settings.codec,
            text=settings.text,
            sampling=settings.sampling,
        )

    @property
    def data(self) -> DataSettings:
        """Size and length of a clip, as a request needs them."""
        return DataSettings(height=self.height, width=self.width, frames=self.frames, fps=self.fps)


class RelationalPipeline:
    """Generates clips from captions and images that are tied to their words.

    Attributes:
        settings: size, length, and the sampler's defaults.
    """

    def __init__(self, generator: ClipGenerator, settings: PipelineSettings) -> None:
        self._generator = generator
        self.settings = settings

    @classmethod
    def open(cls, place: str | Path) -> RelationalPipeline:
        """Open an exported folder (`dataengine model export --to diffusers`) or a training run.

        Raises:
            ConfigError: neither of them.
            CheckpointError, MissingWeightsError, WeightsError: a part is missing or does not fit.
        """
        place = Path(place)
        if (place / FILE).is_file():
            return cls.from_pretrained(place)
        trained = read_trained(place)
        return cls(ClipGenerator.of(trained), PipelineSettings.of(trained))

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> RelationalPipeline:
        """Open an exported folder. No code in it is run; what it has not itself is looked up in the hub's cache.

        Raises:
            ConfigError: it is none.
            MissingWeightsError: codec or text encoder are not on this machine; names the download.
            WeightsError: its weights do not fit its configuration.
        """
        folder, device = Path(folder), best_device()
        settings = read_settings(folder)
        codec, text = settings.codec, settings.text
        if codec.model == HERE:
            codec = codec.model_copy(update={"model": str(folder)})
        if text.model == HERE:
            text = text.model_copy(update={"model": str(folder)})
        model = load_transformer(folder, settings).to(device)
        parts = open_codec(codec, device), open_text(text, device)
        return cls(ClipGenerator(model, *parts, bf16=settings.precision == "bf16"), settings)

    def __call__(
        self,
        request: Request,
        sampling: SamplingSettings | None = None,
        on_step: Callable[[int, Tensor], None] | None = None,
    ) -> Image:
        """The clip that a request describes, rgb uint8 [F, H, W, 3].

        Args:
            sampling: None: as the model was exported.
            on_step: called with (step index, latent) as the sampler goes.

        Raises:
            SampleError: a phrase of the request has no place of its own in its caption.
        """
        example = request.to_example(self.settings.data)
        return self._generator.generate(example, sampling or self.settings.sampling, on_step)


def read_settings(folder: Path) -> PipelineSettings:
    """Read `relational.json`. Raises `ConfigError` if it is missing or says something else."""
    try:
        return PipelineSettings.model_validate_json((folder / FILE).read_bytes())
    except (OSError, ValidationError) as error:
        raise ConfigError(f"{folder}: no exported pipeline: {error}") from error


def load_transformer(folder: Path, settings: PipelineSettings) -> DiT:
    """The DiT of an exported folder, on the CPU. Raises `WeightsError` if its files do not fit each other."""
    file = folder / "transformer" / "config.json"
    try:
        config = DiTConfig.from_diffusers(
            json.loads(file.read_text(encoding="utf-8")),
            text_len=settings.text.max_tokens,
            mcam_ratio=settings.mcam_ratio,
            cell_map=settings.cell_map,
            r2pe=settings.r2pe,
            csam=settings.csam,
        )
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise WeightsError(f"{file}: not the configuration of a Wan transformer: {error}") from error
    model = DiT(config)
    load_into(model, load_weights(folder / "transformer"))
    return model


def sample_request(place: Path, folder: Path, output: Path, sampling: SamplingSettings | None = None) -> SampleResult:
    """Generate the clip of a request in the released layout, and draw its sheet.

    Args:
        place: a training run or an exported folder.
        folder: the request, see `request.read_request`.
        output: the mp4; the sheet takes its name with `.png`.
        sampling: None: as the model was trained or exported.

    Raises:
        SampleError: the request cannot be used.
        CheckpointError, ConfigError, MissingWeightsError, WeightsError: a part of the model is missing.
    """
    request = read_request(folder)  # before seconds of loading
    pipeline = RelationalPipeline.open(place)
    settings = pipeline.settings
    frames = pipeline(request, sampling)
    sheet = draw_sheet(request.to_example(settings.data), frames, f"{request.name} · step {settings.step}")
    return SampleResult(*write_clip(output, frames, settings.fps, sheet), request.name, "request", settings.step)
