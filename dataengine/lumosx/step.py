"""One optimizer step, issued without waiting for the device: what it computed is read while the next one runs."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor, nn

from dataengine.lumosx.average import Average
from dataengine.lumosx.data import Batch, BatchEncoder, Example, Refused
from dataengine.lumosx.distributed import Ranks, local, summed, whole
from dataengine.lumosx.losses import batch_losses, draw_noise, draw_timesteps, noise_ranges, take_part
from dataengine.lumosx.metrics import StepMetrics
from dataengine.lumosx.optimizer import advance, learning_rate
from dataengine.lumosx.settings import TrainSettings
from dataengine.lumosx.transfer import Moment, Numbers, to_device
from dataengine.lumosx.transformer import DiT


@dataclass(frozen=True, slots=True, eq=False)
class Issued:
    """A step that the device was told to take.

    Attributes:
        step: its number, from 1.
        keys: of this rank's examples.
        refused: places of this rank that gave none.
    """

    step: int
    keys: tuple[str, ...]
    refused: tuple[Refused, ...]
    _lr: float
    _edges: tuple[float, ...]
    _numbers: Numbers
    _begun: Moment
    _ended: Moment
    _waited: float

    def metrics(self) -> StepMetrics:
        """What it computed. Waits for the device where it has not got there yet."""
        norm, *sums = self._numbers.read()
        parts = len(self._edges) - 1
        totals, counts = sums[:parts], sums[parts:]
        count = int(sum(counts))
        loss = sum(totals) / count if count else math.nan
        norm = norm if count else math.nan
        finite = math.isfinite(loss) and math.isfinite(norm)
        by_noise = {
            f"{self._edges[k]:.0f}-{self._edges[k + 1]:.0f}": totals[k] / counts[k] for k in range(parts) if counts[k]
        }
        return StepMetrics(
            step=self.step,
            loss=loss if math.isfinite(loss) else None,
            grad_norm=norm if math.isfinite(norm) else None,
            lr=self._lr,
            examples=count,
            skipped=not finite,
            seconds=round(self._ended.since(self._begun), 4),
            waited=round(self._waited, 4),
            by_noise=by_noise if finite else {},
        )


class Stepper:
    """Takes steps: forward and backward over a rank's batches, clipping, the optimizer, the average.

    A step whose loss or gradient is not finite leaves weights, moments and average as they are. The device decides
    that by itself; the host learns of it from `Issued.metrics`.
    """

    def __init__(
        self,
        model: DiT,
        parameters: Mapping[str, nn.Parameter],
        average: Average,
        optimizer: torch.optim.Optimizer,
        encoder: BatchEncoder,
        settings: TrainSettings,
        ranks: Ranks,
        device: torch.device,
    ) -> None:
        self._model, self._trained, self._average, self._optimizer = model, [*parameters.values()], average, optimizer
        self._encoder, self._settings, self._ranks, self._device = encoder, settings, ranks, device
        self._per_step = settings.batch * settings.accumulate * ranks.world
        inner = noise_ranges(settings.noise)
        self._edges = (0.0, *inner, 1000.0)
        self._inner = torch.tensor(inner, dtype=torch.float32)

    def take(self, step: int, examples: Iterator[Example | Refused]) -> Issued:
        """The step that follows `step` others."""
        settings = self._settings
        begun, waited = Moment(self._device), 0.0
        noise_levels = draw_timesteps(self._per_step, settings.noise, settings.seed, step)
        sums = torch.zeros(2, len(self._edges) - 1, device=self._device)  # of losses and examples, by range of t
        keys: list[str] = []
        refused: list[Refused] = []
        for _ in range(settings.accumulate):
            asked = time.monotonic()
            taken = list(islice(examples, settings.batch))
            waited += time.monotonic() - asked
            batch, unusable = self._encoder.encode(taken)
            refused += unusable
            keys += batch.keys
            self._add_gradients(batch, noise_levels, sums)
        norm, finite = self._gradients(sums)
        lr = learning_rate(step, settings.steps, settings.optimizer)
        advance(self._optimizer, lr, finite)
        self._average.update(step, finite)
        self._optimizer.zero_grad(set_to_none=True)
        numbers = Numbers(torch.cat([norm.reshape(1), sums.flatten()]))
        ended = Moment(self._device)
        return Issued(step + 1, tuple(keys), tuple(refused), lr, self._edges, numbers, begun, ended, waited)

    def _add_gradients(self, batch: Batch, noise_levels: Tensor, sums: Tensor) -> None:
        """Backward through the summed losses of a batch."""
        if not len(batch):
            if self._ranks.world > 1:
                with self._precision():
                    nothing = take_part(self._model, self._device)
                (nothing.sum() * 0).backward()
            return
        drawn = noise_levels[[position % self._per_step for position in batch.positions]]
        timesteps = to_device(drawn, self._device)
        noises = [
            draw_noise(latent, self._settings.seed, position)
            for latent, position in zip(batch.latents, batch.positions, strict=True)
        ]
        with self._precision():
            losses = batch_losses(self._model, batch, noises, timesteps)
        losses.sum().backward()
        ranges = to_device(torch.bucketize(drawn, self._inner), self._device)
        sums.index_add_(1, ranges, torch.stack([losses.detach(), torch.ones_like(losses)]))

    def _precision(self) -> torch.autocast:
        return torch.autocast(self._device.type, torch.bfloat16, enabled=self._settings.precision == "bf16")

    def _gradients(self, sums: Tensor) -> tuple[Tensor, Tensor]:
        """The gradient norm before clipping, and whether it and the loss are finite; leaves clipped gradients.

        Adds the sums of all ranks to `sums`. The loss is the mean over the examples of all ranks, whichever of them
        had how many.
        """
        total, count = summed(sums, self._ranks).sum(dim=1)
        gradients = [local(parameter.grad) for parameter in self._trained if parameter.grad is not None]
        if gradients:
            # FSDP has taken the mean over ranks.
            torch._foreach_div_(gradients, (count / self._ranks.world).clamp(min=1e-9))
        norm = whole(torch.nn.utils.clip_grad_norm_(self._trained, self._settings.optimizer.clip_norm))
        return norm, torch.isfinite(total) & torch.isfinite(norm) & (count > 0)
