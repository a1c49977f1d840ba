"""A step waits for no device, and one that is not finite leaves everything as it is, to the last bit."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import settings
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from dataengine.lumosx.adapters import trained_parameters
from dataengine.lumosx.average import Average
from dataengine.lumosx.codec import DctCodec
from dataengine.lumosx.components import model_config, new_model
from dataengine.lumosx.data import BatchEncoder, Example, ExampleMaker, Refused
from dataengine.lumosx.distributed import ALONE
from dataengine.lumosx.optimizer import make_optimizer
from dataengine.lumosx.settings import TrainSettings
from dataengine.lumosx.step import Stepper
from dataengine.lumosx.text import MiniLmEncoder
from dataengine.shards.reader import PairDataset
from dataengine.store import Store


@pytest.fixture(scope="module")
def text() -> MiniLmEncoder:
    return MiniLmEncoder(48)


class Unmoved(torch.optim.AdamW):
    """Fused kernels exist for real devices alone."""

    told: Any = None

    def step(self, closure: Any = None) -> None:
        self.told = self.found_inf


def stepper(chosen: TrainSettings, text: MiniLmEncoder, device: str = "cpu", codec: Any = None) -> Stepper:
    model = new_model(chosen.model, model_config(chosen.model, text.dim, chosen.text.max_tokens), chosen.seed, device)
    parameters = trained_parameters(model)
    optimizer = make_optimizer(parameters, chosen.optimizer) if device == "cpu" else Unmoved(parameters.values())
    encoder = BatchEncoder(codec or DctCodec(device), text, device)
    average = Average(parameters, 0.9)
    return Stepper(model, parameters, average, optimizer, encoder, chosen, ALONE, torch.device(device))


def examples(dataset: Path, chosen: TrainSettings) -> Iterator[Example | Refused]:
    samples = PairDataset(Store.at(dataset), "train")
    maker = ExampleMaker(samples, chosen.data, chosen.seed)
    position = 0
    while True:
        yield maker.make(position % len(samples), 0, position)
        position += 1


class Transfers(TorchDispatchMode):
    """Counts copies between host and device, those that wait apart."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[str] = []
        self.queued = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        if func in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default):
            source = args[1] if func is torch.ops.aten.copy_.default else args[0]
            if isinstance(result, Tensor) and result.device != source.device:
                queues = (kwargs or {}).get("non_blocking") or (len(args) > 2 and args[2])
                self.queued += bool(queues)
                if not queues:
                    self.waiting.append(f"{func} {tuple(source.shape)}")
        return result


def test_a_step_never_waits_for_the_device(dataset: Path, text: MiniLmEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the meta device there are no numbers: whatever asks for one (`item`, `tolist`, a branch, a mask) raises."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # which knows no meta device
    chosen = settings("batch=2", "accumulate=2", "model.layers=2", "model.checkpointing=full")
    device = stepper(chosen, text, "meta")
    stream = examples(dataset, chosen)
    for step in range(2):
        with Transfers() as seen:
            issued = device.take(step, stream)
        assert not seen.waiting, seen.waiting
        assert seen.queued > 8, "clips, references, contexts, noise, levels, tables"
        assert len(issued.keys) == 4
    assert device._optimizer.told.device.type == "meta", "the device tells the optimizer whether to go on"
    with pytest.raises((NotImplementedError, RuntimeError)):
        issued.metrics()


class Poisoned(DctCodec):
    """Gives every latent one number that is none, when told to."""

    bad = False

    def encode(self, pixels: Tensor) -> Tensor:
        latents = super().encode(pixels)
        if self.bad:
            latents[0, 0, 0, 0, 0] = math.inf
        return latents


def everything(of: Stepper) -> list[Tensor]:
    moments = [value for state in of._optimizer.state.values() for value in state.values()]
    return [tensor.detach().clone() for tensor in (*of._trained, *of._average.tensors.values(), *moments)]


def test_a_step_that_is_not_finite_changes_nothing(dataset: Path, text: MiniLmEncoder) -> None:
    chosen = settings("batch=2", "data.text_dropout=0")
    codec = Poisoned()
    taken, other = stepper(chosen, text, codec=codec), stepper(chosen, text)
    stream, same = examples(dataset, chosen), examples(dataset, chosen)
    for _ in range(2):
        taken.take(0, stream), other.take(0, same)
    before = everything(taken)
    codec.bad = True
    issued = taken.take(2, stream)
    codec.bad = False
    metrics = issued.metrics()
    assert (metrics.skipped, metrics.loss, metrics.by_noise, metrics.examples) == (True, None, {}, 2)
    assert len(issued.keys) == 2
    after = everything(taken)
    assert len(after) == len(before)
    assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True)), "moments and their counts as well"
    next(same), next(same)
    assert taken.take(3, stream).metrics().loss == other.take(3, same).metrics().loss
    assert all(torch.equal(a, b) for a, b in zip(everything(taken), everything(other), strict=True))


def test_no_example_is_no_step(text: MiniLmEncoder) -> None:
    chosen = settings("batch=1")
    taken = stepper(chosen, text)
    before = everything(taken)
    issued = taken.take(0, iter([Refused("a", 0, "too short")]))
    metrics = issued.metrics()
    assert (metrics.skipped, metrics.loss, metrics.grad_norm, metrics.examples) == (True, None, None, 0)
    assert [sample.key for sample in issued.refused] == ["a"]
    assert all(torch.equal(a, b) for a, b in zip(everything(taken)[: len(before)], before, strict=True))
