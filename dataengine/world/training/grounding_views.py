"""Pictures of the world as Grounding DINO's adapter shows them to the network, with phrases and their true boxes.

A view is a whole frame, of which people and objects are asked, or a person's crop, of which the person's attributes
are asked. In a crop only what its owner wears is true: somebody else's shirt, cut off at the edge, must not be found.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dataengine.models.grounding_dino import crop_around, nearest_aspect
from dataengine.records import Box
from dataengine.world import drawing
from dataengine.world.drawing import Image
from dataengine.world.figure import Labels
from dataengine.world.script import Script, script
from dataengine.world.training.examples import QUALITIES, compressed
from dataengine.world.training.grounding_phrases import (
    Entity,
    Term,
    any_object,
    any_worn,
    entities,
    loosened,
    recoloured,
    renamed,
    restriped,
    wording,
)
from dataengine.world.training.grounding_plan import Mix

MARGIN = 0.1
"""Of a crop around its body: the adapter's default."""
SEEN = 40
"""Visible pixels of the frame from which an entity counts as there; with fewer, it is neither there nor absent."""
EMPTY = 0.04
"""Share of videos that are drawn without their people."""
MIX = Mix()
MEAN, STD = np.array((0.485, 0.456, 0.406), np.float32), np.array((0.229, 0.224, 0.225), np.float32)

Size = tuple[int, int]
T = TypeVar("T")
Boxes = NDArray[np.float32]
"""[n, 4]: centre x, centre y, width and height as shares of the view."""


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """A frame with its label map and all that is drawn on it."""

    image: Image
    labels: Labels
    entities: tuple[Entity, ...]

    @property
    def owners(self) -> list[int]:
        return sorted({e.owner for e in self.entities if e.owner is not None})


@dataclass(frozen=True, slots=True)
class Ask:
    """A phrase and where it is. `ignored` are boxes of what is too small to tell."""

    term: Term
    text: str
    boxes: Boxes
    ignored: Boxes


@dataclass(frozen=True, slots=True)
class View:
    """What the network is shown of a scene, at the size that it sees it at."""

    pixels: Image
    labels: Labels
    entities: tuple[Entity, ...]
    asks: tuple[Ask, ...]


def scenes(seed: int, number: int) -> list[Scene]:
    """Two frames of every shot of a video."""
    made, draw = script(seed, number), np.random.default_rng((13, seed, number))
    if draw.random() < EMPTY:
        shots = tuple(shot.model_copy(update={"actors": (), "depth": ()}) for shot in made.shots)
        made = made.model_copy(update={"shots": shots})
    return [_scene(made, index, draw) for index in range(len(made.shots)) for _ in range(2)]


def _scene(made: Script, index: int, draw: np.random.Generator) -> Scene:
    shot = made.shots[index]
    first = sum(before.frames for before in made.shots[:index])
    number = first + int(draw.integers(shot.dissolve, shot.frames))
    image = compressed(drawing.frame(made, number), int(draw.integers(*QUALITIES)))
    people, things = [actor.person for actor in shot.actors], [placed.thing for placed in shot.objects]
    return Scene(image, drawing.labels(made, number), entities(people, things))


def frame_view(scene: Scene, size: Size, asks: int, draw: np.random.Generator, mix: Mix = MIX) -> View:
    """The whole frame, with `asks` phrases."""
    return _view(scene, _whole(scene), size, draw, [_frame_term(scene, draw, mix) for _ in range(asks)], None)


def crop_view(scene: Scene, owner: int, size: Size, asks: int, draw: np.random.Generator, mix: Mix = MIX) -> View:
    """The crop of a person, its edges a little off as those of detected bodies are, with `asks` phrases."""
    body = _box_of(scene.labels, _body(scene, owner))
    assert body is not None, "only people who are seen are asked for"
    off = np.clip(draw.normal(0, 0.04, 4), -0.1, 0.1) if draw.random() < 0.8 else np.zeros(4)
    x, y = off[0::2] * body.width, off[1::2] * body.height
    loose = Box(body.x0 + x[0], body.y0 + y[0], body.x1 + x[1], body.y1 + y[1])
    window = crop_around(loose, MARGIN, scene.image)
    return _view(scene, window, size, draw, [_crop_term(scene, owner, draw, mix) for _ in range(asks)], owner)


def aspect(scene: Scene, owner: int) -> float | None:
    """Width to height of a person's crop, as the adapter rounds it; None for somebody hardly seen."""
    values = _body(scene, owner)
    body = _box_of(scene.labels, values)
    if body is None or _table(values)[scene.labels].sum() < 10 * SEEN:
        return None
    window = crop_around(body, MARGIN, scene.image)
    return nearest_aspect(window)


def normalised(pixels: Tensor) -> Tensor:
    """Pixels uint8 [views, rows, columns, 3] as the processor gives them, float32 [views, 3, rows, columns]."""
    mean, std = torch.as_tensor(MEAN), torch.as_tensor(STD)
    return ((pixels.float() / 255 - mean) / std).permute(0, 3, 1, 2).contiguous()


class Pool:
    """Scenes at hand, old ones giving way to new ones. Not all views of a scene are worth drawing it anew.

    Args:
        size: rows and columns that the network sees a height and width at.
    """

    CAPACITY = 700

    def __init__(
        self,
        seed: int,
        first: int,
        size: Callable[[float, float], Size],
        draw: np.random.Generator,
        mix: Mix = MIX,
    ) -> None:
        self._seed, self._next, self._size, self._draw, self._mix = seed, first, size, draw, mix
        self._scenes: list[Scene] = []
        self._furnished: list[Scene] = []
        self._people: dict[float, list[tuple[Scene, int]]] = defaultdict(list)
        self._counts: dict[float, int] = defaultdict(int)

    def grow(self, videos: int) -> None:
        """Draw more videos."""
        for _ in range(videos):
            for scene in scenes(self._seed, self._next):
                self._put(self._scenes, scene)
                if any(entity.owner is None for entity in scene.entities):
                    self._put(self._furnished, scene)
                for owner in scene.owners:
                    if (found := aspect(scene, owner)) is not None:
                        self._put(self._people[found], (scene, owner))
                        self._counts[found] += 1
            self._next += 1

    def frames(self, count: int, asks: int) -> list[View]:
        size = self._size(*self._scenes[0].image.shape[:2])
        return [frame_view(self._scene(), size, asks, self._draw, self._mix) for _ in range(count)]

    def crops(self, count: int, asks: int) -> list[View]:
        """Crops of one aspect ratio, which is drawn as often as it occurs."""
        aspects = sorted(self._counts)
        shares = np.array([self._counts[a] for a in aspects], float)
        chosen = aspects[int(self._draw.choice(len(aspects), p=shares / shares.sum()))]
        size = self._size(1000 / chosen, 1000)
        picked = [self._pick(self._people[chosen]) for _ in range(count)]
        return [crop_view(scene, owner, size, asks, self._draw, self._mix) for scene, owner in picked]

    def _scene(self) -> Scene:
        furnished = self._furnished and self._draw.random() < self._mix.furnished
        return self._pick(self._furnished if furnished else self._scenes)

    def _pick(self, items: list[T]) -> T:
        return items[int(self._draw.integers(len(items)))]

    def _put(self, items: list[T], item: T) -> None:
        if len(items) < self.CAPACITY:
            items.append(item)
        else:
            items[int(self._draw.integers(len(items)))] = item


def _frame_term(scene: Scene, draw: np.random.Generator, mix: Mix) -> Term:
    """People and objects, as the measuring stages ask, and now and then an attribute of anybody."""
    people = [e for e in scene.entities if e.owner is not None and e.term.kind in ("man", "woman")]
    things = [e for e in scene.entities if e.owner is None]
    worn = [e for e in scene.entities if e.owner is not None and e.term.kind not in ("man", "woman")]
    chance = draw.random()
    if chance < mix.people or (not things and not worn):
        return Term("person") if draw.random() < 0.9 or not people else people[0].term
    if chance < 0.95 or not worn:
        if not things or draw.random() < 0.15:
            return any_object(draw)
        term = things[int(draw.integers(len(things)))].term
        return _present_or_hard(term, mix.objects, mix, draw)
    return _present_or_hard(worn[int(draw.integers(len(worn)))].term, mix.worn, mix, draw)


def _crop_term(scene: Scene, owner: int, draw: np.random.Generator, mix: Mix) -> Term:
    """An attribute of the owner, or one that the owner does not have."""
    worn = [e for e in scene.entities if e.owner is not None and e.term.kind not in ("man", "woman")]
    own = [e for e in worn if e.owner == owner]
    others = [e for e in worn if e.owner != owner]
    chance = draw.random()
    if chance < 0.08:
        return any_worn(draw)
    if chance < 0.24 and others:
        return others[int(draw.integers(len(others)))].term
    return _present_or_hard(own[int(draw.integers(len(own)))].term, mix.worn, mix, draw)


def _present_or_hard(term: Term, present: float, mix: Mix, draw: np.random.Generator) -> Term:
    if draw.random() < present:
        return loosened(term, draw)
    chance = draw.random()
    if chance < 0.1 and restriped(term) != term:
        return restriped(term)
    return recoloured(term, draw) if chance < 1 - mix.renamed else renamed(term, draw)


def _view(
    scene: Scene, window: Box, size: Size, draw: np.random.Generator, terms: Sequence[Term], owner: int | None
) -> View:
    x0, y0, x1, y1 = (int(v) for v in window)
    pixels, labels = scene.image[y0:y1, x0:x1], scene.labels[y0:y1, x0:x1]
    if draw.random() < 0.5:
        pixels, labels = np.ascontiguousarray(pixels[:, ::-1]), np.ascontiguousarray(labels[:, ::-1])
    asks = tuple(_ask(labels, scene.entities, term, owner, draw) for term in terms)
    way = cv2.INTER_AREA if size[0] < pixels.shape[0] and draw.random() < 0.5 else cv2.INTER_LINEAR
    shown = cv2.resize(pixels, size[::-1], interpolation=way).astype(np.float32)
    # Light and contrast change, and the names of colours stay.
    shown = (shown - 128) * draw.uniform(0.94, 1.06) + 128 + draw.normal(0, 4) + draw.normal(0, 2, 3)
    seen = cv2.resize(labels, size[::-1], interpolation=cv2.INTER_NEAREST)
    return View(np.clip(shown, 0, 255).astype(np.uint8), np.asarray(seen, np.uint8), scene.entities, asks)


def _ask(labels: Labels, drawn: Sequence[Entity], term: Term, owner: int | None, draw: np.random.Generator) -> Ask:
    found: list[Box] = []
    small: list[Box] = []
    for entity in drawn:
        if (owner is not None and entity.owner != owner) or not term.names(entity.term):
            continue
        pixels = _table(entity.labels)[labels]
        if (box := _box(pixels)) is not None:
            (found if pixels.sum() >= SEEN else small).append(box)
    return Ask(term, wording(term, draw), _shares(found, labels), _shares(small, labels))


def _shares(boxes: Sequence[Box], labels: Labels) -> Boxes:
    height, width = labels.shape
    rows = [((b.x0 + b.x1) / 2 / width, (b.y0 + b.y1) / 2 / height, b.width / width, b.height / height) for b in boxes]
    return np.array(rows, np.float32).reshape(-1, 4)


def _body(scene: Scene, owner: int) -> tuple[int, ...]:
    return next(e.labels for e in scene.entities if e.owner == owner and e.term.kind in ("man", "woman"))


def _whole(scene: Scene) -> Box:
    height, width = scene.labels.shape
    return Box(0, 0, width, height)


def _table(values: Sequence[int]) -> NDArray[np.bool_]:
    table = np.zeros(256, bool)
    table[list(values)] = True
    return table


def _box_of(labels: Labels, values: Sequence[int]) -> Box | None:
    return _box(_table(values)[labels])


def _box(pixels: NDArray[np.bool_]) -> Box | None:
    columns, rows = np.flatnonzero(pixels.any(axis=0)), np.flatnonzero(pixels.any(axis=1))
    if not len(columns):
        return None
    return Box(float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))
