"""Trains the tiny Qwen2.5-VL: first to see, then to speak of what it sees, at last both together.

1. The vision tower alone, with a linear head for each thing that can be said of whoever covers a merged token.
2. The language model on what the tower sees, the tower at rest.
3. Both, with a falling rate, the heads kept so that the tower forgets nothing. They are dropped at export.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dataengine.world.training.examples import HELD_OUT, TRAINING
from dataengine.world.training.muon import Muon
from dataengine.world.training.qwen_lessons import PARTS, SENSES, TINTS, UNASKED, Lesson, Material, Seen, Teacher, material
from dataengine.world.training.qwen_network import pictures, read, see
from dataengine.world.training.qwen_words import HIDDEN, SEEING as EYE, Model, Processor, build, export

STEPS = 5000
SEEING, SPEAKING = 0.45, 0.75
"""Shares of the steps after which the second and the third part begin."""
POOL = 2500
"""Shots to learn from; later steps see them again."""
LOOKS, WHOLE = 7, 2
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

    @property
    def tokens(self) -> int:
        """Of all images."""
        return sum(len(image.senses) for image in self.images)

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

    def close(self) -> None:
        self._worker.shutdown(cancel_futures=True)


class _Sight:
    """What the tower sees of images; while it rests, each image is looked at once."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._known: dict[tuple[int, str], Tensor] = {}

    def awake(self, images: Sequence[Seen]) -> tuple[Tensor, list[Seen], Tensor, Tensor]:
        """Tokens of the images; and the different ones among them with their tokens and their early patches."""
        different = {image.key: image for image in images}
        seen, early = see(self._model, pictures([image.image for image in different.values()]))
        parts = dict(zip(different, seen.split([len(image.senses) for image in different.values()]), strict=True))
        return torch.cat([parts[image.key] for image in images]), list(different.values()), seen, early

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


def _looks(pool: _Pool, step: int) -> list[Seen]:
    """Images of a step of the first part: mostly crops, which cost little and show as many people."""
    shots = [pool[index] for index in range(step * LOOKS, (step + 1) * LOOKS)]
    whole = [shot.still if (step + step * LOOKS // POOL) % 2 else shot.frame for shot in shots[:WHOLE]]
    return [*whole, *(image for shot in shots for image in shot.crops)]


def _talk(teacher: Teacher, pool: _Pool, step: int, seed: int) -> tuple[str, list[Batch]]:
    """Lessons of a step of the other parts, the short ones apart from the long ones, and their kind."""
    draw = np.random.default_rng((23, seed, step))
    shots = [pool[step // 2 * TALKS + i] for i in range(TALKS)]
    if step % 2 == 0:
        copying = draw.random() < 0.4
        lessons = [teacher.telling(s, pool[int(draw.integers(POOL))] if copying else None, draw) for s in shots]
    else:
        chance = draw.random()
        stills = () if chance < 0.6 else (int(draw.integers(3)),) if chance < 0.8 else (0, 1, 2)
        lessons = [teacher.owning(shot, stills, 1, draw) for shot in shots if shot.crops]
    lessons.sort(key=lambda lesson: len(lesson.ids))
    half = len(lessons) // 2
    return ("telling", "owning")[step % 2], [Batch.of(part) for part in (lessons[:half], lessons[half:]) if part]


def _curve(share: float, seeing: float, speaking: float) -> tuple[float, float]:
    """Rates of the tower and of the language model, as shares of the highest, at a share of all steps."""
    if share < seeing:
        done = share / seeing
        return min(1.0, 0.02 + done * 20) * min(1.0, (1 - done) / 0.4 + 0.05), 0.0
    if share < speaking:
        return 0.0, min(1.0, 0.02 + (share - seeing) * 30)
    left = (1 - share) / (1 - speaking)
    return 0.3 * left, left


def train(
    output: Path,
    *,
    steps: int = STEPS,
    seed: int = 0,
    say: Callable[[str], None] = print,
    resume: Path | None = None,
) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    processor, model = build(seed)
    heads, early_head = nn.Linear(HIDDEN, sum(SENSES.values())), nn.Linear(EYE, PARTS + sum(_TINTED))
    first = 0
    if resume is not None:
        state = torch.load(resume / _STATE, weights_only=True)
        model.load_state_dict(state["model"])
        heads.load_state_dict(state["heads"])
        if state["early"]["weight"].shape == early_head.weight.shape:
            early_head.load_state_dict(state["early"])
        first = int(state["step"])
    teacher, pool, sight = Teacher(processor), _Pool(TRAINING, POOL), _Sight(model)
    held = [material(HELD_OUT, index) for index in range(CHECKED)]
    tower = model.model.visual
    groups = {
        "tower": [p for n, p in tower.blocks.named_parameters() if p.ndim == 2] + [tower.merger.mlp[2].weight],
        "words": [p for p in model.model.language_model.layers.parameters() if p.ndim == 2],
    }
    known = {id(p) for group in groups.values() for p in group}
    muon = {name: Muon(group) for name, group in groups.items()}
    adam = torch.optim.AdamW(
        [
            {
                "params": [p for p in tower.parameters() if id(p) not in known and p.ndim < 3],
                "part": "tower",
                "scale": 1.0,
            },
            {"params": [tower.patch_embed.proj.weight], "part": "tower", "scale": 0.3},
            {"params": [*heads.parameters(), *early_head.parameters()], "part": "tower", "scale": 1.5},
            {
                "params": [
                    *(p for p in model.model.language_model.parameters() if id(p) not in known),
                    *model.lm_head.parameters(),
                ],
                "part": "words",
                "scale": 1.0,
            },
        ],
        lr=ADAM,
        betas=(0.9, 0.98),
        weight_decay=0.0,
    )
    parameters = [p for group in adam.param_groups for p in group["params"]] + [p for g in groups.values() for p in g]
    exported, smooth = time.monotonic(), {}
    for step in range(first, steps):
        share = step / steps
        rates = dict(zip(("tower", "words"), _curve(share, SEEING, SPEAKING), strict=True))
        losses = {}
        if share < SEEING:
            images = _looks(pool, step - first)
            _, images, seen, early = sight.awake(images)
            losses["senses"] = sense_loss(heads, seen, _senses(images))
            losses["parts"] = part_loss(early_head, early, images)
        else:
            kind, batches = _talk(teacher, pool, step, seed)
            resting = rates["tower"] == 0
            images = [image for batch in batches for image in batch.images]
            if resting:
                seen = sight.at_rest(images)
            else:
                seen, different, once, early = sight.awake(images)
                losses["senses"] = sense_loss(heads, once, _senses(different))
                losses["parts"] = part_loss(early_head, early, different)
            parts, right = zip(
                *(
                    said_loss(model, batch, tokens)
                    for batch, tokens in zip(batches, seen.split([batch.tokens for batch in batches]), strict=True)
                ),
                strict=True,
            )
            losses[kind] = torch.stack(parts).mean()
            share_right = float(torch.cat(right).float().mean())
            smooth[kind + " right"] = 0.95 * smooth.get(kind + " right", 0) + 0.05 * share_right
        kept = 1.0 if share < SEEING else KEPT
        weights = {"senses": kept, "parts": kept}
        total = torch.stack([loss * weights.get(name, 1.0) for name, loss in losses.items()]).sum()
        for parameter in parameters:
            parameter.grad = None
        total.backward()
        nn.utils.clip_grad_norm_([p for p in parameters if p.grad is not None], 1.0)
        for name, optimiser in muon.items():
            if rates[name] > 0:
                optimiser.step(MUON * rates[name])
        for group in adam.param_groups:
            group["lr"] = ADAM * group["scale"] * rates[group["part"]]
        adam.step()
        for name, loss in losses.items():
            smooth[name] = 0.95 * smooth.get(name, float(loss.detach())) + 0.05 * float(loss.detach())
        if step % 50 == 0:
            say(
                f"{step}/{steps} cpu {time.process_time():.0f} s " + " ".join(f"{k} {v:.4f}" for k, v in smooth.items())
            )
        if step % 300 == 299:
            say(_checked(model, heads, teacher, held, share >= SEEING))
        if time.monotonic() - exported > EVERY_S or step == steps - 1:
            export(output, processor, model)
            torch.save(
                {
                    "model": model.state_dict(),
                    "heads": heads.state_dict(),
                    "early": early_head.state_dict(),
                    "step": step + 1,
                },
                output / _STATE,
            )
            exported = time.monotonic()


@torch.no_grad()
def _checked(model: Model, heads: nn.Linear, teacher: Teacher, held: Sequence[Material], speaks: bool) -> str:
    found = []
    for name, images in (
        ("frames", [shot.frame for shot in held]),
        ("crops", [image for shot in held for image in shot.crops]),
    ):
        seen, _ = see(model, pictures([image.image for image in images]))
        accuracy = sense_accuracy(heads, seen, _senses(images))
        found.append(f"  {name}: " + " ".join(f"{name} {value:.3f}" for name, value in accuracy.items()))
    if speaks:
        draw = np.random.default_rng(24)
        for name, lessons in (
            ("telling", [teacher.telling(shot, held[0], draw) for shot in held]),
            ("owning", [teacher.owning(shot, (0, 1, 2), 1, draw) for shot in held if shot.crops]),
        ):
            batch = Batch.of(lessons)
            loss, right = said_loss(model, batch, _Sight(model).at_rest(batch.images))
            found.append(f"  {name}: loss {float(loss):.4f} right {float(right.float().mean()):.4f}")
    return "\n".join(found)
