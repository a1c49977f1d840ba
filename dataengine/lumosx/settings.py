"""Everything `dataengine train` and `dataengine sample` can be told. The defaults are the embedded profile's.

`conf/train.yaml` holds the same keys with the same values, with comments; a test keeps the two equal.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from dataengine.config import Resources, Settings


class ModelSettings(Settings):
    """Shape of the DiT. A field left at None has the value that `size` gives it."""

    size: Literal["embedded", "wan1_3b", "wan14b"] = "embedded"
    dim: int | None = Field(None, ge=2, description="width; an even multiple of heads")
    ffn_dim: int | None = Field(None, ge=1)
    heads: int | None = Field(None, ge=1)
    layers: int | None = Field(None, ge=1)
    r2pe: bool = Field(True, description="a subject's references share a time index; false: one each, as in Wan2.1")
    csam: bool = Field(True, description="references see their own group alone; false: all see all")
    mcam_ratio: float = Field(0.5, ge=0, description="r of MCAM's bias; 0 turns the binding of phrases off")
    cell_map: Literal["exact", "released"] = Field("exact", description="released: for published LumosX weights")
    checkpointing: Literal["none", "full", "keep_attention"] = "none"
    init: str | None = Field(None, description="weights to start from (file or folder); None: from scratch")
    start: Literal["local", "wan"] = Field(
        "local", description="from scratch: as `start.look_around`, or as Wan2.1 did"
    )


class LoraSettings(Settings):
    """Low-rank adapters on linear layers instead of a full fine-tune. The base stays as `model.init` has it."""

    rank: int = Field(0, ge=0, description="0: no adapters, all weights are trained")
    alpha: int = Field(16, gt=0, description="adapters are scaled by alpha / rank")
    targets: tuple[str, ...] = Field(
        ("self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o",
         "cross_attn.q", "cross_attn.k", "cross_attn.v", "cross_attn.o", "ffn.0", "ffn.2"),
        min_length=1,
        description="linear layers of every block that get one",
    )  # fmt: skip


class CodecSettings(Settings):
    name: Literal["dct", "wan"] = "dct"
    model: str = Field("Wan-AI/Wan2.1-T2V-1.3B-Diffusers", description="for wan: local folder or cached hub id")
    revision: str = Field("main", description="pin a commit for runs that must be repeatable")


class TextSettings(Settings):
    name: Literal["minilm", "umt5"] = "minilm"
    max_tokens: int = Field(128, ge=8, le=512, description="text tokens the DiT sees; longer captions are cut")
    model: str = Field("Wan-AI/Wan2.1-T2V-1.3B-Diffusers", description="for umt5: local folder or cached hub id")
    revision: str = "main"


class AugmentSettings(Settings):
    """Changes to reference images that keep what they show. Probabilities and ranges of LumosX where it gives them."""

    enabled: bool = Field(False, description="off in the embedded profile: too few steps to learn to see past it")
    crop_min_area: float = Field(0.67, gt=0, le=1, description="random crop to this share of the area, or more")
    downscale_min_px: int = Field(
        112, ge=8, description="the long side is never scaled below this; not for backgrounds"
    )
    rotate_deg: float = Field(20, ge=0, le=180)
    rotate_share: float = Field(0.9, ge=0, le=1)
    flip_share: float = Field(0.9, ge=0, le=1, description="not for backgrounds")
    jitter: float = Field(
        0.1, ge=0, lt=1, description="brightness, contrast and saturation, each ±; hue stays: words name it"
    )
    blur_share: float = Field(0.3, ge=0, le=1)
    blur_max: float = Field(0.004, ge=0, description="largest sigma of the Gaussian, as a share of the long side")


class MixtureSettings(Settings):
    """How samples of one, two, three … subjects are mixed."""

    one_subject_steps: int = Field(0, ge=0, description="first, on one subject alone; LumosX: 15000")
    weights: tuple[float, ...] | None = Field(
        None, min_length=1, description="then: share of samples with 1, 2, 3 … subjects; none: as the dataset has them"
    )

    @model_validator(mode="after")
    def _some_weight(self) -> Self:
        if self.weights is not None and (min(self.weights) < 0 or sum(self.weights) <= 0):
            raise ValueError(f"weights must not be negative, and not all 0; got {self.weights}")
        return self


class DataSettings(Settings):
    height: int = Field(96, ge=16, multiple_of=16, description="pixels")
    width: int = Field(160, ge=16, multiple_of=16, description="pixels")
    frames: int = Field(17, ge=1, description="4k+1")
    fps: float = Field(16, gt=0)
    buckets: tuple[tuple[int, int, int], ...] = Field(
        (), description="(height, width, frames) to choose from by a clip's aspect and length; none: the size above"
    )
    mixture: MixtureSettings = MixtureSettings()
    window: Literal["center", "random"] = Field("center", description="which part of a longer clip is taken")
    body_share: float = Field(
        0.3, ge=0, le=1, description="samples with whole bodies for faces + attributes, where they have them"
    )
    text_dropout: float = Field(0.1, ge=0, lt=1, description="share of samples with the empty caption, for guidance")
    reference_dropout: float = Field(
        0.0, ge=0, le=1, description="share of samples without references; 1: words alone, in validation as well"
    )
    flip_share: float = Field(
        0.0, ge=0, le=1, description="samples mirrored whole, clip and references; never where the caption has sides"
    )
    workers: int = Field(0, ge=0, description="loader processes; 0 decodes in the trainer's own")
    cache_mb: int = Field(512, ge=0, description="decoded clips kept in memory by each loader process")
    augment: AugmentSettings = AugmentSettings()

    @model_validator(mode="after")
    def _whole_latents(self) -> Self:
        for height, width, frames in ((self.height, self.width, self.frames), *self.buckets):
            if frames < 1 or frames % 4 != 1:
                raise ValueError(f"frames must be 4k+1 (1, 5, 9, …), got {frames}")
            if height < 16 or width < 16 or height % 16 or width % 16:
                raise ValueError(f"height and width must be multiples of 16, got {height}×{width}")
        return self


class StoreSettings(Settings):
    """Latents and contexts computed before by `dataengine cache latents`. They change no loss, only where it waits."""

    place: str | None = Field(None, description="folder or URI that holds them; none: all is encoded on line")
    latents: Resources = Field(Resources(row_timeout_s=600), description="of the workers that encode clips")
    contexts: Resources = Field(Resources(batch=32), description="of the workers that encode captions")


class OptimizerSettings(Settings):
    """AdamW. One-dimensional parameters (norms, biases) and modulations do not decay."""

    kind: Literal["adamw", "adamw8bit"] = Field(
        "adamw", description="adamw8bit: moments of 8 bits by torchao, a quarter of the memory; on one rank"
    )
    lr: float = Field(6e-3, gt=0, description="full fine-tune of Wan2.1: 1e-5")
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = Field(0.01, ge=0)
    warmup_steps: int = Field(20, ge=0)
    schedule: Literal["constant", "cosine"] = Field("cosine", description="after warm-up; cosine ends at a tenth of lr")
    clip_norm: float = Field(1.0, gt=0)
    ema_decay: float = Field(0.95, ge=0, lt=1, description="reached gradually; 0.9999 for long runs")


class NoiseSettings(Settings):
    """How t is drawn; see `objective.TimestepSampling`."""

    kind: Literal["uniform", "logit_normal", "shifted"] = Field("shifted", description="LumosX: uniform")
    shift: float = Field(3.0, gt=0, description="to high noise, where references and words decide; 1 for uniform")
    mean: float = 0.0
    std: float = Field(1.0, gt=0)
    stratified: bool = True


class CheckpointSettings(Settings):
    every_steps: int = Field(100, ge=1)
    keep: int = Field(2, ge=1, description="older checkpoints are deleted")


class ValidationSettings(Settings):
    every_steps: int = Field(100, ge=1)
    samples: int = Field(
        6, ge=1, description="clips of each kind: held-out ones, and training ones under held-out noise"
    )
    timesteps: tuple[int, ...] = Field((100, 300, 500, 700, 900), min_length=1, description="noise levels, of 1000")
    sample_every_steps: int = Field(0, ge=0, description="generate clips of held-out pairs so often; 0: never")
    sample_clips: int = Field(2, ge=1)


class TrackingSettings(Settings):
    """`metrics.jsonl` and tensorboard are always written."""

    wandb_project: str | None = Field(None, description="Weights & Biases too; needs the wandb package")


class SamplingSettings(Settings):
    """DPM-Solver++ 2M; see `sampler`."""

    steps: int = Field(20, ge=1)
    shift: float = Field(8.0, gt=0)
    guidance: float = Field(1.5, ge=0, description="1: no guidance, and half the time")
    negative_prompt: str = ""
    seed: int = 0


class TrainSettings(Settings):
    """Everything the trainer can be told."""

    seed: int = 0
    steps: int = Field(700, ge=1)
    batch: int = Field(2, ge=1, description="samples a rank takes at once")
    accumulate: int = Field(1, ge=1, description="batches a rank takes in a step, their gradients summed")
    precision: Literal["fp32", "bf16"] = Field(
        "fp32", description="of the compute; weights, gradients and sums stay fp32"
    )
    cpu_threads: int = Field(1, ge=1, description="of the compute without a GPU; fixed, as it decides the last bits")
    max_skipped: int = Field(10, ge=1, description="stop after so many steps in a row without a finite gradient")
    model: ModelSettings = ModelSettings()
    lora: LoraSettings = LoraSettings()
    codec: CodecSettings = CodecSettings()
    text: TextSettings = TextSettings()
    data: DataSettings = DataSettings()
    stored: StoreSettings = StoreSettings()
    optimizer: OptimizerSettings = OptimizerSettings()
    noise: NoiseSettings = NoiseSettings()
    checkpoint: CheckpointSettings = CheckpointSettings()
    validation: ValidationSettings = ValidationSettings()
    tracking: TrackingSettings = TrackingSettings()
    sampling: SamplingSettings = SamplingSettings()

    @model_validator(mode="after")
    def _adapters_have_a_base(self) -> Self:
        # From scratch the last layer is zero: no gradient would reach an adapter.
        if self.lora.rank and self.model.init is None:
            raise ValueError("lora.rank needs weights that the adapters sit on: set model.init")
        return self
