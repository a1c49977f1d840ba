"""Samples drawn with numpy, true to every relation: people with faces and clothes, their masks, words and votes.

Cheap enough to make hundreds (a few milliseconds each, some more with a clip), and as messy as measurements are: masks
stick out a little over their owner's, votes are not unanimous, faces differ in size.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import imagehash
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image

from dataengine import video
from dataengine.audit.apply import in_file_order
from dataengine.audit.scene import Scene
from dataengine.config import ShardSettings
from dataengine.records import (
    STILL_POSITIONS,
    Box,
    Clip,
    Pair,
    PairQuality,
    Phrase,
    Provenance,
    Reference,
    Relation,
    Share,
    Span,
    Subject,
)
from dataengine.shards.assembly import Member
from dataengine.shards.index import IndexRow, write_index
from dataengine.shards.plan import SampleName, plan_shards
from dataengine.shards.writer import write_shard
from dataengine.store import Store

WIDTH, HEIGHT, FPS, FRAMES = 640, 360, 8, 8
STILL = 1
COLOURS = {
    "red": (200, 30, 35), "green": (40, 140, 50), "blue": (35, 70, 190), "yellow": (240, 215, 40),
    "orange": (240, 130, 20), "purple": (125, 45, 150), "pink": (245, 150, 185), "brown": (110, 65, 30),
    "white": (245, 245, 245), "black": (18, 18, 18), "grey": (128, 128, 128),
}  # fmt: skip
NOUNS = ("man", "woman", "boy", "girl", "person", "musician", "dancer", "teacher")
PLACES = ("garden", "street", "kitchen", "hall", "park", "library")

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Garment:
    words: str
    mask: Mask


@dataclass(frozen=True)
class Figure:
    """A person in the frame: the face's box, the whole body's mask, the garments, all in pixels."""

    noun: str
    face: Box
    body: Mask
    garments: tuple[Garment, ...]


def sample(seed: int, people: int | None = None, clip: bool = False, key: str | None = None) -> Scene:
    """A clean sample. `people` is 1 to 3, drawn where None; with `clip` it has an mp4 (some 20 ms more)."""
    rng = np.random.default_rng([seed, 20261127])
    count = people or int(rng.choice([1, 2, 3], p=[0.3, 0.45, 0.25]))
    background = _background(rng)
    frame = background.copy()
    nouns = [str(noun) for noun in rng.choice(NOUNS, count)]  # the same noun twice is quite usual
    figures = _seen([_figure(rng, frame, number, count, nouns[number]) for number in range(count)], rng)
    frame = cv2.GaussianBlur(frame, (3, 3), 0.6)
    empty = _inpainted(rng, background, figures)
    return _assembled(rng, key or f"sample-{seed:05d}", frame, empty, figures, str(rng.choice(PLACES)), clip)


def write_dataset(out: Store, scenes: Iterable[Scene], per_shard: int = 4) -> None:
    """Pack samples as a build does: shards by split and number of subjects, index, clips, run summary, card."""
    by_key = {scene.pair.key: scene for scene in scenes}
    plans = plan_shards([SampleName.of(scene.pair) for scene in by_key.values()], ShardSettings(samples=per_shard))
    rows: list[IndexRow] = []
    for plan in plans:
        with out.open_output(f"shards/{plan.name}") as stream:
            rows += write_shard(stream, plan.name, ((by_key[key].pair, files(by_key[key])) for key in plan.keys))
    with out.open_output("index.parquet") as stream:
        write_index(stream, rows)
    clips = [
        {
            "clip_id": s.pair.clip.clip_id,
            "source_id": s.pair.clip.source_id,
            "verdict": "kept",
            "detail": "",
            "dropped": [],
        }
        for s in by_key.values()
    ]
    schema = pa.schema([("clip_id", pa.string()), ("source_id", pa.string()), ("verdict", pa.string()),
                        ("detail", pa.string()), ("dropped", pa.list_(pa.string()))])  # fmt: skip
    with out.open_output("clips.parquet") as stream:
        pq.write_table(pa.Table.from_pylist(clips, schema), stream)


def files(scene: Scene) -> list[Member]:
    """A sample's files in the order they stand in a shard."""
    record = Member("json", scene.pair.to_json().encode())
    named = [Member("mp4", scene.members["mp4"])] if "mp4" in scene.members else []
    named.append(record)
    for reference in in_file_order(scene.pair):
        names = [reference.member, *([reference.mask_member] if reference.mask_member else [])]
        named += [Member(name, scene.members[name]) for name in names]
    return named


# --- Drawing ----------------------------------------------------------------------------------------------------------


def _inpainted(rng: Generator, scene: Pixels, figures: list[Figure]) -> Pixels:
    """The scene as it is measured: where people stood it is made up, smoother than it was."""
    people = cv2.dilate(np.any([f.body for f in figures], axis=0).astype(np.uint8), np.ones((15, 15)))
    smooth = cv2.GaussianBlur(scene, (0, 0), 9)
    smooth = np.clip(smooth + rng.normal(0, 4, (HEIGHT, WIDTH, 1)), 0, 255).astype(np.uint8)
    return np.where(people[..., None] > 0, smooth, scene)


def _background(rng: Generator) -> Pixels:
    """A scene with soft structure: gradients, blocks and grain."""
    coarse = rng.integers(60, 200, (6, 10, 3), dtype=np.uint8)
    scene = cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC).astype(np.int16)
    for _ in range(6):
        x, y = int(rng.integers(0, WIDTH - 80)), int(rng.integers(0, HEIGHT - 60))
        scene[y : y + int(rng.integers(30, 120)), x : x + int(rng.integers(20, 150))] += rng.integers(-40, 40, 3)
    scene += rng.integers(-6, 7, (HEIGHT, WIDTH, 1), dtype=np.int16)
    return np.clip(scene, 0, 255).astype(np.uint8)


def _seen(figures: list[Figure], rng: Generator) -> list[Figure]:
    """What is left of each when those painted later stand before them, with masks as rough as a segmenter's."""
    found = []
    for number, figure in enumerate(figures):
        hidden = np.any([other.body for other in figures[number + 1 :]] + [np.zeros((HEIGHT, WIDTH), bool)], axis=0)
        wide = 4 if rng.random() < 0.1 else 0  # some stick out
        garments = tuple(Garment(g.words, _rough(rng, g.mask & ~hidden, wide)) for g in figure.garments)
        body = _rough(rng, figure.body & ~hidden, wider=2)
        if rng.random() < 0.12:  # some bodies leak into what is beside them
            x = int(np.clip(figure.face.x0 + rng.choice([-1, 1]) * 90, 0, WIDTH - 60))
            body[200:260, x : x + 60] = True
        found.append(Figure(figure.noun, figure.face, body, garments))
    return found


def _figure(rng: Generator, frame: Pixels, number: int, count: int, noun: str) -> Figure:
    """Paint a person into their column of the frame."""
    column = WIDTH / count
    x = (number + 0.5) * column + rng.uniform(-0.16, 0.16) * column
    wide = float(rng.uniform(64, 96))
    tall = 1.25 * wide
    top = float(rng.uniform(44, 70))
    face = Box(round(x - wide / 2), round(top), round(x + wide / 2), round(top + tall))
    chin, shoulder = face.y1 - 4, min(0.46 * column, 1.05 * wide)
    regions: dict[str, Mask] = {
        "shirt": _polygon((x - 0.35 * wide, chin), (x + 0.35 * wide, chin), (x + shoulder, chin + 30),
                          (x + 0.9 * shoulder, 300), (x - 0.9 * shoulder, 300), (x - shoulder, chin + 30)),
        "trousers": _polygon((x - 0.85 * shoulder, 300), (x + 0.85 * shoulder, 300),
                             (x + 0.7 * shoulder, HEIGHT), (x - 0.7 * shoulder, HEIGHT)),
        "hat": _polygon((x - 0.62 * wide, top + 12), (x - 0.3 * wide, max(2, top - 36)),
                        (x + 0.3 * wide, max(2, top - 36)), (x + 0.62 * wide, top + 12)),
        "scarf": _polygon((x - 0.42 * wide, chin), (x + 0.42 * wide, chin),
                          (x + 0.36 * wide, chin + 34), (x - 0.36 * wide, chin + 34)),
    }  # fmt: skip
    worn = ["shirt", *rng.choice(["trousers", "hat", "scarf"], int(rng.integers(0, 3)), replace=False)]
    head = np.zeros((HEIGHT, WIDTH), np.uint8)
    middle = (round(x), round(top + tall / 2))
    cv2.ellipse(head, middle, (round(wide / 2), round(tall / 2)), 0, 0, 360, 1, -1)
    skin = np.array([[224, 172, 140], [141, 85, 52], [255, 219, 190], [198, 134, 96]])[rng.integers(4)]
    _paint(rng, frame, regions["trousers"], np.array([70, 72, 78]), 10)
    garments = []
    for name in worn:
        colour = str(rng.choice(list(COLOURS)))
        _paint(rng, frame, regions[name], np.array(COLOURS[colour]), 7)
        if name == "shirt":
            _face(rng, frame, head.astype(bool), face, skin)
        garments.append(Garment(f"{colour} {name}", regions[name]))
    # What was painted later hides what was painted before.
    seen = []
    for i, garment in enumerate(garments):
        hidden = np.any([other.mask for other in garments[i + 1 :]] + [np.zeros_like(garment.mask)], axis=0)
        if i == 0:
            hidden |= head.astype(bool)
        seen.append(Garment(garment.words, garment.mask & ~hidden))
    body = np.any([head.astype(bool), regions["trousers"], *(g.mask for g in garments)], axis=0)
    return Figure(noun, face, body, tuple(seen))


def _polygon(*points: tuple[float, float]) -> Mask:
    drawn = np.zeros((HEIGHT, WIDTH), np.uint8)
    cv2.fillPoly(drawn, [np.round(np.array(points)).astype(np.int32)], 1)
    return drawn.astype(bool)


def _paint(rng: Generator, frame: Pixels, mask: Mask, colour: NDArray, grain: int) -> None:
    folds = cv2.resize(rng.normal(0, 9, (10, 16)).astype(np.float32), (WIDTH, HEIGHT))
    count = int(mask.sum())
    painted = colour + folds[mask][:, None] + rng.standard_normal((count, 1), np.float32) * grain / 2
    frame[mask] = np.clip(painted, 0, 255).astype(np.uint8)


def _face(rng: Generator, frame: Pixels, head: Mask, face: Box, skin: NDArray) -> None:
    """Skin with a person's own light and shade, eyes, brows, nose and mouth."""
    _paint(rng, frame, head, skin, 5)
    shade = cv2.resize(rng.normal(0, 22, (7, 6)).astype(np.float32), (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    frame[head] = np.clip(frame[head] + shade[head][:, None], 0, 255).astype(np.uint8)
    x, y, w, h = face.x0, face.y0, face.width, face.height
    dark = tuple(int(v) for v in rng.integers(10, 70, 3))
    for side in (-1, 1):
        eye = (round(x + w * (0.5 + side * rng.uniform(0.17, 0.24))), round(y + h * rng.uniform(0.36, 0.43)))
        cv2.ellipse(frame, eye, (round(0.1 * w), round(0.05 * h)), 0, 0, 360, (240, 240, 240), -1)
        cv2.circle(frame, eye, round(rng.uniform(0.035, 0.055) * w), dark, -1)
        cv2.line(frame, (eye[0] - 8, eye[1] - 9), (eye[0] + 8, eye[1] - round(rng.uniform(7, 12))), dark, 2)
    cv2.line(frame, (round(x + w / 2), round(y + 0.45 * h)), (round(x + 0.54 * w), round(y + 0.62 * h)), dark, 2)
    mouth = (round(rng.uniform(0.12, 0.22) * w), round(rng.uniform(0.02, 0.06) * h))
    cv2.ellipse(frame, (round(x + w / 2), round(y + 0.77 * h)), mouth, 0, 0, 360, (150, 40, 50), -1)


def _rough(rng: Generator, mask: Mask, wider: int = 0) -> Mask:
    """A mask as a segmenter finds it: its edge a pixel or two off, here and there."""
    pixels = cv2.dilate(mask.astype(np.uint8), np.ones((2 * wider + 1, 2 * wider + 1)))
    noise = np.clip(rng.normal(0, 0.2, (30, 50)), -0.45, 0.45).astype(np.float32)
    noise = cv2.resize(noise, (WIDTH, HEIGHT))
    return cv2.GaussianBlur(pixels.astype(np.float32), (7, 7), 1.5) + noise > 0.5 if mask.any() else mask


# --- The record and its files -----------------------------------------------------------------------------------------


def _assembled(
    rng: Generator, key: str, frame: Pixels, background: Pixels, figures: list[Figure], place: str, clip: bool
) -> Scene:
    words = _Words(rng)
    cut = Clip.of(f"source-of-{key}", 3.0, 3.0 + FRAMES / FPS)
    members: dict[str, bytes] = {}
    if clip:
        members["mp4"] = video.encode_clip([frame] * FRAMES, FPS, crf=20, preset="veryfast")
    nouns, phrases = [], []
    for number, figure in enumerate(figures):
        words.say(", " if number else "", "A " if not number else "a ")
        nouns.append(words.phrase(figure.noun))
        parts = []
        for i, garment in enumerate(figure.garments):
            words.say(" in a " if not i else " and a ")
            parts.append(words.phrase(garment.words))
        phrases.append(parts)
    words.say(" in a ")
    scene = words.phrase(place)
    words.say(str(rng.choice([".", ". Warm light falls on them.", ". A dog sleeps near a wooden chair behind them."])))

    def reference(entity: str, kind: str, phrase: Phrase, box: Box, mask: Mask | None, **more: float) -> Reference:
        image = frame[int(box.y0) : int(box.y1), int(box.x0) : int(box.x1)]
        if kind == "background":
            image = background
        if mask is not None:
            inside = mask[int(box.y0) : int(box.y1), int(box.x0) : int(box.x1)]
            image = np.where(inside[..., None], image, np.uint8(255))
            members[f"{entity}.mask.png"] = png(mask)
        members[f"{entity}.png"] = png(image)
        return Reference(
            entity=entity, kind=kind, phrase=phrase, member=f"{entity}.png",
            mask_member=None if mask is None else f"{entity}.mask.png", still=STILL,
            time_s=round(STILL_POSITIONS[STILL] * cut.seconds, 6), box=box,
            area_share=box.area / (WIDTH * HEIGHT) if mask is None else float(mask.mean()),
            score=float(rng.uniform(0.6, 0.99)), **more,
        )  # fmt: skip

    subjects = []
    for number, (figure, noun, parts) in enumerate(zip(figures, nouns, phrases, strict=True)):
        face = frame[int(figure.face.y0) : int(figure.face.y1), int(figure.face.x0) : int(figure.face.x1)]
        subjects.append(
            Subject(
                index=number,
                noun=noun,
                face=reference(f"s{number}.face", "face", noun, figure.face, None, sharpness=sharpness(face)),
                attributes=tuple(
                    reference(f"s{number}.a{i}", "attribute", phrase, tight(garment.mask), garment.mask)
                    for i, (phrase, garment) in enumerate(zip(parts, figure.garments, strict=True))
                ),
                body=reference(f"s{number}.body", "body", noun, tight(figure.body), figure.body),
                owner_share=float(rng.choice([1.0, 1.0, 2 / 3])),
                likeness=float(np.clip(rng.normal(0.68, 0.11), -1, 1)),
            )
        )
    hashed = str(imagehash.phash(Image.fromarray(frame)))
    pair = Pair(
        key=key,
        split="train",
        pairing="in_clip",
        clip=cut,
        source_names=(f"{key}.mp4",),
        width=WIDTH,
        height=HEIGHT,
        fps=FPS,
        frames=FRAMES,
        caption=words.text,
        subjects=tuple(subjects),
        objects=(),
        background=reference("bg", "background", scene, Box(0, 0, WIDTH, HEIGHT), None),
        relations=relations(rng, subjects, figures),
        quality=PairQuality(sharpness=300.0, brightness=0.5, clipped=0.01, hashes=(hashed,) * 3),
        provenance=Provenance(stages=(), decided_by=""),
    )
    return Scene(pair, members)


def relations(rng: Generator, subjects: list[Subject], figures: list[Figure]) -> tuple[Relation, ...]:
    """Votes that mostly agree with the truth, and how much of each garment is inside each body's box."""
    found = []
    for subject, figure in zip(subjects, figures, strict=True):
        for attribute, garment in zip(subject.attributes, figure.garments, strict=True):
            agreed: Share = float(rng.choice([1.0, 2 / 3], p=[0.7, 0.3])) if len(subjects) > 1 else 1.0
            stray = int(rng.choice([s.index for s in subjects if s is not subject])) if len(subjects) > 1 else -1
            for other, body in zip(subjects, figures, strict=True):
                votes = agreed if other is subject else (1 - agreed if other.index == stray else 0.0)
                box = tight(body.body)
                inside = garment.mask[int(box.y0) : int(box.y1), int(box.x0) : int(box.x1)].sum() / garment.mask.sum()
                found.append(
                    Relation(attribute=attribute.entity, subject=other.index, votes=votes, inside=float(inside))
                )
    return tuple(found)


class _Words:
    """A caption in the making."""

    def __init__(self, rng: Generator) -> None:
        self.text = ""

    def say(self, *texts: str) -> None:
        self.text += "".join(texts)

    def phrase(self, text: str) -> Phrase:
        start = len(self.text)
        self.text += text
        return Phrase(text=text, span=Span(start, len(self.text)))


def png(pixels: NDArray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def tight(mask: Mask) -> Box:
    """The smallest box of whole pixels around a mask; of no area around none."""
    rows, columns = np.nonzero(mask.any(axis=1))[0], np.nonzero(mask.any(axis=0))[0]
    if not len(rows):
        return Box(0, 0, 0, 0)
    return Box(float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))


def sharpness(image: Pixels) -> float:
    return float(cv2.Laplacian(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.CV_64F).var())
