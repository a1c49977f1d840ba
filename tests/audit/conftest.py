"""A few complete samples made of two real portraits: what contact sheets, checks and reports are tested on."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import matplotlib
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import skimage.data
from matplotlib import image as matplotlib_image
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from dataengine import video
from dataengine.audit.scene import Scene
from dataengine.records import (
    STILL_POSITIONS,
    Box,
    Clip,
    Pair,
    Phrase,
    Provenance,
    Quantiles,
    Quarantined,
    Reference,
    RunSummary,
    Span,
    StageProvenance,
    StageSummary,
    Subject,
)
from dataengine.shards.assembly import Member
from dataengine.shards.index import IndexRow, write_index
from dataengine.shards.writer import write_shard
from dataengine.store import Store

WIDTH, HEIGHT, FPS, FRAMES = 640, 360, 12, 24
Point = tuple[float, float]
Array = NDArray[np.uint8]


@dataclass(frozen=True)
class Portrait:
    """A person: the picture, the face box in it, and outlines of things worn, each with its words."""

    picture: Array
    face: Box
    worn: tuple[tuple[str, tuple[Point, ...]], ...]


@dataclass(frozen=True)
class Placed:
    """A portrait in the frame: `scale` × its pixels + (x, y)."""

    portrait: Portrait
    scale: float
    x: float
    y: float


def _collins() -> Portrait:
    suit = ((112, 205), (60, 240), (20, 400), (30, 511), (280, 511), (285, 430), (350, 345), (330, 265), (300, 245))
    collar = ((300, 250), (240, 290), (180, 278), (125, 230))
    hair = (
        (155, 100),
        (165, 45),
        (215, 15),
        (275, 35),
        (300, 90),
        (275, 130),
        (268, 90),
        (225, 75),
        (185, 95),
        (178, 128),
    )
    worn = (("orange suit", suit + collar), ("short blond hair", hair))
    return Portrait(skimage.data.astronaut(), Box(172, 62, 276, 192), worn)


def _hopper() -> Portrait:
    path = f"{matplotlib.get_data_path()}/sample_data/grace_hopper.jpg"
    uniform = ((205, 320), (40, 380), (15, 599), (511, 599), (511, 420), (480, 380), (335, 320), (300, 405), (235, 405))
    cap = ((150, 175), (152, 95), (180, 45), (260, 22), (330, 45), (370, 90), (372, 178), (330, 130), (200, 130))
    glasses = ((175, 165), (355, 160), (358, 195), (330, 232), (290, 232), (265, 205), (230, 232), (195, 225))
    worn = (("dark uniform", uniform), ("officer's cap", cap), ("glasses", glasses))
    return Portrait(np.asarray(matplotlib_image.imread(path))[:, :, :3].copy(), Box(155, 130, 378, 338), worn)


def _frame(placed: Sequence[Placed]) -> Array:
    frame = Image.fromarray(skimage.data.coffee()).resize((WIDTH, HEIGHT))
    for p in placed:
        size = (round(p.portrait.picture.shape[1] * p.scale), round(p.portrait.picture.shape[0] * p.scale))
        frame.paste(
            Image.fromarray(p.portrait.picture).resize(size, Image.Resampling.LANCZOS), (round(p.x), round(p.y))
        )
    return np.asarray(frame)


def _mask(frame: Array, outline: Sequence[Point]) -> NDArray[np.bool_]:
    """The outline, fitted to the picture's edges by GrabCut."""
    drawn = Image.new("L", (WIDTH, HEIGHT))
    ImageDraw.Draw(drawn).polygon([tuple(point) for point in outline], fill=255)
    inside = np.asarray(drawn)
    sure = cv2.erode(inside, np.ones((15, 15)))
    near = cv2.dilate(inside, np.ones((7, 7)))
    labels = np.where(sure > 0, cv2.GC_FGD, np.where(near > 0, cv2.GC_PR_FGD, cv2.GC_BGD)).astype(np.uint8)
    cv2.setRNGSeed(0)
    labels, small = labels[::2, ::2].copy(), frame[::2, ::2, ::-1].copy()  # at half size: four times as fast
    cv2.grabCut(small, labels, None, np.zeros((1, 65)), np.zeros((1, 65)), 1, cv2.GC_INIT_WITH_MASK)
    found = ((labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)).astype(np.float32)
    return cv2.resize(found, (WIDTH, HEIGHT)) > 0.5


def _png(pixels: NDArray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def _tight(mask: NDArray[np.bool_]) -> Box:
    rows, columns = np.nonzero(mask)
    return Box(int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1)


def _cut(frame: Array, mask: NDArray[np.bool_]) -> bytes:
    x0, y0, x1, y1 = (int(v) for v in _tight(mask))
    return _png(np.where(mask[..., None], frame, np.uint8(255))[y0:y1, x0:x1])


def _scene(
    key: str, placed: Sequence[Placed], words: Callable[[list[list[str]]], tuple[str, list[str], str]], still: int = 1
) -> Scene:
    """A sample of `placed` people; `words` gives the caption, the subjects' nouns and the background phrase."""
    frame = _frame(placed)
    caption, nouns, scene_words = words([[name for name, _ in p.portrait.worn] for p in placed])
    clip = Clip.of(f"source-of-{key}", 3.0, 3.0 + FRAMES / FPS)
    time_s = round(STILL_POSITIONS[still] * clip.seconds, 6)
    members = {"mp4": video.encode_clip([frame] * FRAMES, FPS, crf=20, preset="veryfast")}
    at = 0

    def phrase(text: str) -> Phrase:
        nonlocal at
        start = caption.index(text, at)
        at = start + len(text)
        return Phrase(text=text, span=Span(start, at))

    def reference(entity, kind, words, box, mask=None, image=b"", share=0.0) -> Reference:
        members[f"{entity}.png"] = image
        if mask is not None:
            members[f"{entity}.mask.png"] = _png(mask.astype(np.uint8) * 255)
        return Reference(
            entity=entity,
            kind=kind,
            phrase=words,
            member=f"{entity}.png",
            mask_member=None if mask is None else f"{entity}.mask.png",
            still=still,
            time_s=time_s,
            box=box,
            area_share=share,
            score=0.9,
        )

    subjects = []
    for index, (p, noun) in enumerate(zip(placed, nouns, strict=True)):
        face = Box(
            *(round(v) for v in (
                p.portrait.face.x0 * p.scale + p.x,
                p.portrait.face.y0 * p.scale + p.y,
                p.portrait.face.x1 * p.scale + p.x,
                p.portrait.face.y1 * p.scale + p.y,
            ))
        ).clipped(WIDTH, HEIGHT)  # fmt: skip
        pixels = frame[int(face.y0) : int(face.y1), int(face.x0) : int(face.x1)]
        noun_phrase = phrase(noun)
        masks = [
            _mask(frame, [(x * p.scale + p.x, y * p.scale + p.y) for x, y in outline]) for _, outline in p.portrait.worn
        ]
        body = np.any(masks, axis=0)
        body[int(face.y0) : int(face.y1), int(face.x0) : int(face.x1)] = True
        attributes = tuple(
            reference(f"s{index}.a{i}", "attribute", phrase(name), _tight(mask), mask, _cut(frame, mask), mask.mean())
            for i, ((name, _), mask) in enumerate(zip(p.portrait.worn, masks, strict=True))
        )
        cut_out = reference(f"s{index}.body", "body", noun_phrase, _tight(body), body, _cut(frame, body), body.mean())
        subjects.append(
            Subject(
                index=index,
                noun=noun_phrase,
                face=reference(
                    f"s{index}.face", "face", noun_phrase, face, None, _png(pixels), face.area / WIDTH / HEIGHT
                ),
                attributes=attributes,
                body=cut_out,
                owner_share=1.0,
            )
        )
    empty = np.asarray(Image.fromarray(skimage.data.coffee()).resize((WIDTH, HEIGHT)))
    whole = Box(0, 0, WIDTH, HEIGHT)
    background = reference("bg", "background", phrase(scene_words), whole, None, _png(empty), 1.0)
    pair = Pair(
        key=key,
        split="train",
        pairing="in_clip",
        clip=clip,
        source_names=(f"{key}.mp4",),
        width=WIDTH,
        height=HEIGHT,
        fps=FPS,
        frames=FRAMES,
        caption=caption,
        subjects=tuple(subjects),
        objects=(),
        background=background,
        provenance=Provenance(
            stages=(
                StageProvenance(
                    stage="caption", version=1, fingerprint="5f1e", model="rules", revision="", prompt="", parameters={}
                ),
            ),
            decided_by="c0ffee",
        ),
    )
    return Scene(pair, members)


def _one(worn: list[list[str]]) -> tuple[str, list[str], str]:
    text = f"A woman in an {worn[0][0]}, with {worn[0][1]}, smiles at the camera before a cup of coffee."
    return text, ["woman"], "a cup of coffee"


def _two(worn: list[list[str]]) -> tuple[str, list[str], str]:
    text = (
        f"On the left, a woman in an {worn[0][0]} with {worn[0][1]}; on the right, an older woman in a {worn[1][0]}, "
        f"an {worn[1][1]} and {worn[1][2]}, with a cup of coffee behind them."
    )
    return text, ["woman", "older woman"], "a cup of coffee"


def _hostile(worn: list[list[str]]) -> tuple[str, list[str], str]:
    text = (
        f"<img src=x onerror=alert(1)> \u202eevil\u202c {{{{7*7}}}} </style><script>alert(2)</script> "
        f"中文字幕 \x00 & 'quoted' \"words\" a wo<b>man in a {worn[0][0]}, {worn[0][1]} and {worn[0][2]} by a wall. "
        + "long"
        * 500
    )
    return text, ["wo<b>man"], "a wall"


@pytest.fixture(scope="session")
def scenes() -> list[Scene]:
    """Two people side by side; one person; one person whose caption and file name attack the page."""
    collins, hopper = _collins(), _hopper()
    hostile = _scene("hostile", [Placed(hopper, 0.62, 160, -4)], _hostile, still=2)
    pair = hostile.pair.model_copy(
        update={
            "source_names": ("\"><script>alert('name')</script>\u202egpj.mp4", "a" * 5000 + "\n.mp4"),
            "split": "val",
        }
    )
    return [
        _scene("two_people", [Placed(collins, 0.7, -20, 2), Placed(hopper, 0.6, 333, 0)], _two),
        _scene("one_person", [Placed(collins, 0.75, 120, -10)], _one),
        Scene(pair, hostile.members),
    ]


@pytest.fixture
def dataset(tmp_path: Path, scenes: list[Scene]) -> Store:
    """The samples as a dataset on disk, as a build leaves it, with a run that met hostile names."""
    out = Store.at(tmp_path / "a <b>dataset")
    rows: list[IndexRow] = []
    for shard, chosen in (("train-1s-00000.tar", scenes[1:]), ("train-2s-00000.tar", scenes[:1])):
        with out.open_output(f"shards/{shard}") as stream:
            rows += write_shard(stream, shard, [(scene.pair, _members(scene)) for scene in chosen])
    with out.open_output("index.parquet") as stream:
        write_index(stream, rows)
    quarantined = Quarantined(
        id="q",
        stage="probe",
        error="TruncatedVideoError",
        message="the file ends <i>early</i>",
        attempts=1,
        source_names=("<svg onload=alert(4)>.mp4", "copy.mp4"),
    )
    _table(out, "quarantine.parquet", [quarantined.model_dump(mode="json")])
    kept = {"verdict": "kept", "detail": "", "dropped": ["s0.a1: attribute_min_area: 0.0010 of the frame"]}
    refused = {"verdict": "face_min_px", "detail": "a face of <u>20</u> pixels", "dropped": []}
    _table(out, "clips.parquet", [kept, kept, kept, refused, refused])
    stage = StageSummary(
        stage="faces",
        fingerprint="f1",
        model="centerface",
        done=4,
        cached=1,
        gated=2,
        quarantined=1,
        seconds=2.0,
        cpu_seconds=3.5,
        gpu_seconds=0.0,
        bytes=4096,
        row_seconds=Quantiles(p50=0.4, p90=0.7, p99=0.9, max=1.0),
        errors={"<b>BadInput</b>": 1},
    )
    run = RunSummary(
        sources=3,
        duplicates=1,
        skipped=2,
        clips=5,
        pairs=3,
        subjects=4,
        quarantined=1,
        rejected={"face_min_px": 2},
        stages=(stage,),
        wall_s=12.5,
        measuring_s=8.0,
        cost=0.01,
        inputs=("videos",),
        config={"seed": 0, "note": "</pre><script>alert(5)</script>"},
    )
    out.write("measurements/run.json", run.to_json().encode())
    return out


def _members(scene: Scene) -> list[Member]:
    record = Member("json", scene.pair.to_json().encode())
    return [record, *(Member(name, data) for name, data in scene.members.items())]


def _table(out: Store, name: str, rows: list[dict]) -> None:
    with out.open_output(name) as stream:
        pq.write_table(pa.Table.from_pylist(rows), stream)
