"""Trains the tiny Qwen2.5-VL: first to see, then to speak of what it sees, at last both together.

1. The vision tower alone, with a linear head for each thing that can be said of whoever covers a merged token.
2. The language model on what the tower sees, the tower at rest.
3. Both, with a falling rate, the heads kept so that the tower forgets nothing. They are dropped at export.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dataengine.world.training.examples import HELD_OUT, TRAINING
from dataengine.world.training.log import FILE, Point, TrainingLog, write_log
from dataengine.world.training.muon import Muon
from dataengine.world.training.qwen_held_out import SCENES, held_out
from dataengine.world.training.qwen_lessons import (
    PARTS,
    SENSES,
    TINTS,
    UNASKED,
    Lesson,
    Material,
    Seen,
    Teacher,
    material,
)
from dataengine.world.training.qwen_network import pictures, read, see
from dataengine.world.training.qwen_words import HIDDEN, Model, build, export
from dataengine.world.training.qwen_words import SEEING as EYE

STEPS = 9000
SEEING, SPEAKING = 0.8, 0.87
"""Shares of the steps after which the second and the third part begin."""
POOL = 2500
"""Shots to learn from; later steps see them again."""
LOOKS, WHOLE = 6, 3
"""Shots of which a step of the first part sees the people, and those that it sees whole."""
TALKS = 12
"""Shots that a step of the other parts talks about."""
MUON, ADAM = 0.02, 3e-3
KEPT = 0.3
"""Weight of the heads in the third part."""
EVERY_S = 300
CHECKED = 40
"""Held-out shots that are looked at now and then."""
_STATE = "state.pt"
_TINTED = [len(names) for _, names in TINTS.values()]


@dataclass(frozen=True)
class Batch:
    """Lessons side by side, padded at the end.

    Attributes:
        ids: int64 [rows, length]; positions: int64 [3, rows, length]; weight: float32 [rows, length].
        hide: float32 [rows, 1, length, length].
    """

    images: tuple[Seen, ...]
    ids: Tensor
    positions: Tensor
    weight: Tensor
    hide: Tensor

    @classmethod
    def of(cls, lessons: Sequence[Lesson]) -> Batch:
        length = max(len(lesson.ids) for lesson in lessons)

        def padded(rows: Sequence[np.ndarray], fill: float = 0) -> Tensor:
            return torch.stack([F.pad(torch.from_numpy(row), (0, length - row.shape[-1]), value=fill) for row in rows])

        branch = padded([lesson.branch for lesson in lessons], -1)
        seen = (branch[:, None, :] == 0) | (branch[:, None, :] == branch[:, :, None])
        seen &= torch.ones(length, length, dtype=torch.bool).tril()
        return cls(
            tuple(image for lesson in lessons for image in lesson.images),
            padded([lesson.ids for lesson in lessons]),
            padded([lesson.positions for lesson in lessons]).transpose(0, 1),
            padded([lesson.weight for lesson in lessons]),
            torch.zeros(seen.shape).masked_fill_(~seen, -1e9)[:, None],
        )


def said_loss(model: Model, batch: Batch, seen: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy of the answers' tokens; and whether each that is not forced by a grammar would be right."""
    embedded = model.model.language_model.embed_tokens(batch.ids)
    embedded = embedded.masked_scatter((batch.ids == model.config.image_token_id)[..., None], seen)
    hidden = read(model, embedded, batch.positions, batch.hide)
    asked = batch.weight[:, 1:] > 0
    logits = model.lm_head(hidden[:, :-1][asked])
    target, weight = batch.ids[:, 1:][asked], batch.weight[:, 1:][asked]
    loss = (F.cross_entropy(logits, target, reduction="none") * weight).sum() / weight.sum()
    return loss, (logits.argmax(-1) == target)[weight == weight.max()]


def sense_loss(heads: nn.Linear, seen: Tensor, senses: Tensor) -> Tensor:
    """Mean cross-entropy over the heads, of the tokens that have an answer."""
    parts = heads(seen).split(list(SENSES.values()), dim=1)
    losses = [
        F.cross_entropy(part, senses[:, i], ignore_index=UNASKED, reduction="sum") for i, part in enumerate(parts)
    ]
    return torch.stack(losses).sum() / (senses != UNASKED).sum()


def part_loss(head: nn.Linear, early: Tensor, images: Sequence[Seen]) -> Tensor:
    """Mean cross-entropies of what each patch shows and of its colours, added."""
    shown = torch.from_numpy(np.concatenate([image.parts for image in images]))
    tints = torch.from_numpy(np.concatenate([image.tints for image in images]))
    there, *colours = head(early).split([PARTS, *_TINTED], dim=1)
    losses = [
        F.cross_entropy(part, tints[:, i], ignore_index=UNASKED, reduction="sum") for i, part in enumerate(colours)
    ]
    tinted = torch.stack(losses).sum() / (tints != UNASKED).sum().clamp(min=1)
    return 3 * F.binary_cross_entropy_with_logits(there, shown.float()) + 0.5 * tinted


def sense_accuracy(heads: nn.Linear, seen: Tensor, senses: Tensor) -> dict[str, float]:
    """By head, the share of tokens with an answer where it is right."""
    parts = heads(seen).split(list(SENSES.values()), dim=1)
    found = {}
    for i, (name, part) in enumerate(zip(SENSES, parts, strict=True)):
        asked = senses[:, i] != UNASKED
        found[name] = float((part.argmax(1) == senses[:, i])[asked].float().mean()) if asked.any() else 1.0
    return found


class _Pool:
    """Material made in order by a process beside this one, a little ahead of whoever asks."""

    def __init__(self, seed: int, size: int) -> None:
        self._seed, self._size, self._ahead = seed, size, 60
        self._made: list[Material] = []
        self._coming: deque[Future[Material]] = deque()
        self._worker = ProcessPoolExecutor(1, mp_context=get_context("spawn"))

    def __getitem__(self, index: int) -> Material:
        """Of index modulo the pool's size."""
        index %= self._size
        while index >= len(self._made):
            while len(self._coming) < self._ahead and len(self._made) + len(self._coming) < self._size:
                coming = len(self._made) + len(self._coming)
                self._coming.append(self._worker.submit(material, self._seed, coming))
            self._made.append(self._coming.popleft().result())
        return self._made[index]

    def __enter__(self) -> _Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self._worker.shutdown(cancel_futures=True)


@dataclass(frozen=True)
class _View:
    """What the tower makes of images.

    Attributes:
        tokens: of all images in order.
        different: the images without those that come again; `once`, `early`: their tokens and early patches.
    """

    tokens: Tensor
    different: Sequence[Seen]
    once: Tensor
    early: Tensor


class Sight:
    """What the tower sees of images; while it rests, each image is looked at once."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._known: dict[tuple[int, str], Tensor] = {}

    def awake(self, images: Sequence[Seen]) -> _View:
        different = {image.key: image for image in images}
        once, early = see(self._model, pictures([image.image for image in different.values()]))
        parts = dict(zip(different, once.split([len(image.senses) for image in different.values()]), strict=True))
        return _View(torch.cat([parts[image.key] for image in images]), list(different.values()), once, early)

    @torch.no_grad()
    def at_rest(self, images: Sequence[Seen]) -> Tensor:
        new = list({image.key: image for image in images if image.key not in self._known}.values())
        if new:
            seen, _ = see(self._model, pictures([image.image for image in new]))
            parts = seen.split([len(image.senses) for image in new])
            self._known |= {image.key: part.clone() for image, part in zip(new, parts, strict=True)}
        return torch.cat([self._known[image.key] for image in images])


def _senses(images: Sequence[Seen]) -> Tensor:
    return torch.from_numpy(np.concatenate([image.senses for image in images]))


def _look(pupil: Pupil, sight: Sight, pool: _Pool, step: int) -> dict[str, Tensor]:
    """Losses of a step of the first part. Mostly of crops, which cost little and show as many people."""
    shots = [pool[index] for index in range(step * LOOKS, (step + 1) * LOOKS)]
    whole = [shot.still if (step + step * LOOKS // POOL) % 2 else shot.frame for shot in shots[:WHOLE]]
    return sensed_losses(pupil, sight.awake([*whole, *(image for shot in shots for image in shot.crops)]), 1.0)


def _talk(
    pupil: Pupil, sight: Sight, teacher: Teacher, pool: _Pool, step: int, seed: int, resting: bool
) -> dict[str, Tensor]:
    """Losses of a step of the other parts: captions and what they name, or owners. Short lessons apart from long."""
    draw = np.random.default_rng((23, seed, step))
    shots = [pool[step // 2 * TALKS + i] for i in range(TALKS)]
    if telling := step % 2 == 0:
        copying = draw.random() < 0.4
        lessons = [teacher.telling(s, pool[int(draw.integers(POOL))] if copying else None, draw) for s in shots]
    else:
        chance = draw.random()
        stills = () if chance < 0.6 else (int(draw.integers(3)),) if chance < 0.8 else (0, 1, 2)
        lessons = [teacher.owning(shot, stills, 1, draw) for shot in shots if shot.crops]
    lessons.sort(key=lambda lesson: len(lesson.ids))
    halves = (lessons[: len(lessons) // 2], lessons[len(lessons) // 2 :])
    batches = [Batch.of(half) for half in halves if half]
    images = [image for batch in batches for image in batch.images]
    losses = {}
    if resting:
        tokens = sight.at_rest(images)
    else:
        view = sight.awake(images)
        tokens, losses = view.tokens, sensed_losses(pupil, view, KEPT)
    parts = tokens.split([sum(len(image.senses) for image in batch.images) for batch in batches])
    said = [said_loss(pupil.model, batch, part)[0] for batch, part in zip(batches, parts, strict=True)]
    return losses | {"telling" if telling else "owning": torch.stack(said).mean()}


def sensed_losses(pupil: Pupil, view: _View, weight: float) -> dict[str, Tensor]:
    senses = sense_loss(pupil.heads, view.once, _senses(view.different))
    return {"senses": weight * senses, "parts": weight * part_loss(pupil.early, view.early, view.different)}


def _rates(share: float) -> dict[str, float]:
    """Of the tower and of the language model, as shares of the highest, at a share of all steps."""
    if share < SEEING:
        done = share / SEEING
        return {"tower": min(1.0, 0.02 + done * 20) * min(1.0, (1 - done) / 0.4 + 0.05), "words": 0.0}
    if share < SPEAKING:
        return {"tower": 0.0, "words": min(1.0, 0.02 + (share - SEEING) * 30)}
    left = (1 - share) / (1 - SPEAKING)
    return {"tower": 0.3 * left, "words": left}


def train(
    output: Path,
    *,
    steps: int | None = None,
    seed: int = 0,
    say: Callable[[str], None] = print,
    resume: Path | None = None,
    scenes: int = SCENES,
) -> TrainingLog:
    """Write the checkpoint and its `training.json` into `output`, and a checkpoint every five minutes on the way.

    Arguments:
        steps: `STEPS` if None.
        resume: a folder in which another run was cut off. Momentum is lost, and lessons begin anew.
        scenes: held-out shots for the figures; 0 leaves them out, and does not start vLLM.
    """
    steps = STEPS if steps is None else steps
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    processor, model = build(seed)
    pupil = Pupil.of(model)
    first, curve, spent = pupil.restore(resume / _STATE) if resume is not None else (0, [], 0.0)
    teacher, sight, optimiser = Teacher(processor), Sight(model), Optimiser(pupil)
    held = [material(HELD_OUT, index) for index in range(CHECKED)]
    exported, smooth = time.monotonic(), dict[str, float]()
    with _Pool(TRAINING, POOL) as pool:
        for step in range(first, steps):
            share = step / steps
            rates = _rates(share)
            losses = (
                _look(pupil, sight, pool, step - first)
                if share < SEEING
                else _talk(pupil, sight, teacher, pool, step, seed, rates["tower"] == 0)
            )
            total = torch.stack(list(losses.values())).sum()
            optimiser.step(total, rates)
            for name, loss in (losses | {"loss": total}).items():
                smooth[name] = 0.95 * smooth.get(name, loss.item()) + 0.05 * loss.item()
            if step % 50 == 0:
                curve.append(Point(step=step, loss=round(smooth["loss"], 4)))
                said = " ".join(f"{name} {loss:.4f}" for name, loss in smooth.items())
                say(f"{step}/{steps}, {_minutes(spent):.0f} CPU minutes: {said}")
            if step % 300 == 299:
                say(_checked(pupil, teacher, held, share >= SEEING))
            if time.monotonic() - exported > EVERY_S:
                export(output, processor, model)
                pupil.keep(output / _STATE, step + 1, curve, _minutes(spent))
                exported = time.monotonic()
    export(output, processor, model)
    pupil.keep(output / _STATE, steps, curve, _minutes(spent))
    log = TrainingLog(
        network="Qwen2.5-VL",
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        bytes=sum(file.stat().st_size for file in output.iterdir() if file.name not in (_STATE, FILE)),
        steps=steps,
        seed=seed,
        cpu_minutes=round(_minutes(spent), 1),
        torch=torch.__version__,
        curve=tuple(curve),
        held_out=held_out(output, scenes) if scenes else (),
    )
    write_log(output, log)
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
        state = torch.load(file, weights_only=True)
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
            lr=ADAM, betas=(0.9, 0.98), weight_decay=0.0,
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


@torch.no_grad()
def _checked(pupil: Pupil, teacher: Teacher, held: Sequence[Material], speaks: bool) -> str:
    """How it does on held-out shots, in words for whoever watches."""
    frames, crops = [shot.frame for shot in held], [image for shot in held for image in shot.crops]
    found = []
    for kind, images in (("frames", frames), ("crops", crops)):
        seen, _ = see(pupil.model, pictures([image.image for image in images]))
        accuracy = sense_accuracy(pupil.heads, seen, _senses(images))
        found.append(f"  {kind}: " + " ".join(f"{name} {value:.3f}" for name, value in accuracy.items()))
    if speaks:
        draw = np.random.default_rng(24)
        telling = [teacher.telling(shot, held[0], draw) for shot in held]
        owning = [teacher.owning(shot, (0, 1, 2), 1, draw) for shot in held if shot.crops]
        for kind, lessons in (("telling", telling), ("owning", owning)):
            batch = Batch.of(lessons)
            loss, right = said_loss(pupil.model, batch, Sight(pupil.model).at_rest(batch.images))
            found.append(f"  {kind}: loss {float(loss):.4f} right {float(right.float().mean()):.4f}")
    return "\n".join(found)
