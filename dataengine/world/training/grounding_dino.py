"""Trains the world's Grounding DINO, from nothing, to find phrase by phrase what its adapter asks for."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import GroundingDinoForObjectDetection
from transformers.image_transforms import get_size_with_aspect_ratio

from dataengine.models.grounding_dino import prompt
from dataengine.world.training.examples import TRAINING
from dataengine.world.training.grounding_figures import held_out
from dataengine.world.training.grounding_loss import Targets, presence_loss, proposal_loss, query_loss, word_loss
from dataengine.world.training.grounding_network import LONGEST, SHORTEST, at_cells, eyes, network, pretrain, processor
from dataengine.world.training.grounding_pass import Shapes, answers
from dataengine.world.training.grounding_phrases import classifies, describes
from dataengine.world.training.grounding_views import Pool, View, normalised
from dataengine.world.training.log import Point, TrainingLog, write_log

STEPS = 6000
"""Of the detector."""
BACKBONE_STEPS = 400
EYES_STEPS = 4000
"""Steps in which the backbone goes on learning inside of the detector. Then it sees enough, and a step costs less."""
VIEWS, ASKS = 5, 8
"""Views in a step and phrases asked of each; they share the backbone's pass."""
CROPS = 0.3
"""Share of steps whose views are people's crops, and not whole frames."""
RATE, SLOW_RATE = 1e-3, 3e-4
"""Learning rates; the slow one is of the backbone, and of where deformable attention looks."""
WARM_UP, DECAY = 100, 0.25
"""Steps, and share of the steps, in which the learning rate rises to them and falls to nothing."""
WORDS, PRESENCE = 2.0, 2.0
"""Weights of `word_loss` and `presence_loss`."""
AVERAGE = 0.99
"""Decay of the moving average of weights that is exported."""
VIDEOS_FIRST = 150
"""Videos that are drawn before the first step."""
EVERY_MINUTES = 3
"""Minutes between two states that a cut-off training can go on from."""
STATE = "state.safetensors"


@dataclass
class Run:
    """A training under way: what `state` writes, it can go on from.

    Attributes:
        average: moving average of the weights, by their names.
    """

    model: Any
    optimizer: torch.optim.AdamW
    average: dict[str, Tensor]
    step: int = 0
    seconds: float = 0.0
    curve: list[Point] = field(default_factory=list)
    smooth: float = 0.0

    @classmethod
    def of(cls, model: GroundingDinoForObjectDetection) -> Run:
        groups: dict[float, list[nn.Parameter]] = {RATE: [], SLOW_RATE: []}
        for name, weight in model.named_parameters():
            slow = "conv_encoder" in name or "sampling_offsets" in name
            groups[SLOW_RATE if slow else RATE].append(weight)
        parts = [{"params": weights, "rate": rate} for rate, weights in groups.items()]
        optimizer = torch.optim.AdamW(parts, weight_decay=1e-4, fused=True)
        return cls(model, optimizer, {name: value.detach().clone() for name, value in model.named_parameters()})

    def update(self, loss: Tensor, steps: int) -> None:
        """One step of the optimizer."""
        for group in self.optimizer.param_groups:
            group["lr"] = group["rate"] * rate_at(self.step, steps)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        keep = min(AVERAGE, self.step / (self.step + 10))
        weights = [weight.detach() for weight in self.model.parameters()]
        torch._foreach_lerp_(list(self.average.values()), weights, 1 - keep)
        share = max(0.01, 1 / self.step)
        self.smooth += (loss.item() - self.smooth) * share

    def export(self, folder: Path) -> None:
        """The averaged weights, config and processor, as `from_pretrained` reads them."""
        folder.mkdir(parents=True, exist_ok=True)
        own = {name: value.detach().clone() for name, value in self.model.named_parameters()}
        with torch.no_grad():
            for name, value in self.model.named_parameters():
                value.copy_(self.average[name])
            self.model.save_pretrained(folder)
            for name, value in self.model.named_parameters():
                value.copy_(own[name])
        processor().save_pretrained(folder)

    def save(self, file: Path) -> None:
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        tensors |= {f"average.{name}": value for name, value in self.average.items()}
        for name, weight in self.model.named_parameters():
            for key, value in self.optimizer.state[weight].items():
                tensors[f"optimizer.{name}.{key}"] = value
        tensors["progress"] = torch.tensor([self.step, self.seconds, self.smooth], dtype=torch.float64)
        tensors["curve"] = torch.tensor([[p.step, p.loss] for p in self.curve], dtype=torch.float64).reshape(-1, 2)
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(".part")
        save_file({name: value.contiguous().clone() for name, value in tensors.items()}, part)
        part.replace(file)

    def load(self, file: Path) -> None:
        tensors = load_file(file)
        self.model.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("model.")})
        for name, weight in self.model.named_parameters():
            self.average[name] = tensors[f"average.{name}"]
            keys = ("step", "exp_avg", "exp_avg_sq")
            self.optimizer.state[weight] = {key: tensors[f"optimizer.{name}.{key}"] for key in keys}
        step, self.seconds, self.smooth = tensors["progress"].tolist()
        self.step = int(step)
        self.curve = [Point(step=int(at), loss=loss) for at, loss in tensors["curve"].tolist()]


def train(
    output: Path,
    *,
    steps: int | None = None,
    seed: int = 0,
    say: Callable[[str], None] = print,
    state: Path | None = None,
) -> TrainingLog:
    """Write a checkpoint that `GroundingDino` loads, and its `training.json`, into `output`.

    Args:
        state: a folder for what a training that was cut off goes on from, and for a checkpoint of every few minutes.
            Only `steps` may be different from one start to the next: they move the end.
    """
    started = time.process_time()
    torch.manual_seed(seed)
    torch.set_flush_denormal(True)  # focal loss is full of them, and they take ten times as long
    steps = STEPS if steps is None else steps
    file = state / STATE if state else None
    if file and file.exists():
        run = Run.of(network(eyes()))
        run.load(file)
        pool = _pool(seed, run.step)
        say(f"goes on at step {run.step}")
    else:
        pool = _pool(seed, 0)
        run = Run.of(network(pretrain(pool, min(BACKBONE_STEPS, steps), say)))
    before, saved = run.seconds, time.monotonic()
    views = _views(pool, np.random.default_rng((seed, run.step)))
    words = processor().tokenizer
    for shown in itertools.islice(views, steps - run.step):
        run.model.model.backbone.requires_grad_(run.step < EYES_STEPS)
        run.update(loss(run.model, words, shown), steps)
        run.seconds = before + time.process_time() - started
        if run.step % 100 == 0:
            run.curve.append(Point(step=run.step, loss=round(run.smooth, 4)))
            say(f"step {run.step}/{steps}: loss {run.smooth:.3f}, {run.seconds / 60:.1f} CPU minutes")
        if state and file and time.monotonic() - saved > EVERY_MINUTES * 60:
            run.export(state)
            run.save(file)
            saved = time.monotonic()
    run.export(output)
    if state and file:
        run.save(file)
    log = TrainingLog(
        network="grounding_dino",
        parameters=sum(p.numel() for p in run.model.parameters()),
        bytes=sum(f.stat().st_size for f in output.iterdir() if f.is_file()),
        steps=steps,
        seed=seed,
        cpu_minutes=round(run.seconds / 60, 1),
        torch=torch.__version__,
        curve=tuple(run.curve),
        held_out=held_out(output),
    )
    write_log(output, log)
    return log


def rate_at(step: int, steps: int) -> float:
    """Share of the learning rate at a step: it rises, stays, and falls linearly."""
    return min(1.0, (step + 1) / WARM_UP, max(0.0, (steps - step) / max(1.0, DECAY * steps)))


def loss(model: Any, words: Any, views: list[View]) -> Tensor:
    """Of one batch of views, each with as many phrases."""
    asks = [ask for view in views for ask in view.asks]
    tokens = words([prompt(ask.text) for ask in asks], padding=True, return_tensors="pt")
    found = answers(model, normalised(views), tokens)
    targets = Targets.of([torch.from_numpy(a.boxes) for a in asks], [torch.from_numpy(a.ignored) for a in asks])
    rows, columns = views[0].pixels.shape[:2]
    shown = torch.from_numpy(_shown(views, words, tokens["input_ids"], found.shapes))
    total = WORDS * word_loss(found.likeness, shown)
    total = total + proposal_loss(found.cells, found.boxes_at, found.shapes, (rows, columns), targets)
    total = total + PRESENCE * presence_loss(found.cells, targets)
    for logits, boxes in zip(found.logits, found.boxes, strict=True):
        total = total + query_loss(logits, boxes, targets) + PRESENCE * presence_loss(logits, targets)
    return total


def _shown(views: list[View], words: Any, ids: Tensor, shapes: Shapes) -> NDArray[np.int8]:
    """What `word_loss` wants, int8 [views, cells, phrases, tokens, heads]: the first head is for what describes, the
    second for what classifies, and of anything else a cell may attend to the first token alone."""
    tokens = [words.convert_ids_to_tokens(row) for row in ids.tolist()]
    asks = [(view, ask) for view in views for ask in view.asks]
    tables = np.zeros((len(asks), len(tokens[0]), 2, 256), np.int8)
    tables[:, 0] = -1
    for i, (view, ask) in enumerate(asks):
        for j, word in enumerate(tokens[i]):
            if word == "[PAD]":
                tables[i, j] = -1
                continue
            for entity in view.entities:
                for head, true in enumerate((describes, classifies)):
                    if true(word, ask.term, entity.term):
                        tables[i, j, head, list(entity.labels)] = 1
    seen = [np.concatenate([at_cells(view.labels, shape).ravel() for shape in shapes]) for view in views]
    per_view = tables.reshape(len(views), -1, *tables.shape[1:])
    return np.stack([np.moveaxis(table[..., labels], -1, 0) for table, labels in zip(per_view, seen, strict=True)])


def _pool(seed: int, step: int) -> Pool:
    pool = Pool(TRAINING + 2 * seed, 100_000 * (step > 0) + step, _seen_size, np.random.default_rng((seed, step, 1)))
    pool.grow(VIDEOS_FIRST)
    return pool


def _views(pool: Pool, draw: np.random.Generator) -> Iterator[list[View]]:
    for step in itertools.count():
        if step % 3 == 0:
            pool.grow(1)
        yield pool.crops(VIEWS, ASKS) if draw.random() < CROPS else pool.frames(VIEWS, ASKS)


def _seen_size(height: float, width: float) -> tuple[int, int]:
    rows, columns = get_size_with_aspect_ratio((height, width), SHORTEST, LONGEST)
    return int(rows), int(columns)
