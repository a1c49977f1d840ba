"""Does a model know whose face is whose? Asked of its own loss, which tells long before generated pictures do.

The true clip of a held-out pair is made noisy; the model predicts it back with the pair's references, and with the same
references after each face has changed places with the next subject's. A model that ties faces to garments and places
predicts better with the right ones. (As in Li et al. 2023, "Your Diffusion Model is Secretly a Zero-Shot Classifier".)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from dataengine.lumosx.data import Batch, BatchEncoder, Example
from dataengine.lumosx.losses import batch_losses, draw_noise
from dataengine.lumosx.structure import Kind
from dataengine.lumosx.transformer import DiT

LEVELS = (500, 650, 800, 900, 970)
"""Noise levels that are asked at, of 1000: where colours are decided."""


@torch.no_grad()
def rises(model: DiT, encoder: BatchEncoder, examples: Sequence[Example]) -> list[float]:
    """By how much each example's loss rises when its faces are exchanged, as a mean over `LEVELS`; above 0 is right.

    The noise is the same for both and for every model.
    """
    right, wrong = (_losses(model, encoder, shown) for shown in (examples, [*map(exchanged, examples)]))
    return (wrong - right).tolist()


def exchanged(example: Example) -> Example:
    """The example with each subject's face replaced by the next subject's; words and groups stay."""
    faces = [i for i, binding in enumerate(example.bindings) if binding.kind is Kind.FACE]
    order = list(range(len(example.bindings)))
    for here, there in zip(faces, [*faces[1:], *faces[:1]], strict=True):
        order[here] = there
    return replace(example, references=example.references[order])


def _losses(model: DiT, encoder: BatchEncoder, examples: Sequence[Example]) -> torch.Tensor:
    batch, refused = encoder.encode(examples)
    assert not refused, refused
    return torch.stack([_at(model, batch, level) for level in LEVELS]).mean(dim=0)


def _at(model: DiT, batch: Batch, level: int) -> torch.Tensor:
    noises = [
        draw_noise(latent, "preference", key, level) for latent, key in zip(batch.latents, batch.keys, strict=True)
    ]
    timesteps = torch.full((len(batch),), float(level), device=batch.latents[0].device)
    return batch_losses(model, batch, noises, timesteps)
