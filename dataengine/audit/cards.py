"""A sample as the page shows it: stills as small data URIs, everything drawn over them as vectors, words cut up."""

from __future__ import annotations

import base64
import io
import logging
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

from dataengine.audit import overlay
from dataengine.audit.checks import Finding, containment
from dataengine.audit.grouping import Group, subjects, surroundings
from dataengine.audit.lettering import Style
from dataengine.audit.palette import colour_of
from dataengine.audit.scene import MaskPixels, Scene, UnreadableSample
from dataengine.audit.wording import Piece, pieces, shortened, visible
from dataengine.records import Pair, Reference

log = logging.getLogger(__name__)

_WIDE, _NARROW, _THUMB = 640, 320, (240, 150)
_LABEL = Style(15, "bold")


@dataclass(frozen=True)
class Outline:
    """An entity over a still, in the clip's pixels: a mask's outline as an SVG path, or a face's box."""

    entity: str
    colour: str
    kind: str
    words: str
    path: str | None
    box: tuple[float, float, float, float]


@dataclass(frozen=True)
class Chip:
    """A label over a still, in the clip's pixels: x, y, width, height; and the line to what it names."""

    entity: str
    colour: str
    words: str
    box: tuple[float, float, float, float]
    font: float
    line: tuple[float, float, float, float] | None


@dataclass(frozen=True)
class StillView:
    picture: str
    time_s: float
    outlines: tuple[Outline, ...]
    chips: tuple[Chip, ...]


@dataclass(frozen=True)
class Thumb:
    entity: str
    words: str
    picture: str | None
    cut: bool
    note: str


@dataclass(frozen=True)
class GroupView:
    title: str
    colour: str
    thumbs: tuple[Thumb, ...]


@dataclass(frozen=True)
class Matrix:
    """How much of each attribute (a row: entity, words, shares) lies inside each subject; None where unknown."""

    subjects: tuple[tuple[str, str], ...]
    rows: tuple[tuple[str, str, int, tuple[float | None, ...]], ...]


@dataclass(frozen=True)
class Card:
    """All the template needs of one sample. Words are safe to show and escaped by the template."""

    key: str
    pair: Pair
    source: str
    copies: int
    caption: tuple[tuple[Piece, str], ...]
    stills: tuple[StillView, ...]
    subjects: tuple[GroupView, ...]
    surroundings: tuple[GroupView, ...]
    matrix: Matrix | None
    failures: tuple[Finding, ...]
    checked: int
    problem: str | None


def card(scene: Scene, findings: Sequence[Finding]) -> Card:
    """The card of a sample; one that cannot be decoded still shows its words, and `problem` says what is wrong."""
    pair = scene.pair
    problem: str | None = None
    stills: tuple[StillView, ...] = ()
    matrix: Matrix | None = None
    try:
        main = overlay.main_still(scene)
        order = (main, *(still for still in range(len(scene.stills)) if still != main))
        stills = tuple(_still(scene, still, _WIDE if still == main else _NARROW) for still in order)
        matrix = _matrix(scene)
    except UnreadableSample as error:
        problem = shortened(str(error), 300)
    return Card(
        key=pair.key,
        pair=pair,
        source=shortened(pair.source_names[0], 80) if pair.source_names else "",
        copies=len(pair.source_names),
        caption=tuple((piece, colour_of(piece.entity).name if piece.entity else "") for piece in pieces(pair)),
        stills=stills,
        subjects=tuple(_group(scene, group) for group in subjects(pair)),
        surroundings=tuple(_group(scene, group) for group in surroundings(pair)),
        matrix=matrix,
        failures=tuple(finding for finding in findings if not finding.passed),
        checked=len(findings),
        problem=problem,
    )


def _still(scene: Scene, still: int, width: int) -> StillView:
    frame = Image.fromarray(scene.stills[still])
    frame.thumbnail((width, width), Image.Resampling.LANCZOS)
    outlines = tuple(_outline(scene, reference) for reference in overlay.drawing_order(scene, still))
    # Labels are placed as on the contact sheet, for a picture of 640 pixels, and scaled into the clip's pixels.
    scale = scene.pair.width / _WIDE
    chips = []
    for label in overlay.labels(scene, still, _WIDE, _LABEL) if width == _WIDE else ():
        line = None
        if label.leads_to is not None:
            ends = (*overlay.leader_start(label.chip, label.leads_to), *label.leads_to)
            line = (ends[0] * scale, ends[1] * scale, ends[2] * scale, ends[3] * scale)
        chip = label.chip
        box = (chip.x0 * scale, chip.y0 * scale, chip.width * scale, chip.height * scale)
        colour = colour_of(label.entity).name
        chips.append(Chip(label.entity, colour, label.words, box, _LABEL.size * scale, line))
    time_s = next((r.time_s for r in scene.pair.references if r.still == still), scene.still_times[still])
    return StillView(_data_uri(frame), time_s, outlines, tuple(chips))


def _outline(scene: Scene, reference: Reference) -> Outline:
    mask = scene.masks.get(reference.entity)
    box = reference.box
    return Outline(
        entity=reference.entity,
        colour=colour_of(reference.entity).name,
        kind=reference.kind,
        words=visible(reference.phrase.text),
        path=None if mask is None else svg_path(mask),
        box=(box.x0, box.y0, box.width, box.height),
    )


def svg_path(mask: MaskPixels, tolerance: float = 0.8) -> str:
    """The outlines of a mask's parts and holes as the `d` of an SVG path (fill rule: even-odd), in whole pixels.

    Parts under 0.01 % of the frame are left out: they only make the page heavy. `tolerance` is in pixels.
    """
    shapes, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    paths = []
    for shape in shapes:
        if cv2.contourArea(shape) < mask.size * 1e-4:
            continue
        points = cv2.approxPolyDP(shape, tolerance, closed=True)[:, 0]
        paths.append("M" + "L".join(f"{x} {y}" for x, y in points.tolist()) + "Z")
    return "".join(paths)


def _group(scene: Scene, group: Group) -> GroupView:
    return GroupView(group.title, group.colour.name, tuple(_thumb(scene, words, r) for words, r in group.references))


def _thumb(scene: Scene, words: str, reference: Reference) -> Thumb:
    try:
        image = scene.image(reference)
    except UnreadableSample as error:
        log.warning("%s", error)
        return Thumb(reference.entity, words, None, False, shortened(str(error), 200))
    note = f"{image.width}×{image.height} px at {reference.time_s:.2f} s, score {reference.score:.2f}"
    image.thumbnail((2 * _THUMB[0], 2 * _THUMB[1]), Image.Resampling.LANCZOS)
    return Thumb(reference.entity, words, _data_uri(image), reference.mask_member is not None, note)


def _matrix(scene: Scene) -> Matrix | None:
    """Whose is it? Only with several subjects is that a question."""
    pair = scene.pair
    if len(pair.subjects) < 2:
        return None
    return Matrix(
        subjects=tuple((visible(s.noun.text), colour_of(s.face.entity).name) for s in pair.subjects),
        rows=tuple(
            (
                colour_of(attribute.entity).name,
                visible(attribute.phrase.text),
                column,
                tuple(containment(attribute, rival, scene.masks) for rival in pair.subjects),
            )
            for column, subject in enumerate(pair.subjects)
            for attribute in subject.attributes
        ),
    )


def _data_uri(image: Image.Image) -> str:
    """The picture as WebP, made anew from its pixels: nothing of the dataset's bytes reaches the page."""
    stream = io.BytesIO()
    image.convert("RGB").save(stream, "WEBP", quality=80, method=4)
    return "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
