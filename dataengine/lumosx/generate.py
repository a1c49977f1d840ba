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
    """The clip of a batch of one, always the same for its key and the settings' seed; shared generators are untouched.

    The batch's latent gives size and length only. With `bf16` the model computes under autocast, as in training.

    Returns:
        uint8 [F, H, W, 3].
    """
    drawn = torch.Generator().manual_seed(seed_of(settings.seed, "sample", batch.keys[0]))
    noise = torch.randn(batch.latents[0].shape, generator=drawn).to(batch.latents[0].device)
    velocity = _velocity(model, text, batch, settings, bf16)
    latent = sample(velocity, noise, Schedule.flow(settings.steps, settings.shift), on_step)
    return to_frames(codec.decode(latent[None]))[0].cpu().numpy()


def _velocity(
    model: DiT, text: TextEncoder, batch: Batch, settings: SamplingSettings, bf16: bool
) -> Callable[[Tensor, int], Tensor]:
    """The guided velocity field. Both branches run as one batch; they differ in the text alone."""
    branches = 1 if settings.guidance == 1 else 2
    contexts = [*batch.contexts, text.encode([settings.negative_prompt])[0].context][:branches]
    references = batch.references * branches
    layout = model.layout(batch.structures * branches, batch.latents[0].device)

    @torch.no_grad()
    def velocity(latent: Tensor, timestep: int) -> Tensor:
        timesteps = torch.full((branches,), timestep, device=latent.device)
        with torch.autocast(latent.device.type, torch.bfloat16, enabled=bf16):
            found = model([latent] * branches, references, contexts, timesteps, layout)
        return found[0] if branches == 1 else guided(found[0], found[1], settings.guidance)

    return velocity
