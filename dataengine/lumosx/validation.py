"""The loss under fixed noise, of clips that are trained on and of clips that are not."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from itertools import groupby

import numpy as np
import torch

from dataengine.lumosx.data import Batch, BatchEncoder, Example, ExampleMaker
from dataengine.lumosx.distributed import ALONE, Ranks, summed
from dataengine.lumosx.losses import batch_losses, draw_noise, take_part
from dataengine.lumosx.metrics import HELD_OUT, LEARNED, ValidationMetrics
from dataengine.lumosx.order import Size, Traits, buckets, sizes
from dataengine.lumosx.settings import DataSettings, TrainSettings
from dataengine.lumosx.transformer import DiT
from dataengine.lumosx.windows import SampleError
from dataengine.shards.reader import PairDataset
from dataengine.video import VideoError

log = logging.getLogger(__name__)


def spread(samples: PairDataset, data: DataSettings, count: int) -> list[tuple[int, Size]]:
    """About `count` samples with the size that each is trained in: of every size its share, and one at least.

    Evenly over those of a size: shards are sorted by number of subjects.
    """
    if not len(samples):
        return []
    found, chosen = buckets(Traits.of(samples.index), data), []
    for number, size in enumerate(sizes(data)):
        members = np.flatnonzero(found == number)
        share = min(len(members), max(1, round(count * len(members) / len(samples))))
        chosen += [(int(members[len(members) * k // share]), size) for k in range(share)]
    return chosen


class Validator:
    """The loss under fixed noise at fixed levels, of held-out clips and of training clips; no randomness is left in it.

    Ranks share the batches, and all sum up what each measured: a split model computes with all of them, so who has no
    batch left takes part without one. Examples are plain: no augmentation, no dropout. A sample that cannot be used is
    left out, with a warning.
    """

    def __init__(
        self,
        learned: PairDataset,
        held_out: PairDataset,
        encoder: BatchEncoder,
        settings: TrainSettings,
        ranks: Ranks = ALONE,
        device: torch.device | str = "cpu",
    ) -> None:
        self._settings, self._ranks, self._device = settings, ranks, torch.device(device)
        self._sizes = sizes(settings.data)
        pools = ((LEARNED, learned), (HELD_OUT, held_out))
        self._sets = {name: self._encode(encoder, pool) for name, pool in pools if len(pool)}

    def __call__(self, model: DiT, step: int) -> tuple[ValidationMetrics, ...]:
        """The loss of each set that has samples that can be used; the same on all ranks."""
        found = (self._measure(model, step, name, batches) for name, batches in self._sets.items())
        return tuple(event for event in found if event is not None)

    @torch.no_grad()
    def _measure(
        self, model: DiT, step: int, name: str, batches: list[tuple[Size, Batch] | None]
    ) -> ValidationMetrics | None:
        levels = self._settings.validation.timesteps
        sums = torch.zeros(2, len(levels), len(self._sizes), device=self._device)  # of losses and of clips
        for row, t in enumerate(levels):
            for entry in batches:
                with torch.autocast(self._device.type, torch.bfloat16, enabled=self._settings.precision == "bf16"):
                    if entry is None:
                        take_part(model, self._device)
                        continue
                    size, batch = entry
                    noises = [
                        draw_noise(latent, "validation", key, t)
                        for latent, key in zip(batch.latents, batch.keys, strict=True)
                    ]
                    timesteps = torch.full((len(batch),), float(t), device=self._device)
                    losses = batch_losses(model, batch, noises, timesteps)
                column = self._sizes.index(size)
                sums[0, row, column] += losses.sum()
                sums[1, row, column] += len(batch)
        totals, counts = summed(sums, self._ranks).double().cpu()
        if not counts.sum():
            return None
        by_timestep = dict(zip(map(str, levels), (totals.sum(dim=1) / counts.sum(dim=1)).tolist(), strict=True))
        by_size = {
            "x".join(map(str, size)): float(totals[:, k].sum() / counts[:, k].sum())
            for k, size in enumerate(self._sizes)
            if len(self._sizes) > 1 and counts[:, k].sum()
        }
        return ValidationMetrics(step, name, sum(by_timestep.values()) / len(by_timestep), by_timestep, by_size)

    def _encode(self, encoder: BatchEncoder, samples: PairDataset) -> list[tuple[Size, Batch] | None]:
        """This rank's batches, each of one size; None where the others still have one."""
        settings = self._settings
        maker = ExampleMaker(samples, settings.data.model_copy(update={"cache_mb": 0}), settings.seed)
        planned = list(_batches(spread(samples, settings.data, settings.validation.samples), settings.batch))
        rounds = -(-len(planned) // self._ranks.world)
        turns = range(self._ranks.rank, rounds * self._ranks.world, self._ranks.world)
        return [self._batch(encoder, maker, *planned[n]) if n < len(planned) else None for n in turns]

    def _batch(
        self, encoder: BatchEncoder, maker: ExampleMaker, size: Size, indices: list[int]
    ) -> tuple[Size, Batch] | None:
        examples: list[Example] = []
        for index in indices:
            try:
                examples.append(maker.plain(index, size))
            except (SampleError, VideoError) as error:
                log.warning("validation sample %d is left out: %s", index, error)
        batch, refused = encoder.encode(examples)
        for sample in refused:
            log.warning("validation sample %s is left out: %s", sample.key, sample.reason)
        return (size, batch) if len(batch) else None


def _batches(chosen: list[tuple[int, Size]], count: int) -> Iterator[tuple[Size, list[int]]]:
    for size, group in groupby(chosen, key=lambda pair: pair[1]):
        indices = [index for index, _ in group]
        yield from ((size, indices[start : start + count]) for start in range(0, len(indices), count))
