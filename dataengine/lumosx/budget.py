"""What a training step costs before it is taken: arithmetic, memory, disk. Formulas, checked against counters."""

from __future__ import annotations

from dataclasses import dataclass

from dataengine.lumosx.settings import TrainSettings
from dataengine.lumosx.structure import SampleStructure
from dataengine.lumosx.transformer import DiTConfig

_FP32, _BF16 = 4, 2
_MOMENTS = {"adamw": 2 * _FP32, "adamw8bit": 2 * (1 + _FP32 / 256)}
"""Bytes of both moments of a parameter: 8-bit ones have a scale for every 256."""


@dataclass(frozen=True, slots=True)
class Flops:
    """Floating-point operations of one forward pass (a multiply and an add are two), by where they are."""

    linear: float
    attention: float

    @property
    def forward(self) -> float:
        return self.linear + self.attention

    def step(self, checkpointing: str) -> float:
        """Of forward and backward, with what is computed again: a backward costs two forwards."""
        again = {"none": 0.0, "full": self.forward, "keep_attention": self.linear, "keep_matmul": 0.0}
        return 3 * self.forward + again[checkpointing]


@dataclass(frozen=True, slots=True)
class Budget:
    """What a run takes on every rank.

    Attributes:
        state_bytes: weights, gradients, AdamW's moments, average, and what a block is gathered into.
        activation_bytes: of the largest batch, roughly: what the backward pass needs, and the largest block's work.
        step_flops: of a step of this rank.
        checkpoint_bytes: of one checkpoint on disk.
    """

    state_bytes: float
    activation_bytes: float
    step_flops: float
    checkpoint_bytes: float

    @property
    def memory_bytes(self) -> float:
        return self.state_bytes + self.activation_bytes


def sample_flops(config: DiTConfig, structure: SampleStructure) -> Flops:
    """One sample's forward pass as `DiT` computes it: the last block skips reference rows after keys and values."""
    dim, frame, video, rows = config.dim, structure.frame_tokens, structure.video_tokens, structure.tokens
    groups = [segment.count * frame for segment in structure.segments]
    references = structure.reference_tokens * rows if not config.csam else sum(length * length for length in groups)
    linear = attention = 0.0
    for block in range(config.layers):
        queries = rows if block < config.layers - 1 else video
        # q and o of self-attention, q and o of cross-attention; keys and values of all rows, and of the text.
        linear += 2 * dim * dim * (4 * queries + 2 * rows + 2 * config.text_len) + 4 * dim * config.ffn_dim * queries
        attention += 4 * dim * (video * rows + queries * config.text_len)
        if queries == rows:
            attention += 4 * dim * references
    patch = config.in_channels * config.patch[0] * config.patch[1] * config.patch[2]
    linear += 2 * dim * patch * rows + 2 * dim * patch // config.in_channels * config.out_channels * video
    linear += 2 * dim * config.text_len * (config.text_dim + dim)
    linear += 2 * dim * (config.freq_dim + dim + 6 * dim)
    return Flops(linear, attention)


def parameter_count(config: DiTConfig) -> int:
    """Parameters of the model."""
    dim, ffn = config.dim, config.ffn_dim
    block = 8 * (dim * dim + dim) + 4 * dim + 2 * dim + 2 * dim * ffn + ffn + dim + 6 * dim
    patch = config.patch[0] * config.patch[1] * config.patch[2]
    embeddings = dim * config.in_channels * patch + dim  # patches
    embeddings += dim * config.text_dim + dim + dim * dim + dim
    embeddings += dim * config.freq_dim + dim + dim * dim + dim + 6 * (dim * dim + dim)
    head = dim * patch * config.out_channels + patch * config.out_channels + 2 * dim
    return config.layers * block + embeddings + head


def trained_count(config: DiTConfig, settings: TrainSettings) -> int:
    """Parameters that training changes."""
    if not settings.lora.rank:
        return parameter_count(config)
    sides = {"ffn.0": config.dim + config.ffn_dim, "ffn.2": config.ffn_dim + config.dim}
    return config.layers * settings.lora.rank * sum(sides.get(name, 2 * config.dim) for name in settings.lora.targets)


def budget(config: DiTConfig, settings: TrainSettings, structures: list[SampleStructure], world: int) -> Budget:
    """What steps over `structures` (one batch, the largest to be expected) take on each of `world` ranks."""
    total, trained = parameter_count(config), trained_count(config, settings)
    block = total / config.layers
    compute = _BF16 if settings.precision == "bf16" else _FP32
    moments = _MOMENTS[settings.optimizer.kind]
    # Master weights, gradient, average and two moments of what is trained; the frozen rest once.
    state = (trained * (3 * _FP32 + moments) + (total * _FP32 if settings.lora.rank else 0)) / world
    state += compute * (total if world == 1 and compute == _BF16 else 2 * block if world > 1 else 0)
    rows = sum(structure.tokens for structure in structures)
    dim, ffn = config.dim, config.ffn_dim
    # Of a block, kept for its backward: its input in float32, and the inputs of its products in the compute type.
    inner = rows * (3 * dim * _FP32 + (10 * dim + 2 * ffn) * compute)
    kept = {
        "none": inner,
        "full": rows * dim * _FP32,
        "keep_attention": rows * dim * (_FP32 + 2 * compute),
        "keep_matmul": rows * (dim * _FP32 + (9 * dim + 2 * ffn) * compute),
    }[settings.model.checkpointing]
    activations = config.layers * kept + (inner if settings.model.checkpointing != "none" else 0)
    flops = sum(sample_flops(config, structure).step(settings.model.checkpointing) for structure in structures)
    checkpoint = trained * (2 * _FP32 + moments)
    return Budget(state, activations, settings.accumulate * flops, checkpoint)
