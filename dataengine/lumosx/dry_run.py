"""A few real steps that leave nothing behind: what a step takes on this machine, before a run is started."""

from __future__ import annotations

import resource
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count

import torch

from dataengine.lumosx.adapters import add_adapters, trained_parameters
from dataengine.lumosx.average import Average
from dataengine.lumosx.codec import Codec
from dataengine.lumosx.components import new_model, seed_of
from dataengine.lumosx.data import BatchEncoder, Example
from dataengine.lumosx.distributed import ALONE
from dataengine.lumosx.optimizer import make_optimizer
from dataengine.lumosx.settings import TrainSettings
from dataengine.lumosx.step import Stepper
from dataengine.lumosx.text import TextEncoder
from dataengine.lumosx.transformer import DiTConfig

STEPS = 3
"""The first warms up: it compiles, allocates and makes the moments."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What steps took.

    Attributes:
        seconds: of a step, the least of those after the first; loading is not in it.
        peak_bytes: on a GPU what was allocated at most; on a CPU by how much the process grew, 0 if it did not.
        tokens: of the step's longest sample.
        finite: whether every step had a finite loss and gradient.
    """

    seconds: float
    peak_bytes: int
    tokens: int
    finite: bool


def dry_run(
    examples: Sequence[Example], config: DiTConfig, settings: TrainSettings, codec: Codec, text: TextEncoder,
    device: torch.device,
) -> Measured:  # fmt: skip
    """Take steps over these examples as one rank of a run would, and forget them.

    Raises:
        WeightsError, FileNotFoundError: the weights of `model.init` do not fit or are not there.
        torch.OutOfMemoryError: a step does not fit the GPU.
    """
    before = _peak(device, fresh=True)
    if device.type == "cpu":
        torch.set_num_threads(settings.cpu_threads)
    model = new_model(settings.model, config, settings.seed, device)
    if settings.lora.rank:
        add_adapters(model, settings.lora, seed_of(settings.seed, "adapters"))
    parameters = trained_parameters(model)
    average = Average(parameters, settings.optimizer.ema_decay)
    optimizer = make_optimizer(parameters, settings.optimizer)
    encoder = BatchEncoder(codec, text, device)
    stepper = Stepper(model, parameters, average, optimizer, encoder, settings, ALONE, device)
    endless = (replace(examples[n % len(examples)], position=n) for n in count())
    taken = [stepper.take(step, endless).metrics() for step in range(STEPS)]
    batch, _ = encoder.encode(examples)
    return Measured(
        seconds=min(metrics.seconds for metrics in taken[1:]),
        peak_bytes=max(0, _peak(device) - before),
        tokens=max((structure.tokens for structure in batch.structures), default=0),
        finite=not any(metrics.skipped for metrics in taken),
    )


def _peak(device: torch.device, *, fresh: bool = False) -> int:
    """The most bytes so far; `fresh` begins anew, where the device can: then what is held now."""
    if device.type == "cuda":
        if fresh:
            torch.cuda.reset_peak_memory_stats(device)
            return 0  # codec and text encoder are part of what a run holds
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
