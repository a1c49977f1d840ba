"""Trains the world's Grounding DINO, from nothing, to find phrase by phrase what its adapter asks for."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import GroundingDinoForObjectDetection

from dataengine.world.training.ahead import ahead
from dataengine.world.training.clock import Clock
from dataengine.world.training.device import training_on
from dataengine.world.training.grounding_figures import held_out as held_out
from dataengine.world.training.grounding_loss import Targets, presence_loss, proposal_loss, query_loss, word_loss
from dataengine.world.training.grounding_network import Eyes, eyes, network, processor
from dataengine.world.training.grounding_pass import answers
from dataengine.world.training.grounding_plan import Plan
from dataengine.world.training.grounding_steps import Asked, Drawing, Named
from dataengine.world.training.grounding_views import normalised
from dataengine.world.training.log import FILE, Point, TrainingLog, log_training

RATE, SLOW_RATE = 1e-3, 3e-4
"""Learning rates; the slow one is of the backbone, and of where deformable attention looks."""
WARM_UP, DECAY = 100, 0.25
"""Steps, and share of the training, in which the learning rate rises to them and falls to nothing."""
WORDS, PRESENCE = 2.0, 2.0
"""Weights of `word_loss` and `presence_loss`."""
AVERAGE = 0.99
"""Decay of the moving average of weights that is exported."""
EVERY_MINUTES = 3
"""Minutes between two states that a cut-off training can go on from."""
STATE = "state.safetensors"


@dataclass
class Run:
    """A training under way: what `state` writes, it can go on from.

    Attributes:
        average: moving average of the weights, by their names.
        cpu_s, wall_s: what it took, in seconds.
        smooth: the loss, smoothed. It stays on the device, because reading it waits for the step.
    """

    model: Any
    optimizer: torch.optim.AdamW
    average: dict[str, Tensor]
    smooth: Tensor
    step: int = 0
    cpu_s: float = 0.0
    wall_s: float = 0.0
    curve: list[Point] = field(default_factory=list)

    @classmethod
    def of(cls, model: GroundingDinoForObjectDetection) -> Run:
        groups: dict[float, list[nn.Parameter]] = {RATE: [], SLOW_RATE: []}
        for name, weight in model.named_parameters():
            slow = "conv_encoder" in name or "sampling_offsets" in name
            groups[SLOW_RATE if slow else RATE].append(weight)
        parts = [{"params": weights, "rate": rate} for rate, weights in groups.items()]
        optimizer = torch.optim.AdamW(parts, weight_decay=1e-4, fused=True)
        average = {name: value.detach().clone() for name, value in model.named_parameters()}
        return cls(model, optimizer, average, torch.zeros(()))

    def update(self, loss: Tensor, share: float) -> None:
        """One step of the optimizer, after this share of the training."""
        for group in self.optimizer.param_groups:
            group["lr"] = group["rate"] * rate_at(self.step, share)
        self.optimizer.zero_grad()
        loss.backward()
        weights = list(self.model.parameters())
        nn.utils.clip_grad_norm_(weights, 1.0)
        self.optimizer.step()
        self.step += 1
        keep = min(AVERAGE, self.step / (self.step + 10))
        torch._foreach_lerp_(list(self.average.values()), [weight.detach() for weight in weights], 1 - keep)
        self.smooth = self.smooth.lerp(loss.detach(), max(0.01, 1 / self.step))

    def export(self, folder: Path, plan: Plan) -> None:
        """The averaged weights, config and processor, as `from_pretrained` reads them."""
        folder.mkdir(parents=True, exist_ok=True)
        own = {name: value.detach().clone() for name, value in self.model.named_parameters()}
        with torch.no_grad():
            for name, value in self.model.named_parameters():
                value.copy_(self.average[name])
            self.model.save_pretrained(folder)
            for name, value in self.model.named_parameters():
                value.copy_(own[name])
        processor(plan).save_pretrained(folder)

    def save(self, file: Path) -> None:
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        tensors |= {f"average.{name}": value for name, value in self.average.items()}
        for name, weight in self.model.named_parameters():
            for key, value in self.optimizer.state[weight].items():
                tensors[f"optimizer.{name}.{key}"] = value
        progress = [self.step, self.cpu_s, self.wall_s, self.smooth.item()]
        tensors["progress"] = torch.tensor(progress, dtype=torch.float64)
        tensors["curve"] = torch.tensor([[p.step, p.loss] for p in self.curve], dtype=torch.float64).reshape(-1, 2)
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(".part")
        save_file({name: value.cpu().contiguous().clone() for name, value in tensors.items()}, part)
        part.replace(file)

    def load(self, file: Path) -> None:
        tensors = load_file(file)
        self.model.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("model.")})
        for name, weight in self.model.named_parameters():
            self.average[name] = tensors[f"average.{name}"].to(weight.device)
            keys = ("step", "exp_avg", "exp_avg_sq")
            held = {key: tensors[f"optimizer.{name}.{key}"].to(weight.device) for key in keys}
            self.optimizer.state[weight] = held
        step, self.cpu_s, self.wall_s, smooth = tensors["progress"].tolist()
        self.step, self.smooth = int(step), torch.tensor(smooth)
        self.curve = [Point(step=int(at), loss=loss) for at, loss in tensors["curve"].tolist()]


def train(
    output: Path,
    *,
    steps: int | None = None,
    seed: int = 0,
    say: Callable[[str], None] = print,
    device: str = "cpu",
    minutes: float | None = None,
    workers: int = 0,
    state: Path | None = None,
    plan: Plan | None = None,
) -> TrainingLog:
    """Write a checkpoint that `GroundingDino` loads, and its `training.json`, into `output`.

    Args:
        device: of torch, to train on. The figures are measured on the CPU.
        minutes: of wall clock, after which training ends if it has not taken its steps before.
        workers: processes that make data; none: this process does. Which data depends on how many they are.
        state: a folder for what a training that was cut off goes on from, and for a checkpoint of every few minutes.
            Only `steps` may be different from one start to the next: they move the end.
        plan: what a step holds; by the device, if it is not given.
    """
    plan = plan or Plan.of(device)
    clock = Clock(steps or (None if minutes else plan.steps), minutes)
    cv2.setNumThreads(1)
    torch.set_flush_denormal(True)  # focal loss is full of them, and they take ten times as long
    with training_on(device):
        run = _train(clock, seed, say, plan, workers, state)
        run.export(output, plan)
    return log_training(
        output,
        "grounding_dino",
        weights=run.model.parameters(),
        files=[file for file in output.iterdir() if file.is_file() and file.name != FILE],
        steps=run.step,
        seed=seed,
        cpu_s=run.cpu_s,
        wall_s=run.wall_s,
        device=device,
        curve=run.curve,
    )


def _train(clock: Clock, seed: int, say: Callable[[str], None], plan: Plan, workers: int, state: Path | None) -> Run:
    """The training, on torch's default device."""
    torch.manual_seed(seed)
    file = state / STATE if state else None
    began = time.process_time()
    if file and file.exists():
        run = Run.of(network(eyes(plan), plan))
        run.load(file)
        say(f"goes on at step {run.step}")
        first = run.step
    else:
        run, first = None, -min(plan.backbone_steps, clock.steps or plan.backbone_steps)
    with closing(ahead(Drawing(seed, plan), range(first, clock.range_end), workers)) as made:
        if run is None:
            run = Run.of(network(_pretrained(plan, -first, made, say), plan))
        clock, cpu_before, saved = replace(clock, spent_s=run.wall_s), run.cpu_s, time.monotonic()
        while (share := clock.share(run.step)) < 1:
            run.model.model.backbone.requires_grad_(share < plan.eyes)
            shown = next(made)
            assert isinstance(shown, Asked), "steps from 0 on are the detector's"
            run.update(loss(run.model, shown, plan.absent), share)
            run.cpu_s, run.wall_s = cpu_before + time.process_time() - began, clock.seconds
            if run.step % 100 == 0:
                smooth = run.smooth.item()
                run.curve.append(Point(step=run.step, loss=round(smooth, 4)))
                say(f"step {run.step}: loss {smooth:.3f}, {run.wall_s / 60:.1f} minutes")
            if state and file and time.monotonic() - saved > EVERY_MINUTES * 60:
                run.export(state, plan)
                run.save(file)
                saved = time.monotonic()
    if file:
        run.save(file)
    return run


def _pretrained(plan: Plan, steps: int, made: Iterator[Named | Asked], say: Callable[[str], None]) -> Any:
    """The backbone, after its own steps."""
    learner = Eyes(plan, steps)
    for step in range(steps):
        shown = next(made)
        assert isinstance(shown, Named), "steps below 0 are the backbone's"
        names = [torch.as_tensor(name).long() for name in shown.names]
        found = learner.learn(normalised(torch.as_tensor(shown.pixels)), names)
        if step % 50 == 0:
            say(f"backbone {step}/{steps}: loss {found.item():.3f}")
    return learner.backbone.eval()


def rate_at(step: int, share: float) -> float:
    """Share of the learning rate, by the steps and the share of the training before: it rises, stays, and falls
    linearly."""
    return min(1.0, (step + 1) / WARM_UP, (1 - share) / DECAY)


def loss(model: Any, shown: Asked, absent: float) -> Tensor:
    """Of one batch of views, each with as many phrases. `absent`: see `presence_loss`."""
    ids = torch.as_tensor(shown.tokens)
    tokens = {"input_ids": ids, "attention_mask": ids != 0, "token_type_ids": torch.zeros_like(ids)}
    found = answers(model, normalised(torch.as_tensor(shown.pixels)), tokens)
    targets = Targets(*(torch.as_tensor(array) for array in (shown.boxes, shown.there, shown.unclear)))
    rows, columns = shown.pixels.shape[1:3]
    total = WORDS * word_loss(found.likeness, torch.as_tensor(shown.shown))
    total = total + proposal_loss(found.cells, found.boxes_at, found.shapes, (rows, columns), targets)
    total = total + PRESENCE * presence_loss(found.cells, targets, absent)
    for logits, boxes in zip(found.logits, found.boxes, strict=True):
        total = total + query_loss(logits, boxes, targets) + PRESENCE * presence_loss(logits, targets, absent)
    return total
