"""Reads generated people by their colours: who shows whose face, and who wears whose garment.

A world's figure is drawn in heights of its head, so three places of it are known from where the head is: the cheeks
(skin), the crown (hair) and both sides of the chest (garment). People stand left to right in equal parts of the frame.
In each part the figure is found by trying all poses that the world can draw; the pose is taken in which the cheeks and
crown come nearest to *some* subject's and the chest to *some* subject's, each on its own. So a figure with another's
garment is found as well as one with its own, and nothing is known beforehand of who stands where.

The colours that a subject should show are read off the true frame, at its true pose, by the same three places.
Distances are those of CIELAB, where about 2 is the least that an eye sees.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from dataengine.world import drawing
from dataengine.world.drawing import Image
from dataengine.world.judge import LEFT_OVER
from dataengine.world.script import Script, Shot

SAME_COLOUR = 25.0
"""CIELAB distance up to which a place shows a colour: the nearest two garment colours of the world are 27 apart."""
TOP, HEAD = 0.1, 0.36
"""Where a person's head begins and how high it is, in heights of the frame."""
_FARTHEST = 60.0  # a place that shows something else altogether must not outweigh the others
_FACE, _CROWN, _CHEST = range(3)

Colours = NDArray[np.float64]
"""CIELAB of cheeks, crown and chest: [..., 3 places, 3]."""


@dataclass(frozen=True, slots=True)
class Figure:
    """Who a generated figure looks like, by number among the subjects of the sample.

    Attributes:
        face: whose cheeks and crown are nearest.
        garment: whose chest is nearest.
        face_off, garment_off: how far they are off, CIELAB; of the face the worse place.
    """

    face: int
    garment: int
    face_off: float
    garment_off: float


@dataclass(frozen=True, slots=True)
class Reading:
    """What a generated picture shows of a sample with N subjects.

    Attributes:
        bound: figures whose face and garment are nearest to the same subject's, of N. By chance 1 of N figures.
        placed: figures with the face of the subject that stands there in truth, of N.
        shown: subjects that some figure shows with face and garment within `SAME_COLOUR`, of N.
        faces, garments: subjects whose face (garment) some figure shows within `SAME_COLOUR`, of N.
        background: pixels outside the figures that are the true background's, as a share.
        rise: of the model's loss when faces are exchanged; see `ablation_preference`. None: no model was asked.
    """

    subjects: int
    bound: int
    placed: int
    shown: int
    faces: int
    garments: int
    background: float
    rise: float | None = None


def read(picture: Image, expected: Colours, background: Image) -> Reading:
    """Read a generated picture.

    Args:
        picture: RGB uint8 [H, W, 3].
        expected: of every subject from left to right, [N, 3, 3]; see `expected_colours`.
        background: the true place without people, RGB uint8 of the same size.
    """
    found = [_figure(picture, expected, part) for part in range(len(expected))]
    figures = [figure for figure, _ in found]
    outside = np.ones(picture.shape[:2], bool)
    for _, pose in found:
        outside &= ~_covered(pose, *picture.shape[:2])
    off = np.abs(picture.astype(np.int16) - background).max(axis=2)
    near = [f for f in figures if f.face_off <= SAME_COLOUR]
    return Reading(
        subjects=len(expected),
        bound=sum(f.face == f.garment for f in figures),
        placed=sum(f.face == part for part, f in enumerate(figures)),
        shown=len({f.face for f in near if f.face == f.garment and f.garment_off <= SAME_COLOUR}),
        faces=len({f.face for f in near}),
        garments=len({f.garment for f in figures if f.garment_off <= SAME_COLOUR}),
        background=float((off[outside] <= LEFT_OVER).mean()) if outside.any() else 0.0,
    )


def expected_colours(script: Script, number: int, order: Sequence[int], picture: Image) -> Colours:
    """What each subject should show: read off the true frame where the script puts the person.

    Args:
        number: of the frame.
        order: place in the shot's list of each subject.
        picture: the frame, RGB uint8 of any size with the script's aspect.
    """
    shot, at = drawing.place(script, number)
    lab = _lab(picture)
    height, width = picture.shape[:2]
    return np.stack([_colours(lab, *_true_pose(script, script.shots[shot], i, at, height, width)) for i in order])


def are_distinct(expected: Colours) -> bool:
    """Whether no two subjects could be taken for each other: faces differ in skin or hair, and garments do."""
    for i in range(len(expected)):
        for j in range(i):
            skin, hair, garment = np.linalg.norm(expected[i] - expected[j], axis=-1)
            if max(skin, hair) < SAME_COLOUR or garment < SAME_COLOUR:
                return False
    return True


def _true_pose(script: Script, shot: Shot, actor: int, at: int, height: int, width: int) -> tuple[float, float, float]:
    pose = drawing.pose(shot.actors[actor], at / script.fps, width, height)
    return pose.x, pose.y, pose.head


def _figure(picture: Image, expected: Colours, part: int) -> tuple[Figure, tuple[float, float, float]]:
    height, width = picture.shape[:2]
    poses = _poses(part, len(expected), height, width)
    seen = _colours(_lab(picture), *poses.T)
    off = np.linalg.norm(seen[:, None] - expected[None], axis=-1)  # [poses, subjects, places]
    clipped = np.minimum(off, _FARTHEST)
    faces, garments = clipped[..., _FACE] + clipped[..., _CROWN], clipped[..., _CHEST]
    best = int(np.argmin(faces.min(axis=1) + garments.min(axis=1)))
    face, garment = int(np.argmin(faces[best])), int(np.argmin(garments[best]))
    face_off = float(off[best, face, [_FACE, _CROWN]].max())
    x, y, head = poses[best].tolist()
    return Figure(face, garment, face_off, float(off[best, garment, _CHEST])), (x, y, head)


@lru_cache(maxsize=16)
def _poses(part: int, people: int, height: int, width: int) -> NDArray[np.float64]:
    """All poses of the person in one part of the frame: centre, top and height of the head in pixels, [poses, 3]."""
    share = 1 / people
    xs = (part + 0.5 + np.linspace(-0.3, 0.3, 13)) * share * width
    ys = np.linspace(TOP - 0.04, TOP + 0.06, 5) * height
    heads = np.linspace(HEAD - 0.05, HEAD + 0.05, 5) * height
    return np.stack(np.meshgrid(xs, ys, heads, indexing="ij"), axis=-1).reshape(-1, 3)


def _grid(xs: Sequence[float], ys: Sequence[float]) -> NDArray[np.float64]:
    return np.stack(np.meshgrid(xs, ys), axis=-1).reshape(-1, 2)


_PLACES = (
    _grid((-0.26, -0.16, 0.16, 0.26), (0.56, 0.62, 0.68)),  # cheeks: under the eyes, over beard and lips
    _grid((-0.24, -0.12, 0.0, 0.12, 0.24), (0.04, 0.1, 0.16)),  # crown
    _grid((-0.46, -0.38, -0.3, 0.3, 0.38, 0.46), (1.55, 1.7, 1.85, 2.0, 2.15)),  # chest, beside a jacket's opening
)
"""Points in heights of the head, from the centre of its top; see `figure`."""


def _colours(lab: NDArray[np.float32], x: object, y: object, head: object) -> Colours:
    """Mean colour of each place at poses of any shape, [..., 3, 3]. Outside the picture its edge is read."""
    x, y, head = (np.asarray(v, float)[..., None] for v in (x, y, head))
    rows = []
    for points in _PLACES:
        columns = np.asarray(x + points[:, 0] * head, np.float32)
        lines = np.asarray(y + points[:, 1] * head, np.float32)
        flat = cv2.remap(
            lab,
            columns.reshape(1, -1) - 0.5,
            lines.reshape(1, -1) - 0.5,
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        )
        rows.append(flat.reshape(*columns.shape, 3).mean(axis=-2))
    return np.stack(rows, axis=-2).astype(float)


def _lab(picture: Image) -> NDArray[np.float32]:
    return np.asarray(cv2.cvtColor(picture.astype(np.float32) / 255, cv2.COLOR_RGB2LAB), np.float32)


def _covered(pose: tuple[float, float, float], height: int, width: int) -> NDArray[np.bool_]:
    """Pixels that a figure may cover, long hair and a bag included: a head, and from its chin on a body."""
    x, y, head = pose
    covered = np.zeros((height, width), bool)
    for above, reach in ((0.2, 0.75), (-0.8, 1.3)):
        left, right = max(0, round(x - reach * head)), max(0, round(x + reach * head))
        covered[max(0, round(y - above * head)) :, left:right] = True
    return covered
