"""Trains a SAM of 0.7 million parameters on the world: boxes as a grounder gives them, masks of what they surround.

What the recipe adds to SAM's own losses is a linear head on the image's embedding that names the part at every pixel of
the low-resolution mask: it teaches the encoder from all pixels at once, and is dropped at the end. Most steps leave out
the rows of patches below the frame, which are padding; the last ones see them, as in use.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from segment_anything.modeling import Sam as SamNetwork
from torch import Tensor, nn

from dataengine.config import SamSettings
from dataengine.models.interfaces import Prompt, Prompted
from dataengine.models.sam import Sam
from dataengine.records import Box
from dataengine.world.script import HEIGHT, WIDTH
from dataengine.world.training.ahead import ahead
from dataengine.world.training.clock import Clock
from dataengine.world.training.device import training_on
from dataengine.world.training.examples import HELD_OUT, TRAINING, example
from dataengine.world.training.log import Figure, Point, TrainingLog, log_training
from dataengine.world.training.muon import Muon
from dataengine.world.training.sam_batches import CLASSES, WEIGHTS, Batch, Drawn, draw_batch, entities, jittered, tight
from dataengine.world.training.sam_network import GRID, PATCH, PROMPT, ROWS, decode, encode, network

FILE = "sam.safetensors"
RESUME = "resume.pt"
RATE, MUON = 2e-3, 0.01
WARM_UP = 50
"""Steps in which the rate rises to them."""
ALONE, DECAY, PADDED = 0.06, 0.3, 0.03
"""Shares of the training: the first one, on parts alone; the last one, with a falling rate; the last of this, on whole
images with padding."""


@dataclass(frozen=True)
class Plan:
    """What a training is made of.

    Attributes:
        steps: where neither steps nor minutes are given.
        images: of a step.
        prompts: boxes an image.
        weights: how often kinds of entities are asked for, see `sam_batches.WEIGHTS`.
        fine: share of the training, its last one, in which masks are judged full size.
    """

    steps: int
    images: int
    prompts: int
    weights: Mapping[str, float]
    fine: float

    @classmethod
    def of(cls, device: str) -> Plan:
        return CPU if device == "cpu" else GPU


CPU = Plan(2600, 4, 6, WEIGHTS, fine=0.3)
GPU = Plan(4500, 16, 8, {**WEIGHTS, "glasses": 4.0, "scarf": 2.0, "face": 1.0}, fine=0.6)
"""A GPU is as slow with a small step as with a large one; thin parts get the most of what is added."""
SHARPNESS = 2.0
"""What logits are multiplied by at the end. Masks stay as they are; their stability rises to where 0.8 parts good masks
from bad ones, as with published checkpoints: of those with an IoU over 0.7 it keeps 99 %, of those under 0.5 none."""
HELD_OUT_EXAMPLES = 200
VISIBLE = 200
"""Pixels from which an entity counts in the figures."""
SAVED_EVERY_S = 240


def mask_loss(logits: Tensor, masks: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Loss of each prompt's mask [P], and the IoU of the mask that its logits give [P].

    Cross entropy is averaged inside the box and a margin, and outside of it on its own, where it counts less: as a mean
    over all of the image it is smallest for no mask at all.
    """
    height, width = logits.shape[1:]
    scale = torch.tensor((width / WIDTH, height / HEIGHT)).repeat(2)
    margin = 0.15 * (boxes[:, 2:] - boxes[:, :2]) + 3
    x0, y0, x1, y1 = (torch.cat([boxes[:, :2] - margin, boxes[:, 2:] + margin], 1) * scale).T[..., None]
    x, y = torch.arange(width) + 0.5, torch.arange(height) + 0.5
    near = ((y > y0) & (y < y1)).float()[:, :, None] * ((x > x0) & (x < x1)).float()[:, None]
    entropy = F.binary_cross_entropy_with_logits(logits, masks, reduction="none")
    area, all_of_it = near.sum((1, 2)), float(width * height)
    inside = (entropy * near).sum((1, 2))
    outside = entropy.sum((1, 2)) - inside
    entropy = inside / area + 0.2 * outside / (all_of_it - area + 1)
    shown = logits.sigmoid()
    dice = 1 - (2 * (shown * masks).sum((1, 2)) + 1) / (shown.sum((1, 2)) + masks.sum((1, 2)) + 1)
    with torch.no_grad():
        said, true = logits > 0, masks > 0.5
        iou = (said & true).sum((1, 2)) / (said | true).sum((1, 2)).clamp(min=1)
    return entropy + dice, iou


def naming_loss(parts: nn.Module, embeddings: Tensor, data: Batch) -> Tensor:
    """Cross entropy of the part at every pixel of the low-resolution mask."""
    named = parts(embeddings[:, :ROWS]).view(-1, ROWS, GRID, 4, 4, CLASSES).transpose(2, 3)
    return F.cross_entropy(named.reshape(-1, CLASSES), data.parts.flatten())


def step_loss(model: SamNetwork, parts: nn.Module, data: Batch, rows: int, fine: bool) -> tuple[Tensor, Tensor]:
    """Loss of a batch, and the masks' IoU [P]. `rows` of patches are seen; `fine`: the masks are judged full size."""
    embeddings = encode(model, F.pad(data.images, (0, 0, 0, (rows - ROWS) * PATCH)))
    low, quality = decode(model, embeddings[data.of], data.boxes)
    low = low[:, : 4 * ROWS]
    if fine:
        logits, masks = F.interpolate(low[:, None], (HEIGHT, WIDTH), mode="bilinear")[:, 0], data.masks.float()
    else:
        logits, masks = low, data.coarse
    loss, iou = mask_loss(logits, masks, data.boxes)
    return loss.mean() + 0.5 * naming_loss(parts, embeddings, data) + F.mse_loss(quality, iou), iou


def optimisers(model: Any, parts: nn.Module) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the transformers, AdamW for all the rest."""
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, weight in model.named_parameters():
        inner = "blocks." in name or "transformer." in name
        (matrices if inner and weight.ndim == 2 and "rel_pos" not in name else others).append(weight)
    return [
        torch.optim.AdamW([*others, *parts.parameters()], lr=RATE, weight_decay=0.01, betas=(0.9, 0.98), fused=True),
        Muon(matrices, MUON),
    ]


def rate(step: int, share: float) -> float:
    """Share of the learning rate, by the steps and the share of the training before: a warm-up, a plain, and a straight
    way down to 0."""
    return min(1.0, (step + 1) / WARM_UP, (1 - share) / DECAY)


@dataclass(frozen=True)
class Drawing:
    """Makes the data of a step, the same for the same seed and plan."""

    seed: int
    plan: Plan

    def __call__(self, step: int) -> Drawn:
        images, draw = self.plan.images, np.random.default_rng((17, self.seed, step))
        indices = range(images * step, images * (step + 1))
        return draw_batch(TRAINING, indices, draw, self.plan.prompts, self.plan.weights)


def train(
    output: Path,
    *,
    steps: int | None = None,
    seed: int = 0,
    say: Callable[[str], None] = print,
    device: str = "cpu",
    minutes: float | None = None,
    workers: int = 0,
    plan: Plan | None = None,
) -> TrainingLog:
    """Train and write `sam.safetensors` and `training.json` into the folder.

    A run that was stopped goes on where it last saved its state, some minutes ago at most; with another number of steps
    too, so that its end can be moved.

    Args:
        device: of torch, to train on. The figures are measured on the CPU.
        minutes: of wall clock, after which training ends if it has not taken its steps before.
        workers: processes that make data; none: this process does.
        plan: what a step holds; by the device, if it is not given.
    """
    chosen = plan or Plan.of(device)
    clock = Clock(steps or (None if minutes else chosen.steps), minutes)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    output.mkdir(parents=True, exist_ok=True)
    with training_on(device):
        ended = _train(output, clock, seed, say, chosen, workers)
    log = log_training(
        output,
        "SAM",
        weights=ended.model.parameters(),
        files=[output / FILE],
        steps=ended.steps,
        seed=seed,
        cpu_s=ended.cpu_s,
        wall_s=ended.wall_s,
        device=device,
        curve=ended.curve,
    )
    (output / RESUME).unlink(missing_ok=True)
    return log


class _Ended(NamedTuple):
    """What a training's log says of it."""

    model: nn.Module
    steps: int
    cpu_s: float
    wall_s: float
    curve: list[Point]


def _train(output: Path, clock: Clock, seed: int, say: Callable[[str], None], plan: Plan, workers: int) -> _Ended:
    """Train on torch's default device and write the weights."""
    torch.manual_seed(seed)
    model, parts = network(), nn.Linear(PROMPT, 16 * CLASSES)
    nn.init.normal_(model.image_encoder.pos_embed, std=0.02)
    chosen = optimisers(model, parts)
    rates = [group["lr"] for optimiser in chosen for group in optimiser.param_groups]
    kept = output / RESUME
    first, curve, spent = 0, [], 0.0
    if kept.is_file() and (state := torch.load(kept, weights_only=True, map_location="cpu"))["seed"] == seed:
        first, curve, spent = state["step"], state["curve"], state["spent"]
        clock = replace(clock, spent_s=state["seconds"])
        model.load_state_dict(state["model"])
        parts.load_state_dict(state["parts"])
        for optimiser, held in zip(chosen, state["optimisers"], strict=True):
            optimiser.load_state_dict(held)

    def save(step: int) -> None:
        state = {"model": model.state_dict(), "parts": parts.state_dict(), "seed": seed, "step": step}
        state |= {"optimisers": [optimiser.state_dict() for optimiser in chosen]}
        state |= {"curve": curve, "spent": time.process_time() - began, "seconds": clock.seconds}
        torch.save(state, kept.with_suffix(".new"))
        kept.with_suffix(".new").replace(kept)

    began, saved, step = time.process_time() - spent, time.monotonic(), first
    recent: list[Tensor] = []
    with closing(ahead(Drawing(seed, plan), range(first, clock.range_end), workers)) as made:
        while (share := clock.share(step)) < 1:
            for group, lr in zip((g for optimiser in chosen for g in optimiser.param_groups), rates, strict=True):
                group["lr"] = lr * rate(step, share)
            data = Batch.of_drawn(next(made))
            if share < ALONE:
                loss, iou = naming_loss(parts, encode(model, data.images), data), torch.zeros(1)
            else:
                rows = GRID if share >= 1 - PADDED else ROWS
                loss, iou = step_loss(model, parts, data, rows, fine=share >= 1 - plan.fine)
            loss.backward()
            nn.utils.clip_grad_norm_([*model.parameters(), *parts.parameters()], 1.0)
            for optimiser in chosen:
                optimiser.step()
                optimiser.zero_grad()
            recent.append(torch.stack((loss.detach(), iou.detach().mean())))
            step += 1
            if step % 50 == 0 or step == clock.steps:
                seen, overlap = torch.stack(recent).mean(0).tolist()
                curve.append((step, round(seen, 4)))
                say(f"{step}: loss {seen:.3f}, IoU {overlap:.3f}, {clock.seconds / 60:.1f} minutes")
                recent = []
            if time.monotonic() - saved > SAVED_EVERY_S:
                save(step)
                saved = time.monotonic()
    save(step)
    save_file({name: value.cpu() for name, value in sharpened(model.state_dict()).items()}, output / FILE)
    points = [Point(step=at, loss=loss) for at, loss in curve]
    return _Ended(model, step, time.process_time() - began, clock.seconds, points)


def sharpened(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a network that gives `SHARPNESS` times the logits: the last ones before the masks' product."""
    last = "mask_decoder.output_hypernetworks_mlps.0.layers.2."
    return {name: SHARPNESS * weight if name.startswith(last) else weight for name, weight in state.items()}


def held_out(folder: Path, indices: Sequence[int] = range(HELD_OUT_EXAMPLES)) -> tuple[Figure, ...]:
    """Figures of the adapter with this checkpoint on held-out examples, for boxes as in training."""
    model = Sam(SamSettings(weights=str(folder / FILE), device="cpu"))
    model.load()
    overlaps: dict[str, list[float]] = {}
    kept: list[bool] = []
    wrong: list[float] = []
    for index in indices:
        one, draw = example(HELD_OUT, index), np.random.default_rng((19, index))
        found = [(kind, pixels) for kind, pixels in entities(one) if pixels.sum() >= VISIBLE]
        prompts = [Prompt(kind, Box(*jittered(tight(pixels), draw).tolist()), None) for kind, pixels in found]
        cut = next(model.segment([Prompted(one.image, (), prompts)]))
        for (kind, pixels), segment in zip(found, cut, strict=True):
            iou = float((segment.pixels & pixels).sum() / (segment.pixels | pixels).sum())
            overlaps.setdefault(kind, []).append(iou)
            kept.append(segment.score >= 0.5 and (segment.stability or 0) >= 0.8)
            wrong.append(abs(segment.score - iou))
    everything = [iou for one in overlaps.values() for iou in one]
    named = [("mask IoU", everything), *((f"mask IoU: {kind}", values) for kind, values in sorted(overlaps.items()))]
    named += [("masks with score ≥ 0.5 and stability ≥ 0.8", [float(one) for one in kept])]
    named += [("error of the predicted IoU", wrong)]
    return tuple(Figure(name=name, value=round(float(np.mean(values)), 4), of=len(values)) for name, values in named)
