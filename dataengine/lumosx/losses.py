"""The loss of a batch, with noise and noise levels that are named by what they are for, not drawn in turn."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dataengine.lumosx.components import seed_of
from dataengine.lumosx.data import Batch
from dataengine.lumosx.objective import (
    TimestepSampling,
    model_timesteps,
    noised,
    quantile_edges,
    sample_losses,
    sample_timesteps,
)
from dataengine.lumosx.settings import NoiseSettings
from dataengine.lumosx.structure import SampleStructure
from dataengine.lumosx.transfer import to_device
from dataengine.lumosx.transformer import DiT


def batch_losses(model: DiT, batch: Batch, noises: Sequence[Tensor], timesteps: Tensor) -> Tensor:
    """The flow-matching loss of each sample, [B] float32, with gradients.

    Args:
        noises: ε of each sample, shaped as its latent.
        timesteps: t of each sample in 0 … 1000, [B].
    """
    noisy = [
        noised(latent, noise, t) for latent, noise, t in zip(batch.latents, noises, timesteps.unbind(), strict=True)
    ]
    layout = model.layout(batch.structures)
    predictions = model(noisy, batch.references, batch.contexts, model_timesteps(timesteps), layout)
    return sample_losses(predictions, batch.latents, noises)


def take_part(model: DiT, device: torch.device) -> Tensor:
    """A forward pass over next to nothing, of a rank without an example: a split model computes with all of them."""
    config = model.config
    blank = SampleStructure(1, (1, 1), (), 0)
    latent = torch.zeros(config.in_channels, 1, config.patch[1], config.patch[2], device=device)
    context = torch.zeros(1, config.text_dim, device=device)
    timesteps = torch.zeros(1, dtype=torch.long, device=device)
    (found,) = model([latent], [None], [context], timesteps, model.layout([blank], device))
    return found


def draw_timesteps(count: int, settings: NoiseSettings, seed: int, step: int) -> Tensor:
    """The noise levels of a step's examples on all ranks, by position modulo `count`; on the host."""
    drawn = torch.Generator().manual_seed(seed_of(seed, "timesteps", step))
    return sample_timesteps(count, _sampling(settings), drawn)


def noise_ranges(settings: NoiseSettings, parts: int = 4) -> list[float]:
    """The inner edges of equally likely ranges of t, for losses by noise level."""
    return quantile_edges(parts, _sampling(settings))


def _sampling(settings: NoiseSettings) -> TimestepSampling:
    return TimestepSampling(settings.kind, settings.shift, settings.mean, settings.std, settings.stratified)


def draw_noise(latent: Tensor, *name: object) -> Tensor:
    """Gaussian noise shaped as `latent`: of the seed and position it is named by, the same on every device."""
    drawn = torch.Generator().manual_seed(seed_of("noise", *name))
    return to_device(torch.randn(latent.shape, generator=drawn), latent.device)
