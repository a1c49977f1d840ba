"""Trains a face detector for drawn faces with CenterFace's four output maps: the adapter `centerface` runs it.

The published network finds a third of the world's faces, and fewer the larger they are shown. Like it this is a small
U of convolutions with an output at every fourth pixel: a heat map with a peak at the middle of each face's visible box,
the box's log size, the middle's offset in its cell, and five landmarks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor, nn

from dataengine.config import CenterFaceSettings
from dataengine.models.centerface import CELL, MULTIPLE, OUTPUTS, CenterFace
from dataengine.models.interfaces import DetectedFace
from dataengine.records import Box
from dataengine.world import drawing
from dataengine.world.cast import Identity
from dataengine.world.figure import FACE_PARTS, SCALE, label
from dataengine.world.script import HEIGHT, WIDTH
from dataengine.world.training.examples import HELD_OUT, TRAINING, Example, example
from dataengine.world.training.graph import Graph, values_of
from dataengine.world.training.log import Figure, Losses, Point, TrainingLog, log_training

FILE = "centerface.onnx"
STEPS = 700
IMAGES, POOL = 16, 2400
"""Images a step, and examples that they are drawn from: drawing one takes half as long as a step on it."""
RATE = 3e-3
HELD_OUT_EXAMPLES = 300
SCORE, VISIBLE = 0.5, 200
CLEAR, HIDDEN = 100, 15
"""Visible pixels from which a face must be found, and up to which it must not be; between them either is right."""
MEAN, SPREAD = 127.5, 64.0
SIZE = (HEIGHT + -HEIGHT % MULTIPLE, WIDTH + -WIDTH % MULTIPLE)
"""Rows and columns of an image as the adapter pads it."""


class Network(nn.Module):
    """Images [B, 3, H, W] of RGB 0 … 255 to 15 maps [B, 15, H/4, W/4]: heat as a logit, and those of `OUTPUTS`."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList(
            [layer(3, 16, 2), layer(16, 32, 2), layer(32, 48, 2), layer(48, 64, 2), layer(64, 64), layer(64, 64)]
        )
        self.up8, self.side8 = nn.ConvTranspose2d(64, 48, 2, 2), nn.Conv2d(48, 48, 1)
        self.mix8 = layer(48, 48)
        self.up4, self.side4 = nn.ConvTranspose2d(48, 32, 2, 2), nn.Conv2d(32, 32, 1)
        self.mix4 = layer(32, 32)
        self.heads = nn.Conv2d(32, 15, 1)
        # Nearly no cell is a face, and a face's sides are about 10 cells long.
        self.heads.bias = nn.Parameter(torch.tensor([-4.0, 2.3, 2.3, *[0.0] * 12]))

    def forward(self, images: Tensor) -> Tensor:
        x = (images - MEAN) / SPREAD
        kept = []
        for layer in self.down:
            x = layer(x)
            kept.append(x)
        x = self.mix8(torch.relu(self.up8(x) + self.side8(kept[2])))
        x = self.mix4(torch.relu(self.up4(x) + self.side4(kept[1])))
        return self.heads(x)


def layer(given: int, made: int, stride: int = 1) -> nn.Sequential:
    """A convolution of 3 × 3 with its norm."""
    return nn.Sequential(nn.Conv2d(given, made, 3, stride, 1, bias=False), nn.BatchNorm2d(made), nn.ReLU())


@dataclass(frozen=True)
class Face:
    """What is true of a face: the number of its actor, its visible pixels and their box, and five landmarks xy [5, 2]
    as they were drawn."""

    actor: int
    pixels: int
    box: NDArray[np.float64]
    landmarks: NDArray[np.float64]


def faces(one: Example) -> Iterator[Face]:
    """Every face with a visible pixel."""
    _, at = drawing.place(one.script, one.number)
    seen = one.labels
    for number, actor in enumerate(one.shot.actors):
        y, x = np.nonzero(np.isin(seen, [label(number, part) for part in FACE_PARTS]))
        if len(x):
            box = np.array([x.min(), y.min(), x.max() + 1, y.max() + 1], np.float64)
            pose = drawing.pose(actor, at / one.script.fps, WIDTH * SCALE, HEIGHT * SCALE)
            marks = np.array([pose.x, pose.y]) + pose.head * landmarks(actor.person.identity)
            yield Face(number, len(x), box, marks / SCALE)


def landmarks(who: Identity) -> NDArray[np.float64]:
    """Left and right eye, tip of the nose, left and right corner of the mouth, in heads from the top of the head."""
    eye, mouth = who.face_width / 2 * 0.46, 0.17 * who.mouth
    return np.array([(-eye, 0.48), (eye, 0.48), (0.0, 0.6), (-mouth, 0.76), (mouth, 0.76)])


@dataclass(frozen=True)
class Targets:
    """Of a batch: heat [B, h, w], 1 at a middle and less around it; where it counts [B, h, w]; and at the middles'
    neighbourhood (`image`, `row`, `column`, each [N]) the 14 other maps [N, 14]."""

    heat: Tensor
    counts: Tensor
    image: Tensor
    row: Tensor
    column: Tensor
    maps: Tensor


def targets(people: Sequence[Sequence[Face]]) -> Targets:
    """What the maps should be for the faces of each image."""
    height, width = SIZE[0] // CELL, SIZE[1] // CELL
    heat = np.zeros((len(people), height, width), np.float32)
    counts = np.ones_like(heat)
    y, x = np.mgrid[:height, :width]
    cells: list[tuple[int, int, int]] = []
    maps: list[NDArray[np.float64]] = []
    for i, found in enumerate(people):
        for face in found:
            extent = face.box[2:] - face.box[:2]
            middle = (face.box[:2] + face.box[2:]) / 2 / CELL - 0.5
            column, row = np.round(middle).astype(int)
            if face.pixels < CLEAR:
                if face.pixels > HIDDEN:
                    x0, y0, x1, y1 = face.box / CELL
                    counts[i][(x >= x0 - 1) & (x <= x1) & (y >= y0 - 1) & (y <= y1)] = 0
                continue
            spread = np.clip(extent / CELL / 6, 0.7, 1.6)
            bump = np.exp(-(((x - column) / spread[0]) ** 2 + ((y - row) / spread[1]) ** 2) / 2)
            heat[i] = np.maximum(heat[i], bump)
            for dy, dx in ((0, 0), (0, 1), (0, -1), (1, 0), (-1, 0)):
                r, c = row + dy, column + dx
                if 0 <= r < height and 0 <= c < width:
                    marks = ((face.landmarks - face.box[:2]) / extent)[:, ::-1].ravel()
                    cells.append((i, r, c))
                    maps.append(np.array([*np.log(extent[::-1] / CELL), middle[1] - r, middle[0] - c, *marks]))
    image, row_, column_ = torch.tensor(cells).reshape(-1, 3).T
    told = torch.from_numpy(np.array(maps).reshape(-1, 14)).float()
    return Targets(torch.from_numpy(heat), torch.from_numpy(counts), image, row_, column_, told)


def loss_of(maps: Tensor, true: Targets) -> Tensor:
    """CenterNet's focal loss of the heat, and absolute differences of all else at the middles."""
    logits, sure = maps[:, 0], true.heat == 1
    shown = logits.sigmoid()
    miss = -F.logsigmoid(logits) * (1 - shown) ** 2 * sure
    false = -F.logsigmoid(-logits) * shown**2 * (1 - true.heat) ** 4 * ~sure
    heat = ((miss + false) * true.counts).sum() / sure.sum().clamp(min=1)
    said = maps[true.image, 1:, true.row, true.column]
    apart = (said - true.maps).abs()
    return heat + apart[:, :2].mean() * 2 + apart[:, 2:4].mean() + apart[:, 4:].mean() * 4


@dataclass(frozen=True)
class Pool:
    """Examples kept in memory, to be seen several times."""

    images: list[NDArray[np.uint8]]
    people: list[list[Face]]

    def add(self, seed: int, index: int) -> None:
        one = example(seed, index)
        self.images.append(one.image)
        self.people.append(list(faces(one)))

    def batch(self, draw: np.random.Generator) -> tuple[Tensor, Targets]:
        """Images, half of them mirrored and each moved and scaled a little, and what is to be found in them."""
        images, people = np.zeros((IMAGES, *SIZE, 3), np.uint8), []
        for i, chosen in enumerate(draw.integers(0, len(self.images), IMAGES)):
            image, found = self.images[chosen], self.people[chosen]
            if draw.random() < 0.5:
                image, found = image[:, ::-1], [_mirrored(face) for face in found]
            images[i, :HEIGHT, :WIDTH] = image
            people.append(found)
        light = torch.from_numpy(draw.uniform(0.9, 1.1, (IMAGES, 1, 1, 1)).astype(np.float32))
        return torch.from_numpy(images).permute(0, 3, 1, 2).float() * light, targets(people)


def _mirrored(face: Face) -> Face:
    x0, y0, x1, y1 = face.box
    marks = face.landmarks[[1, 0, 2, 4, 3]] * (-1, 1) + (WIDTH, 0)
    return Face(face.actor, face.pixels, np.array([WIDTH - x1, y0, WIDTH - x0, y1]), marks)


def train(output: Path, *, steps: int | None = None, seed: int = 0, say: Callable[[str], None] = print) -> TrainingLog:
    """Train on one thread and write `centerface.onnx` and `training.json` into the folder."""
    steps = STEPS if steps is None else steps
    torch.set_num_threads(1)
    began = time.process_time()
    network, curve = trained(steps, seed, say)
    output.mkdir(parents=True, exist_ok=True)
    file = output / FILE
    onnx.save(exported(network), file)
    return log_training(
        output,
        "CenterFace (its outputs, a smaller network)",
        weights=network.parameters(),
        files=[file],
        steps=steps,
        seed=seed,
        cpu_s=time.process_time() - began,
        curve=curve,
    )


def trained(steps: int, seed: int, say: Callable[[str], None]) -> tuple[Network, list[Point]]:
    """The trained network in evaluation mode, and its training's curve."""
    torch.manual_seed(seed)
    draw = np.random.default_rng((13, seed))
    network = Network().train()
    optimiser = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=max(2, steps), pct_start=0.1)
    pool, losses = Pool([], []), Losses(steps, say)
    for step in range(steps):
        # The pool grows while it is used, and is full after two thirds of the steps.
        while len(pool.images) < min(POOL, IMAGES * 4 + 1.5 * POOL * step / steps):
            pool.add(TRAINING, len(pool.images))
        images, true = pool.batch(draw)
        loss = loss_of(network(images), true)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 10.0)
        optimiser.step()
        optimiser.zero_grad()
        schedule.step()
        losses.add(step, loss.item())
    return network.eval(), losses.curve


def held_out(folder: Path, indices: Sequence[int] = range(HELD_OUT_EXAMPLES)) -> tuple[Figure, ...]:
    """Figures of the adapter with this checkpoint on held-out examples, at the score that `decide` asks for.

    Recall is of faces with at least `VISIBLE` visible pixels, which all of the world's have. Distances of landmarks are
    shares of the face's width.
    """
    model = CenterFace(SCORE, CenterFaceSettings(weights=str(folder / FILE)))
    model.load()
    found, false, overlap, apart, scores = [], [], [], [], []
    for index in indices:
        one = example(HELD_OUT, index)
        said, true = model.detect([one.image])[0], list(faces(one))
        for face in true:
            if face.pixels < VISIBLE:
                continue
            best = detection_of(face, said)
            found.append(best is not None)
            if best is not None:
                box = Box(*face.box.tolist())
                overlap.append(iou(best.box, box))
                scores.append(best.score)
                apart.append(np.linalg.norm(np.array(best.landmarks) - face.landmarks, axis=1).mean() / box.width)
        false.append(sum(all(iou(one.box, Box(*face.box.tolist())) < 0.3 for face in true) for one in said))
    return tuple(
        Figure(name=name, value=round(float(np.mean(values)), 4) if values else 0.0, of=len(values))
        for name, values in (
            ("recall of faces at IoU 0.5", found),
            ("false faces a frame", false),
            ("IoU of boxes", overlap),
            ("score of faces", scores),
            ("distance of landmarks, in widths of the face", apart),
        )
    )


def detection_of(face: Face, said: Sequence[DetectedFace]) -> DetectedFace | None:
    """The detection that overlaps the face most, if their IoU is at least 0.5."""
    box = Box(*face.box.tolist())
    best = max(said, key=lambda one: iou(one.box, box), default=None)
    return best if best is not None and iou(best.box, box) >= 0.5 else None


def iou(one: Box, other: Box) -> float:
    common = one.intersection(other).area
    union = one.area + other.area - common
    return common / union if union else 0.0


def exported(network: Network) -> onnx.ModelProto:
    """The network in evaluation mode as ONNX, batch norms folded into the convolutions before them."""
    graph = Graph()
    x = trunk(
        graph,
        graph.convolution("input", torch.eye(3)[..., None, None] / SPREAD, torch.full((3,), -MEAN / SPREAD)),
        network,
    )
    weight, bias = values_of(network.heads)
    graph.node("Sigmoid", graph.convolution(x, weight[:1], bias[:1]), output=OUTPUTS[0])
    for name, part in zip(OUTPUTS[1:], (slice(1, 3), slice(3, 5), slice(5, 15)), strict=True):
        graph.convolution(x, weight[part], bias[part], name)
    height, width = (side // CELL for side in SIZE)
    maps = dict(zip(OUTPUTS, (1, 2, 2, 10), strict=True))
    return graph.model(("input", [1, 3, *SIZE]), {name: [1, count, height, width] for name, count in maps.items()})


def restored(file: Path) -> Network:
    """The network, in evaluation mode, of a file that `exported` made; its batch norms do nothing but shift."""
    values = [torch.from_numpy(numpy_helper.to_array(value).copy()) for value in onnx.load(file).graph.initializer]
    pairs = iter(list(zip(values[::2], values[1::2], strict=True))[1:])  # after the normalisation

    def fill(convolution: nn.Conv2d | nn.ConvTranspose2d) -> None:
        weight, bias = next(pairs)
        convolution.weight, convolution.bias = nn.Parameter(weight), nn.Parameter(bias)

    def fill_layer(made: Any) -> None:
        convolution, norm, _ = made
        weight, bias = next(pairs)
        convolution.weight, norm.bias = nn.Parameter(weight), nn.Parameter(bias)
        norm.running_var.fill_(1 - norm.eps)

    network = Network().eval()
    for one in network.down:
        fill_layer(one)
    for up, side, mix in ((network.up8, network.side8, network.mix8), (network.up4, network.side4, network.mix4)):
        fill(up)
        fill(side)
        fill_layer(mix)
    heads = list(pairs)
    network.heads.weight, network.heads.bias = (nn.Parameter(torch.cat(parts)) for parts in zip(*heads, strict=True))
    return network


def trunk(graph: Graph, given: str, network: Network) -> str:
    """Add all but the normalisation and the heads."""
    kept = []
    for one in network.down:
        given = graph.layer(given, one)
        kept.append(given)
    for up, side, mix, level in (
        (network.up8, network.side8, network.mix8, 2),
        (network.up4, network.side4, network.mix4, 1),
    ):
        larger = graph.node("ConvTranspose", given, *graph.weights(*values_of(up)), kernel_shape=[2, 2], strides=[2, 2])
        both = graph.node("Add", larger, graph.convolution(kept[level], *values_of(side)))
        given = graph.layer(graph.node("Relu", both), mix)
    return given
