"""From noise, a caption and references to frames: one clip by guided sampling, from a run or in the middle of one."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dataengine.lumosx.augment import Image
from dataengine.lumosx.codec import Codec, to_frames
from dataengine.lumosx.components import seed_of
from dataengine.lumosx.data import Batch
from dataengine.lumosx.sampler import Schedule, guided, sample
from dataengine.lumosx.settings import SamplingSettings
from dataengine.lumosx.text import TextEncoder
from dataengine.lumosx.transformer import DiT


def generate_clip(
    model: DiT,
    codec: Codec,
    text: TextEncoder,
    batch: Batch,
    settings: SamplingSettings,
    *,
    bf16: bool,
    on_step: Callable[[int, Tensor], None] | None = None,
) -> Image:
    """The clip of a batch of one; see `generate_clips`. `on_step` is called with (step, latent).

    Returns:
        uint8 [F, H, W, 3].
    """
    one = None if on_step is None else lambda step, latents: on_step(step, latents[0])
    (clip,) = generate_clips(model, codec, text, batch, settings, bf16=bf16, on_step=one)
    return clip


def generate_clips(
    model: DiT,
    codec: Codec,
    text: TextEncoder,
    batch: Batch,
    settings: SamplingSettings,
    *,
    bf16: bool,
    on_step: Callable[[int, Tensor], None] | None = None,
) -> Image:
    """The clips of a batch of one size, sampled together.

    Each is the same for its key and the settings' seed, whatever it is sampled with; shared generators are untouched.
    The batch's latents give size and length only. With `bf16` the model computes under autocast, as in training.

    Args:
        on_step: called with (step, latents [B, 16, T, h, w]).

    Returns:
        uint8 [B, F, H, W, 3].
    """
    noise = torch.stack(
        [_noise(latent, settings.seed, key) for latent, key in zip(batch.latents, batch.keys, strict=True)]
    )
    velocity = _velocity(model, text, batch, settings, bf16)
    latents = sample(velocity, noise, Schedule.flow(settings.steps, settings.shift), on_step)
    return to_frames(codec.decode(latents)).cpu().numpy()


def _noise(latent: Tensor, seed: int, key: str) -> Tensor:
    drawn = torch.Generator().manual_seed(seed_of(seed, "sample", key))
    return torch.randn(latent.shape, generator=drawn).to(latent.device)


def _velocity(
    model: DiT, text: TextEncoder, batch: Batch, settings: SamplingSettings, bf16: bool
) -> Callable[[Tensor, int], Tensor]:
    """The guided velocity field. Both branches run as one batch; they differ in the text alone."""
    count, branches = len(batch), 1 if settings.guidance == 1 else 2
    contexts = list(batch.contexts)
    if branches == 2:
        contexts += [text.encode([settings.negative_prompt])[0].context] * count
    references = batch.references * branches
    layout = model.layout(batch.structures * branches, batch.latents[0].device)

    @torch.no_grad()
    def velocity(latents: Tensor, timestep: int) -> Tensor:
        timesteps = torch.full((count * branches,), timestep, device=latents.device)
        with torch.autocast(latents.device.type, torch.bfloat16, enabled=bf16):
            found = torch.stack(model([*latents] * branches, references, contexts, timesteps, layout))
        return found if branches == 1 else guided(found[:count], found[count:], settings.guidance)

    return velocity
