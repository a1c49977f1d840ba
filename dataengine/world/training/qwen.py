"""Trains the tiny Qwen2.5-VL: first to see, then to speak of what it sees, at last both together.

1. The vision tower alone, with a linear head for each thing that can be said of whoever covers a merged token.
2. The language model on words alone: what a caption names, copied from it.
3. The language model on what the tower sees, the tower at rest.
4. Both, with a falling rate, the heads kept so that the tower forgets nothing. They are dropped at export.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dataengine.world.training.ahead import ahead
from dataengine.world.training.clock import Clock
from dataengine.world.training.device import training_on
from dataengine.world.training.examples import HELD_OUT, TRAINING
from dataengine.world.training.log import FILE, Point, TrainingLog, log_training
from dataengine.world.training.muon import Muon
from dataengine.world.training.qwen_held_out import held_out as held_out
from dataengine.world.training.qwen_lessons import PARTS, SENSES, TINTS, UNASKED, Key, Kind, Lesson, Portion, Portions
from dataengine.world.training.qwen_network import read
from dataengine.world.training.qwen_sight import Sight, View
from dataengine.world.training.qwen_words import HIDDEN, Model, build, export
from dataengine.world.training.qwen_words import SEEING as EYE


@dataclass(frozen=True)
class Plan:
    """What a training does.

    Attributes:
        steps: of the whole training.
        seeing, reading, speaking: shares of it after which the second, third and fourth part begin.
        first, new, pool: shots to learn from at the start, how many come with each step, and at most.
        looks: shots of which a step of the first part sees the people; whole: those that it sees whole.
        reads: captions that a step of the second part is about.
        talks: shots that a step of the last parts talks about.
    """

    steps: int
    seeing: float
    reading: float
    speaking: float
    first: int
    new: int
    pool: int
    looks: int
    whole: int
    reads: int
    talks: int

    @classmethod
    def of(cls, device: str) -> Plan:
        return CPU if device == "cpu" else GPU


CPU = Plan(11_500, 0.5, 0.55, 0.94, first=60, new=1, pool=4000, looks=6, whole=3, reads=24, talks=12)
GPU = Plan(12_000, 0.25, 0.3, 0.8, first=200, new=6, pool=24_000, looks=64, whole=24, reads=192, talks=128)
"""A GPU takes as long for few shots as for many, so its steps are wide."""
MUON, ADAM = 0.02, 3e-3
KEPT = 0.3
"""Weight of the heads in the last part."""
EVERY_S = 120
CHECKED = 40
"""Held-out shots that are looked at now and then."""
_STATE = "state.pt"
_TINTED = [len(names) for _, names in TINTS.values()]


@dataclass(frozen=True)
class Batch:
    """Lessons side by side, padded at the end.

    Attributes:
        images: of all lessons, in order.
        ids, branch: int64 [rows, length]; positions: int64 [3, rows, length].
        pictured: int64 [merged tokens], where those of the images stand among all tokens.
        asked: int64 [n], after which tokens something is to be said; target: int64 [n]; weight: float32 [n].
    """

    images: tuple[Key, ...]
    ids: Tensor
    positions: Tensor
    branch: Tensor
    pictured: Tensor
    asked: Tensor
    target: Tensor
    weight: Tensor

    @classmethod
    def of(cls, lessons: Sequence[Lesson], image_token: int) -> Batch:
        length = max(len(lesson.ids) for lesson in lessons)

        def padded(rows: Sequence[np.ndarray], fill: int = 0) -> np.ndarray:
            wide = np.full((len(rows), *rows[0].shape[:-1], length), fill, rows[0].dtype)
            for row, values in zip(wide, rows, strict=True):
                row[..., : values.shape[-1]] = values
            return wide

        ids = padded([lesson.ids for lesson in lessons])
        weight = padded([lesson.weight for lesson in lessons]).ravel()
        said = np.flatnonzero(weight)
        arrays = (
            ids,
            padded([lesson.positions for lesson in lessons]).transpose(1, 0, 2),
            padded([lesson.branch for lesson in lessons], -1),
            np.flatnonzero(ids == image_token),
            said - 1,
            ids.ravel()[said],
            weight[said],
        )
        images = tuple(image for lesson in lessons for image in lesson.images)
        return cls(images, *(torch.as_tensor(array) for array in arrays))

    def hide(self) -> Tensor:
        """What attention adds to its logits, float32 [rows, 1, length, length]: each sees what was before it and is
        shared or of its own branch."""
        length = self.branch.shape[1]
        seen = (self.branch[:, None, :] == 0) | (self.branch[:, None, :] == self.branch[:, :, None])
        seen &= torch.ones(length, length, dtype=torch.bool).tril()
        return torch.zeros(seen.shape).masked_fill_(~seen, -1e9)[:, None]


def said_loss(model: Model, batch: Batch, seen: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy of the answers' tokens; and whether each would be right."""
    embedded = model.model.language_model.embed_tokens(batch.ids)
    shape = embedded.shape
    embedded = embedded.flatten(0, 1).index_copy(0, batch.pictured, seen).view(shape)
    hidden = read(model, embedded, batch.positions, batch.hide())
    logits = model.lm_head(hidden.flatten(0, 1).index_select(0, batch.asked))
    loss = (F.cross_entropy(logits, batch.target, reduction="none") * batch.weight).sum() / batch.weight.sum()
    return loss, logits.detach().argmax(-1) == batch.target


def sense_loss(heads: nn.Linear, seen: Tensor, senses: Tensor) -> Tensor:
    """Mean cross-entropy over the heads, of the tokens that have an answer."""
    parts = heads(seen).split(list(SENSES.values()), dim=1)
    losses = [
        F.cross_entropy(part, senses[:, i], ignore_index=UNASKED, reduction="sum") for i, part in enumerate(parts)
    ]
    return torch.stack(losses).sum() / (senses != UNASKED).sum()


def part_loss(head: nn.Linear, view: View) -> Tensor:
    """Mean cross-entropies of what each patch shows and of its colours, added."""
    there, *colours = head(view.early).split([PARTS, *_TINTED], dim=1)
    losses = [
        F.cross_entropy(part, view.tints[:, i], ignore_index=UNASKED, reduction="sum") for i, part in enumerate(colours)
    ]
    tinted = torch.stack(losses).sum() / (view.tints != UNASKED).sum().clamp(min=1)
    return 3 * F.binary_cross_entropy_with_logits(there, view.parts.float()) + 0.5 * tinted


def sense_accuracy(heads: nn.Linear, seen: Tensor, senses: Tensor) -> dict[str, float]:
    """By head, the share of tokens with an answer where it is right."""
    parts = heads(seen).split(list(SENSES.values()), dim=1)
    found = {}
    for i, (name, part) in enumerate(zip(SENSES, parts, strict=True)):
        asked = senses[:, i] != UNASKED
        found[name] = float((part.argmax(1) == senses[:, i])[asked].float().mean()) if asked.any() else 1.0
    return found


class Pool:
    """Shots to learn from: more and more of them, the images where the network sees them."""

    def __init__(self, portions: Iterator[Portion], sight: Sight) -> None:
        self._coming, self._sight = portions, sight
        self._made: list[Portion] = []

    def some(self, count: int, size: int, draw: np.random.Generator) -> list[Portion]:
        """Any of the first `size` shots, which are waited for."""
        while len(self._made) < size:
            portion = next(self._coming)
            self._sight.add(portion.images)
            self._made.append(replace(portion, images=()))
        return [self._made[int(number)] for number in draw.integers(size, size=count)]


def look(
    pupil: Pupil, sight: Sight, shots: Sequence[Portion], whole: int, draw: np.random.Generator
) -> dict[str, Tensor]:
    """Losses of a step of the first part. Mostly of crops, which cost little and show as many people."""
    keys = [shot.still if draw.random() < 0.5 else shot.frame for shot in shots[:whole]]
    return sensed_losses(pupil, sight.awake([*keys, *(key for shot in shots for key in shot.crops)]), 1.0)


def study(pupil: Pupil, sight: Sight, kind: Kind, lessons: Sequence[Lesson], resting: bool) -> dict[str, Tensor]:
    """Losses of lessons, short ones apart from long; and of what the tower sees of them, unless it rests."""
    token = int(pupil.model.config.image_token_id)
    ordered = sorted(lessons, key=lambda lesson: len(lesson.ids))
    halves = (ordered[: len(ordered) // 2], ordered[len(ordered) // 2 :])
    batches = [Batch.of(half, token) for half in halves if half]
    images = [image for batch in batches for image in batch.images]
    losses = {}
    if not images:
        tokens = torch.empty(0, HIDDEN)
    elif resting:
        tokens = sight.at_rest(images)
    else:
        view = sight.awake(images)
        tokens, losses = view.tokens, sensed_losses(pupil, view, KEPT)
    parts = tokens.split([len(batch.pictured) for batch in batches])
    said = [said_loss(pupil.model, batch, part)[0] for batch, part in zip(batches, parts, strict=True)]
    return losses | {kind: torch.stack(said).mean()}


def sensed_losses(pupil: Pupil, view: View, weight: float) -> dict[str, Tensor]:
    senses = sense_loss(pupil.heads, view.once, view.senses)
    return {"senses": weight * senses, "parts": weight * part_loss(pupil.early, view)}


def rates(plan: Plan, share: float) -> dict[str, float]:
    """Of the tower and of the language model, as shares of the highest, at a share of the training."""
    if share < plan.seeing:
        done = share / plan.seeing
        return {"tower": min(1.0, 0.02 + done * 20) * min(1.0, (1 - done) / 0.4 + 0.05), "words": 0.0}
    if share < plan.reading:
        done = (share - plan.seeing) / (plan.reading - plan.seeing)
        return {"tower": 0.0, "words": min(1.0, 0.05 + done * 20) * min(1.0, (1 - done) / 0.4 + 0.05)}
    done = (share - plan.reading) / (1 - plan.reading)
    words = min(1.0, 0.02 + done * 30) * min(1.0, max(0.01, (1 - done) / 0.6))
    return {"tower": 0.3 * words if share >= plan.speaking else 0.0, "words": words}


def losses_of(
    pupil: Pupil, sight: Sight, pool: Pool, plan: Plan, step: int, share: float, seed: int
) -> dict[str, Tensor]:
    """Losses of the step, by what they are of."""
    draw = np.random.default_rng((27, seed, step))
    size = min(plan.pool, plan.first + plan.new * step)
    if share < plan.seeing:
        return look(pupil, sight, pool.some(plan.looks, size, draw), plan.whole, draw)
    kind: Kind = "reading" if share < plan.reading else "owning" if step % 2 else "telling"
    shots = pool.some(plan.reads if kind == "reading" else plan.talks, size, draw)
    choices = [shot.lessons[kind] for shot in shots if shot.lessons[kind]]
    lessons = [some[int(draw.integers(len(some)))] for some in choices]
    return study(pupil, sight, kind, lessons, share < plan.speaking)


def train(
    output: Path,
    *,
    steps: int | None = None,
    seed: int = 0,
    say: Callable[[str], None] = print,
    device: str = "cpu",
    minutes: float | None = None,
    workers: int = 1,
    resume: Path | None = None,
    plan: Plan | None = None,
) -> TrainingLog:
    """Write the checkpoint and its `training.json` into `output`, and a checkpoint every two minutes on the way.

    Arguments:
        steps: those of the device's plan if None.
        minutes: how long it may take, instead of `steps`.
        workers: processes that draw shots.
        resume: a folder in which another run was cut off. Momentum is lost, and other shots are drawn.
        plan: what a step holds; by the device, if it is not given.
    """
    plan = plan or Plan.of(device)
    clock = Clock(steps or (None if minutes else plan.steps), minutes)
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    with training_on(device), closing(ahead(Portions(TRAINING), range(plan.pool), workers)) as portions:
        processor, model = build(seed)
        pupil = Pupil.of(model.to(device))
        first, curve, spent = pupil.restore(resume / _STATE) if resume is not None else (0, [], 0.0)
        sight, watched, optimiser = Sight(model), Watched(pupil, CHECKED), Optimiser(pupil)
        pool = Pool(portions, sight)
        exported, smooth, step = time.monotonic(), dict[str, Tensor](), first
        while (share := clock.share(step)) < 1:
            losses = losses_of(pupil, sight, pool, plan, step, share, seed)
            total = torch.stack(list(losses.values())).sum()
            optimiser.step(total, rates(plan, share))
            for name, loss in (losses | {"loss": total.detach()}).items():
                smooth[name] = smooth.get(name, loss).detach().lerp(loss.detach(), 0.05)
            if step % 50 == 0:
                curve.append(Point(step=step, loss=round(smooth["loss"].item(), 4)))
                said = " ".join(f"{name} {loss.item():.4f}" for name, loss in smooth.items())
                say(f"step {step}, {share:.3f} done, {_minutes(spent):.0f} CPU minutes: {said}")
            if step % 300 == 299:
                say(watched.told(share >= plan.reading))
            step += 1
            if time.monotonic() - exported > EVERY_S:
                export(output, processor, model)
                pupil.keep(output / _STATE, step, curve, _minutes(spent))
                exported = time.monotonic()
        export(output, processor, model)
        pupil.keep(output / _STATE, step, curve, _minutes(spent))
    log = log_training(
        output,
        "Qwen2.5-VL",
        weights=model.parameters(),
        files=[file for file in output.iterdir() if file.name not in (_STATE, FILE)],
        steps=step,
        seed=seed,
        cpu_s=60 * _minutes(spent),
        wall_s=clock.seconds,
        device=device,
        curve=curve,
    )
    (output / _STATE).unlink()
    return log


def _minutes(spent: float) -> float:
    """CPU minutes of this process and of those that it ended, and of the run that it goes on with."""
    return spent + sum(os.times()[:4]) / 60


@dataclass(frozen=True)
class Pupil:
    """The model and the heads that it loses at export."""

    model: Model
    heads: nn.Linear
    early: nn.Linear

    @classmethod
    def of(cls, model: Model) -> Pupil:
        return cls(model, nn.Linear(HIDDEN, sum(SENSES.values())), nn.Linear(EYE, PARTS + sum(_TINTED)))

    def keep(self, file: Path, step: int, curve: Sequence[Point], spent: float) -> None:
        parts = {name: part.state_dict() for name, part in vars(self).items()}
        torch.save(parts | {"step": step, "spent": spent, "curve": [(p.step, p.loss) for p in curve]}, file)

    def restore(self, file: Path) -> tuple[int, list[Point], float]:
        """The step to go on with, the curve so far and the CPU minutes that were spent."""
        state = torch.load(file, weights_only=True, map_location="cpu")
        for name, part in vars(self).items():
            part.load_state_dict(state[name])
        curve = [Point(step=step, loss=loss) for step, loss in state["curve"]]
        return int(state["step"]), curve, float(state["spent"])


class Optimiser:
    """Muon for the matrices inside, AdamW for the rest; `tower` and `words` have rates of their own."""

    def __init__(self, pupil: Pupil) -> None:
        tower: Any = pupil.model.model.visual
        reader: Any = pupil.model.model.language_model
        inside = {
            "tower": [p for p in (*tower.blocks.parameters(), tower.merger.mlp[2].weight) if p.ndim == 2],
            "words": [p for p in reader.layers.parameters() if p.ndim == 2],
        }
        known = {id(p) for matrices in inside.values() for p in matrices}
        first = tower.patch_embed.proj.weight
        outside = [
            ("tower", 1.0, [p for p in tower.parameters() if id(p) not in known and p is not first]),
            ("tower", 0.3, [first]),
            ("tower", 1.5, [*pupil.heads.parameters(), *pupil.early.parameters()]),
            (
                "words",
                1.0,
                [p for p in (*reader.parameters(), *pupil.model.lm_head.parameters()) if id(p) not in known],
            ),
        ]
        self._muon = {name: Muon(matrices, MUON) for name, matrices in inside.items()}
        self._adam = torch.optim.AdamW(
            [{"params": found, "part": part, "scale": scale} for part, scale, found in outside],
            lr=ADAM, betas=(0.9, 0.98), weight_decay=0.0, fused=True,
        )  # fmt: skip
        self._all = [p for _, _, found in outside for p in found] + [p for found in inside.values() for p in found]

    def step(self, loss: Tensor, rates: Mapping[str, float]) -> None:
        for parameter in self._all:
            parameter.grad = None
        loss.backward()
        nn.utils.clip_grad_norm_([p for p in self._all if p.grad is not None], 1.0)
        for name, muon in self._muon.items():
            muon.param_groups[0]["lr"] = MUON * rates[name]
            muon.step()
        for group in self._adam.param_groups:
            group["lr"] = ADAM * group["scale"] * rates[group["part"]]
        self._adam.step()


class Watched:
    """Held-out shots that are looked at now and then."""

    def __init__(self, pupil: Pupil, shots: int) -> None:
        self._pupil, self._sight = pupil, Sight(pupil.model)
        self._shots = [Portions(HELD_OUT)(index) for index in range(shots)]
        for shot in self._shots:
            self._sight.add(shot.images)

    @torch.no_grad()
    def told(self, speaks: bool) -> str:
        """How the pupil does on them, in words for whoever watches."""
        found = []
        frames = [shot.frame for shot in self._shots]
        for kind, keys in (("frames", frames), ("crops", [key for shot in self._shots for key in shot.crops])):
            view = self._sight.awake(keys)
            accuracy = sense_accuracy(self._pupil.heads, view.once, view.senses)
            found.append(f"  {kind}: " + " ".join(f"{name} {value:.3f}" for name, value in accuracy.items()))
        if speaks:
            spoken: tuple[Kind, ...] = ("telling", "owning")
            for kind in spoken:
                some = [shot.lessons[kind][0] for shot in self._shots if shot.lessons[kind]]
                batch = Batch.of(some, int(self._pupil.model.config.image_token_id))
                loss, right = said_loss(self._pupil.model, batch, self._sight.awake(batch.images).tokens)
                weightiest = right[batch.weight == batch.weight.max()].float().mean()
                found.append(f"  {kind}: loss {float(loss):.4f} right {float(weightiest):.4f}")
        return "\n".join(found)
