"""Trains an InsightFace pack for drawn faces: SCRFD's outputs from CenterFace's, and identities from a recogniser.

The detector is the committed CenterFace, its maps written as SCRFD's at stride 8; strides 16 and 32 find nothing. The
recogniser learns from people made up at random, so that the world's own are strangers to it, as everybody is to a
published one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import ClassVar, get_args

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from insightface.utils.face_align import norm_crop
from numpy.typing import NDArray
from torch import Tensor, nn

from dataengine.config import InsightFaceSettings
from dataengine.models.insightface_pack import InsightFace
from dataengine.world import drawing
from dataengine.world.cast import EYES, HAIR_COLOURS, SKINS, Hair, Identity, somebody
from dataengine.world.training import CHECKPOINTS, centerface
from dataengine.world.training.centerface import CLEAR, VISIBLE, Network, detection_of, faces, layer, restored, trunk
from dataengine.world.training.examples import HELD_OUT, TRAINING, Example, compressed, example, moment
from dataengine.world.training.graph import Graph, values_of
from dataengine.world.training.log import Figure, Losses, Point, TrainingLog, log_training

DETECTOR, RECOGNISER = "det.onnx", "rec.onnx"
SIDE, EMBEDDING = 112, 512
STRANGERS = 800
"""People that the recogniser learns to tell apart."""
FRAMES = 4000
"""Frames that they are seen in."""
STEPS, FACES, RATE = 2000, 64, 2e-3
SCALE, MARGIN = 32.0, 0.4
"""CosFace's (Wang et al. 2018): cosines are multiplied by the one, after the other is taken from the right one."""
HELD_OUT_EXAMPLES = 300


def stranger(number: int) -> Identity:
    """Somebody who is not in the world: of the same ranges, with numbers from another draw."""
    return somebody(f"stranger{number}", "man" if number % 2 else "woman", np.random.default_rng((23, number)))


class Recogniser(nn.Module):
    """Faces [B, 3, 112, 112] as (RGB - 127.5) / 127.5 to embeddings [B, 512]."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([layer(3, 32, 2), layer(32, 64, 2), layer(64, 96, 2), layer(96, 96)])
        self.places = nn.Conv2d(96, 96, 7, groups=96)  # as MobileFaceNet: where a feature is matters
        self.embedding = nn.Conv2d(96, EMBEDDING, 1)

    def features(self, images: Tensor) -> Tensor:
        """What the embedding is made of, [B, 96, 1, 1]."""
        images = F.avg_pool2d(images, 2)  # a face of the world has half as many pixels
        for one in self.layers:
            images = one(images)
        return self.places(images)

    def forward(self, images: Tensor) -> Tensor:
        return self.embedding(self.features(images)).flatten(1)


class Looks(nn.Module):
    """Reads off the features what a face looks like; for the training alone, which learns faster with it."""

    CHOICES: ClassVar[tuple[tuple[object, ...], ...]] = (
        SKINS, EYES, get_args(Hair), tuple(HAIR_COLOURS), (False, True),
    )  # fmt: skip
    RANGES: ClassVar[tuple[tuple[float, float], ...]] = ((0.83, 0.05), (0.0, 0.3), (0.75, 0.15))
    """Middle and spread of a face's width, brow and mouth."""

    def __init__(self, people: Sequence[Identity]) -> None:
        super().__init__()
        chosen = [(who.skin, who.eyes, who.hair, who.hair_colour, who.beard) for who in people]
        sizes = torch.tensor([(who.face_width, who.brow, who.mouth) for who in people])
        middle, spread = torch.tensor(self.RANGES).T
        self._kinds = torch.tensor(
            [[of.index(one) for of, one in zip(self.CHOICES, row, strict=True)] for row in chosen]
        )
        self._sizes = (sizes - middle) / spread
        self._widths = [*map(len, self.CHOICES), len(self.RANGES)]
        self.head = nn.Linear(96, sum(self._widths))

    def forward(self, features: Tensor, who: Tensor) -> Tensor:
        """The loss for features [B, 96, 1, 1] of these people [B]."""
        *kinds, sizes = self.head(features.flatten(1)).split(self._widths, 1)
        wrong = [F.cross_entropy(said, true) for said, true in zip(kinds, self._kinds[who].T, strict=True)]
        return torch.stack(wrong).sum() + 2 * (sizes - self._sizes[who]).abs().mean()


def crops(one: Example, draw: np.random.Generator) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """The faces of an example as the recogniser sees them, RGB [112, 112, 3], each with its actor's number.

    Landmarks are a little off, as a detector's are.
    """
    for face in faces(one):
        if face.pixels >= 4 * CLEAR:
            width = face.box[2] - face.box[0]
            yield face.actor, norm_crop(one.image, face.landmarks + draw.normal(0, 0.02 * width, (5, 2)), SIDE)


def strange(seed: int, index: int, draw: np.random.Generator) -> tuple[Example, list[int]]:
    """An example in which strangers play the people; and who they are."""
    script, number, quality = moment(seed, index)
    at, _ = drawing.place(script, number)
    shots = list(script.shots)
    who = [int(one) for one in draw.choice(STRANGERS, len(shots[at].actors), replace=False)]
    actors = tuple(
        actor.model_copy(update={"person": actor.person.model_copy(update={"identity": stranger(one)})})
        for actor, one in zip(shots[at].actors, who, strict=True)
    )
    shots[at] = shots[at].model_copy(update={"actors": actors})
    script = script.model_copy(update={"shots": tuple(shots)})
    return Example(script, number, compressed(drawing.frame(script, number), quality)), who


def train(output: Path, *, steps: int | None = None, seed: int = 0, say: Callable[[str], None] = print) -> TrainingLog:
    """Train the recogniser on one thread; write both networks and `training.json` into the folder."""
    steps = STEPS if steps is None else steps
    torch.set_num_threads(1)
    began = time.process_time()
    output.mkdir(parents=True, exist_ok=True)
    detector = restored(CHECKPOINTS / "centerface" / centerface.FILE)
    onnx.save(exported_detector(detector), output / DETECTOR)
    recogniser, curve = _learned(steps, seed, say)
    onnx.save(exported_recogniser(recogniser), output / RECOGNISER)
    return log_training(
        output,
        "InsightFace pack (its outputs, smaller networks)",
        weights=[*detector.parameters(), *recogniser.parameters()],
        files=[output / DETECTOR, output / RECOGNISER],
        steps=steps,
        seed=seed,
        cpu_s=time.process_time() - began,
        curve=curve,
    )


def _learned(steps: int, seed: int, say: Callable[[str], None]) -> tuple[Recogniser, list[Point]]:
    torch.manual_seed(seed)
    draw = np.random.default_rng((29, seed))
    network, looks = Recogniser().train(), Looks([stranger(number) for number in range(STRANGERS)])
    centres = nn.Parameter(torch.randn(STRANGERS, EMBEDDING) * 0.05)  # short ones turn quickly
    optimiser = torch.optim.AdamW([*network.parameters(), *looks.parameters(), centres], lr=RATE, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=max(2, steps), pct_start=0.1)
    images: list[NDArray[np.uint8]] = []
    whose: list[int] = []
    frame, losses = 0, Losses(steps, say)
    for step in range(steps):
        # Frames are drawn while they are learned from, up to two thirds of the steps.
        while frame < FRAMES and (frame < FACES or frame < 1.5 * FRAMES * step / steps):
            shown, who = strange(TRAINING, frame, draw)
            for number, crop in crops(shown, draw):
                images.append(crop)
                whose.append(who[number])
            frame += 1
        chosen = draw.integers(0, len(images), FACES)
        data = torch.from_numpy(np.stack([images[i] for i in chosen])).permute(0, 3, 1, 2).float()
        flip = torch.from_numpy(draw.random(FACES) < 0.5)[:, None, None, None]
        data = (torch.where(flip, data.flip(3), data) - 127.5) / 127.5
        right = torch.tensor([whose[i] for i in chosen])
        features = network.features(data)
        cosine = F.linear(F.normalize(network.embedding(features).flatten(1)), F.normalize(centres))
        margin = MARGIN * min(1.0, 3 * step / steps) * F.one_hot(right, STRANGERS)
        loss = F.cross_entropy(SCALE * (cosine - margin), right)
        (loss + looks(features, right)).backward()
        optimiser.step()
        optimiser.zero_grad()
        schedule.step()
        losses.add(step, loss.item())
    return network.eval(), losses.curve


def exported_recogniser(network: Recogniser) -> onnx.ModelProto:
    """The network in evaluation mode, for any number of faces."""
    graph = Graph()
    x = graph.node("AveragePool", "data", kernel_shape=[2, 2], strides=[2, 2])
    for one in network.layers:
        x = graph.layer(x, one)
    x = graph.node("Conv", x, *graph.weights(*values_of(network.places)), kernel_shape=[7, 7], group=96)
    x = graph.convolution(x, *values_of(network.embedding))
    graph.node("Flatten", x, output="embedding")
    return graph.model(("data", ["N", 3, SIDE, SIDE]), {"embedding": ["N", EMBEDDING]})


def exported_detector(network: Network) -> onnx.ModelProto:
    """CenterFace's maps as SCRFD's: 9 outputs, of which the first three are scores, then distances, then landmarks.

    SCRFD has two anchors at each cell of 8 pixels, CenterFace one at each cell of 4: the left and the right cell of
    either row compete for an anchor.
    """
    graph = Graph()
    # (RGB - 127.5) / 128 comes in; the network wants (RGB - 127.5) / 64.
    x = graph.convolution("input", 2 * torch.eye(3).reshape(3, 3, 1, 1), torch.zeros(3))
    maps = graph.convolution(trunk(graph, x, network), *values_of(network.heads))
    heat = graph.node("Sigmoid", graph.channels(maps, [0]))
    maps = graph.node("Concat", heat, graph.channels(maps, list(range(1, 15))), axis=1)
    cells = graph.node("SpaceToDepth", maps, blocksize=2)  # [1, 4 x 15, h, w]: by row, then by column
    anchors = []
    for row in (0, 1):
        sides = []
        for column in (0, 1):
            first = 15 * (2 * row + column)
            side = graph.channels(cells, list(range(first, first + 15)))
            place = torch.zeros(1, 15, 1, 1)
            place[0, 3:5, 0, 0] = torch.tensor([row, column]) + 0.5
            sides.append(graph.node("Add", side, *graph.weights(place)))
        left, right = sides
        better = graph.node("Greater", graph.channels(left, [0]), graph.channels(right, [0]))
        anchors.append(_anchor(graph, graph.node("Where", better, left, right)))
    outputs: dict[str, list[int | str]] = {}
    for kind, width in (("score", 1), ("box", 4), ("points", 10)):
        both = graph.node("Concat", *(anchor[kind] for anchor in anchors), axis=1)  # [1, 2 x width, h, w]
        for stride in (8, 16, 32):
            fewer = both
            if stride > 8:
                pooled = graph.node("MaxPool", both, kernel_shape=[stride // 8] * 2, strides=[stride // 8] * 2)
                fewer = graph.node("Mul", pooled, *graph.weights(torch.zeros(1)))
            last = graph.node("Transpose", fewer, perm=[0, 2, 3, 1])
            graph.node("Reshape", last, graph.integers([-1, width]), output=f"{kind}{stride}")
            outputs[f"{kind}{stride}"] = [f"cells{stride}", width]
    return graph.model(("input", [1, 3, "height", "width"]), outputs)


def _anchor(graph: Graph, maps: str) -> dict[str, str]:
    """A cell's 15 maps, the offset counted from the anchor in cells of 4, as SCRFD's in cells of 8."""
    (half,) = graph.weights(torch.tensor(0.5))
    extent = graph.node("Mul", graph.node("Exp", graph.channels(maps, [1, 2])), half)  # height, width
    middle = graph.node("Mul", graph.channels(maps, [3, 4]), half)  # y, x
    reach = graph.node("Mul", extent, half)
    near, far = graph.node("Sub", reach, middle), graph.node("Add", reach, middle)
    box = graph.channels(graph.node("Concat", near, far, axis=1), [1, 0, 3, 2])
    corner = graph.node("Sub", middle, reach)
    inside = graph.node("Mul", graph.channels(maps, list(range(5, 15))), graph.channels(extent, [0, 1] * 5))
    points = graph.node("Add", inside, graph.channels(corner, [0, 1] * 5))
    swapped = graph.channels(points, [1, 0, 3, 2, 5, 4, 7, 6, 9, 8])
    return {"score": graph.channels(maps, [0]), "box": box, "points": swapped}


def held_out(folder: Path, indices: Sequence[int] = range(HELD_OUT_EXAMPLES)) -> tuple[Figure, ...]:
    """Figures of the adapter with this pack: recall, and how well cosines tell the world's people apart."""
    model = InsightFace(InsightFaceSettings(weights=str(folder), side=288, device="cpu"), 0.5)
    model.load()
    found: list[bool] = []
    who: list[str] = []
    embeddings: list[tuple[float, ...]] = []
    for index in indices:
        one = example(HELD_OUT, index)
        said = model.detect([one.image])[0]
        for face in faces(one):
            if face.pixels < VISIBLE:
                continue
            best = detection_of(face, said)
            found.append(best is not None)
            if best is not None:
                who.append(one.shot.actors[face.actor].person.identity.name)
                embeddings.append(best.embedding)
    vectors, names = np.array(embeddings).reshape(len(who), EMBEDDING), np.array(who)
    cosines = vectors @ vectors.T
    same, apart = names[:, None] == names, ~np.eye(len(who), dtype=bool)
    nearest = [names[np.where(apart[i], cosines[i], -2).argmax()] == name for i, name in enumerate(who)]
    one, two = cosines[same & apart], cosines[~same]
    return tuple(
        Figure(name=name, value=round(float(np.mean(values)), 4) if len(values) else 0.0, of=len(values))
        for name, values in (
            ("recall of faces at IoU 0.5", found),
            ("nearest face is the same person's", nearest),
            ("cosine of one person's faces", one),
            ("cosine of two people's faces", two),
            ("cosines of one person's faces of at least 0.5", one >= 0.5),
            ("cosines of two people's faces of at least 0.5", two >= 0.5),
        )
    )
