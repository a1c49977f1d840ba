"""Flow matching: how noise levels are drawn, what the model sees, what it is asked for, and the loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

STEPS = 1000  # t runs over 0 … 1000; σ = t / 1000


@dataclass(frozen=True, slots=True)
class TimestepSampling:
    """Distribution of the noise level t.

    Attributes:
        kind: `uniform`: t ~ U(0, 1)·1000, as LumosX was trained. `logit_normal`: sigmoid of a normal (Stable
            Diffusion 3). `shifted`: uniform, then moved to higher noise by `shift`.
        shift: s of t' = s·t / (1 + (s-1)·t), on t in [0, 1]. Must stay 1 for `uniform`; also applies to `logit_normal`.
        mean, std: of the normal, for `logit_normal`.
        stratified: one shared offset and evenly spaced draws (Kingma et al. 2021, "Variational Diffusion Models",
            section I.1) instead of independent ones: every draw keeps its distribution, their mean varies less.
    """

    kind: Literal["uniform", "logit_normal", "shifted"] = "uniform"
    shift: float = 1.0
    mean: float = 0.0
    std: float = 1.0
    stratified: bool = True

    def __post_init__(self) -> None:
        if self.kind not in ("uniform", "logit_normal", "shifted"):
            raise ValueError(f"unknown timestep sampling {self.kind!r}: choose uniform, logit_normal or shifted")
        if self.shift <= 0 or self.std <= 0:
            raise ValueError(f"shift and std must be positive, got {self.shift} and {self.std}")
        if self.kind == "uniform" and self.shift != 1.0:
            raise ValueError("uniform timesteps take no shift; set kind to 'shifted'")


def sample_timesteps(count: int, sampling: TimestepSampling, generator: torch.Generator) -> Tensor:
    """Draw noise levels, [count] float32 in [0, 1000], on the generator's device.

    To stratify over ranks, draw for the global batch from a generator seeded alike on every rank, and slice.
    """
    device = generator.device
    if sampling.stratified:
        offset = torch.rand((), generator=generator, dtype=torch.float64, device=device)
        u = (torch.arange(count, dtype=torch.float64, device=device) / count + offset) % 1.0
        u = u[torch.randperm(count, generator=generator, device=device)]  # no batch slot may own a noise level
    else:
        u = torch.rand(count, generator=generator, dtype=torch.float64, device=device)
    return _level(u, sampling).float()


def quantile_edges(parts: int, sampling: TimestepSampling) -> list[float]:
    """Noise levels that part the distribution of t into equally likely ranges: `parts` - 1 of them, ascending."""
    u = torch.arange(1, parts, dtype=torch.float64) / parts
    return _level(u, sampling).tolist()


def _level(u: Tensor, sampling: TimestepSampling) -> Tensor:
    """The noise level t at a share `u` of the distribution, ascending in it."""
    if sampling.kind == "logit_normal":
        u = torch.sigmoid(sampling.mean + sampling.std * torch.special.ndtri(u))
    return STEPS * shifted(u, sampling.shift)


def shifted(u: Tensor, shift: float) -> Tensor:
    """Move noise levels in [0, 1] by the resolution shift s: s·u / (1 + (s-1)·u)."""
    return shift * u / (1 + (shift - 1) * u)


def model_timesteps(t: Tensor) -> Tensor:
    """The time the model is conditioned on: ⌊t⌋ as int64, though σ keeps the fraction."""
    return t.floor().long()


def noised(latent: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """x_t = (1-σ)·x0 + σ·ε with σ = t/1000.

    Args:
        latent, noise: [..., C, T, H, W].
        t: [...], one level per sample (0-d for a single one).
    """
    sigma = (t / STEPS).to(latent.dtype)[(..., *[None] * 4)]
    return (1 - sigma) * latent + sigma * noise


def sample_losses(predictions: Sequence[Tensor], latents: Sequence[Tensor], noises: Sequence[Tensor]) -> Tensor:
    """mean‖v̂ - (ε - x0)‖² over the video frames of each sample, in float32, [samples].

    Args:
        predictions: what `DiT.forward` returns; [C, T, H, W] each, video frames only.
        latents, noises: x0 and ε, the same shapes. References are clean and carry no loss.

    Raises:
        ValueError: shapes differ (broadcasting would hide reference frames in the loss).
    """
    losses = []
    for index, (prediction, latent, noise) in enumerate(zip(predictions, latents, noises, strict=True)):
        if not prediction.shape == latent.shape == noise.shape:
            raise ValueError(
                f"sample {index}: prediction {tuple(prediction.shape)}, latent {tuple(latent.shape)} and "
                f"noise {tuple(noise.shape)} must have one shape"
            )
        losses.append((prediction.float() - (noise.float() - latent.float())).square().mean())
    return torch.stack(losses)
