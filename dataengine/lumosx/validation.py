"""The loss under fixed noise, of clips that are trained on and of clips that are not."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch

from dataengine.lumosx.data import Batch, BatchEncoder, Example, ExampleMaker, Samples
from dataengine.lumosx.losses import batch_losses, draw_noise
from dataengine.lumosx.metrics import HELD_OUT, LEARNED, ValidationMetrics
from dataengine.lumosx.settings import TrainSettings
from dataengine.lumosx.transformer import DiT
from dataengine.lumosx.windows import SampleError
from dataengine.video import VideoError

log = logging.getLogger(__name__)


class Validator:
    """The loss under fixed noise at fixed levels, of held-out clips and of training clips; no randomness is left in it.

    With several ranks each measures the same: a split model computes with all of them. Examples are plain: no
    augmentation, no dropout. A sample that cannot be used is left out, with a warning.
    """

    def __init__(self, learned: Samples, held_out: Samples, encoder: BatchEncoder, settings: TrainSettings) -> None:
        self._settings = settings
        self._sets = {name: self._encode(encoder, pool) for name, pool in ((LEARNED, learned), (HELD_OUT, held_out))}

    def __call__(self, model: DiT, step: int) -> tuple[ValidationMetrics, ...]:
        """The loss of each set that has samples."""
        return tuple(self._measure(model, step, name, batches) for name, batches in self._sets.items() if batches)

    @torch.no_grad()
    def _measure(self, model: DiT, step: int, name: str, batches: Sequence[Batch]) -> ValidationMetrics:
        by_timestep: dict[str, float] = {}
        for t in self._settings.validation.timesteps:
            losses = []
            for batch in batches:
                noises = [
                    draw_noise(latent, "validation", key, t)
                    for latent, key in zip(batch.latents, batch.keys, strict=True)
                ]
                timesteps = torch.full((len(batch),), float(t), device=batch.latents[0].device)
                with torch.autocast(timesteps.device.type, torch.bfloat16, enabled=self._settings.precision == "bf16"):
                    losses.append(batch_losses(model, batch, noises, timesteps))
            by_timestep[str(t)] = torch.cat(losses).mean().item()
        return ValidationMetrics(step, name, sum(by_timestep.values()) / len(by_timestep), by_timestep)

    def _encode(self, encoder: BatchEncoder, samples: Samples) -> list[Batch]:
        maker = ExampleMaker(samples, self._settings.data.model_copy(update={"cache_mb": 0}), self._settings.seed)
        examples: list[Example] = []
        # Evenly over the split: shards are sorted by number of subjects.
        count = min(len(samples), self._settings.validation.samples)
        for index in (len(samples) * k // count for k in range(count)):
            try:
                examples.append(maker.plain(index))
            except (SampleError, VideoError) as error:
                log.warning("validation sample %d is left out: %s", index, error)
        size = self._settings.batch
        batches = [encoder.encode(examples[start : start + size])[0] for start in range(0, len(examples), size)]
        return [batch for batch in batches if len(batch)]
