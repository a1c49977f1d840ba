"""Quality: how sharp, bright, lively and clean of lettering a clip's pictures are, whatever they show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import cv2
import numpy as np
from numpy.typing import NDArray

from dataengine.config import QualitySettings
from dataengine.measure.background import camera_motion
from dataengine.measure.frames import pictures
from dataengine.measure.shots import content_box
from dataengine.models.aesthetic import Aesthetic
from dataengine.models.interfaces import Image
from dataengine.models.nsfw import Nsfw
from dataengine.records import Box, Quality, Record, Stills
from dataengine.stage import BadInput, Row, Stage
from dataengine.store import open_source
from dataengine.video import Frame, Video
from dataengine.weights import Needs

LINES = 360
"""Frames are looked at with this height, so that figures of small and large videos compare."""
FLOW_LINES = 180
"""Height at which the optical flow is computed."""
PAIR_S = 0.08
"""Between the two frames of a pair: long enough for slow things to move by a pixel, short enough to follow fast ones.
Where a video has fewer frames than that, its next frame is taken."""
BLACK, WHITE = 5, 250
"""Channels all at most, or all at least this: nothing is left to see there, but for a codec's noise."""
BAR_EDGE = 0.01
"""What is left out beside a black bar, as a share of the picture's height."""

STROKE_PX = 11
"""Strokes of letters are thinner than this, at `LINES`."""
STROKE_CONTRAST = 60
"""Grey levels by which a stroke differs from what is beside it."""
STILL_SHARE = 0.15
"""Lettering laid over a film changes from frame to frame by less than this share of its contrast."""
LETTERING_PLACES = 3
"""Consecutive sampled moments at which lettering must stand in the same place: subtitles last some seconds."""
SCENE_STANDS = 0.5
"""When more of all other strokes stand still as well, the scene does, and only long lines are taken for lettering."""


class QualityStage(Stage[Quality]):
    """Measures the stills, and a few pairs of neighbouring frames that are spread over the clip."""

    name: ClassVar[str] = "quality"
    version: ClassVar[int] = 1
    reads: ClassVar[tuple[type[Record], ...]] = (Stills,)
    writes: ClassVar[type[Record]] = Quality

    def __init__(self, settings: QualitySettings) -> None:
        self.settings = settings
        self._aesthetic = Aesthetic(settings.aesthetic) if settings.aesthetic.weights else None
        self._nsfw = Nsfw(settings.nsfw) if settings.nsfw.weights else None
        if self._models:
            self.model = ", ".join(model.name for model in self._models)
            self.needs = sum((model.needs for model in self._models), Needs())

    @property
    def _models(self) -> list[Aesthetic | Nsfw]:
        return [model for model in (self._aesthetic, self._nsfw) if model is not None]

    @property
    def revision(self) -> str:
        return " ".join(model.revision for model in self._models)

    def parameters(self) -> Mapping[str, Any]:
        return self.settings.parameters()

    def setup(self) -> None:
        cv2.setNumThreads(1)
        for model in self._models:
            model.load()

    def process(self, rows: Sequence[Row]) -> Sequence[Quality]:
        clips = [pictures(row[Stills]) for row in rows]
        measured = [self._quality(row, images) for row, images in zip(rows, clips, strict=True)]
        if self._aesthetic:
            means = [sum(scores) / len(scores) for scores in _by_clip(self._aesthetic, clips)]
            measured = [m.model_copy(update={"aesthetic": round(v, 3)}) for m, v in zip(measured, means, strict=True)]
        if self._nsfw:
            scored = [tuple(round(score, 4) for score in scores) for scores in _by_clip(self._nsfw, clips)]
            measured = [m.model_copy(update={"nsfw": v}) for m, v in zip(measured, scored, strict=True)]
        return measured

    def _quality(self, row: Row, images: Sequence[Image]) -> Quality:
        content = content_box(images)
        seen = without_edges(content, *images[0].shape[1::-1])
        inside = [_cut(image, seen) for image in images]
        pairs = self._pairs(row, content.height / images[0].shape[0])
        # The bars found in the stills, in frames that were read at another size.
        height, width = pairs[0][0].rgb.shape[:2]
        scale_x, scale_y = width / images[0].shape[1], height / images[0].shape[0]
        there = Box(seen.x0 * scale_x, seen.y0 * scale_y, seen.x1 * scale_x, seen.y1 * scale_y)
        cut = [tuple(_cut(frame.rgb, there) for frame in pair) for pair in pairs]
        steps = [
            motion(_at_lines(a, FLOW_LINES), _at_lines(b, FLOW_LINES), two.time_s - one.time_s)
            for (a, b), (one, two) in zip(cut, pairs, strict=True)
            if two.time_s > one.time_s
        ]
        moved, by_camera = np.median(steps, axis=0) if steps else (0.0, 0.0)
        share = content.area / (images[0].shape[0] * images[0].shape[1])
        return Quality(
            sharpness=tuple(round(sharpness(image), 2) for image in inside),
            brightness=tuple(round(float(cv2.cvtColor(i, cv2.COLOR_RGB2GRAY).mean()) / 255, 4) for i in inside),
            clipped=tuple(round(clipped(image), 4) for image in inside),
            motion=round(float(moved), 4),
            camera_motion=round(float(by_camera), 4),
            overlay_share=round(share * lettering([a for a, _ in cut]), 4),
            aesthetic=None,
            content=content,
            hashes=tuple(perceptual_hash(image) for image in inside),
        )

    def _pairs(self, row: Row, content_share: float) -> list[tuple[Frame, Frame]]:
        """Frames close in time, of a size at which the content has `LINES` of height."""
        clip = row.clip
        if clip is None:
            raise BadInput(f"{row.source.uri}: quality is measured on clips, this row has none")
        count = self.settings.frames // 2
        with open_source(row.source.uri) as source, Video(source) as video:
            height = round(LINES / content_share)
            size = (max(1, round(video.info.width * height / video.info.height)), height)
            apart = max(PAIR_S, 1.01 / video.info.fps)
            starts = [clip.start_s + (i + 0.5) / count * max(0.0, clip.seconds - apart) for i in range(count)]
            frames = video.frames_at([t for start in starts for t in (start, start + apart)], size=size)
        return list(zip(frames[::2], frames[1::2], strict=True))


def _by_clip(model: Aesthetic | Nsfw, clips: Sequence[Sequence[Image]]) -> list[list[float]]:
    """A score for every image, all looked at together."""
    scores = iter(model.score([image for images in clips for image in images]))
    return [[next(scores) for _ in images] for images in clips]


def without_edges(content: Box, width: int, height: int) -> Box:
    """The content less a few pixels at each bar: a bar's blurred edge is the sharpest line of many a picture."""
    edge = max(2.0, BAR_EDGE * height)
    return Box(
        content.x0 + edge * (content.x0 > 0),
        content.y0 + edge * (content.y0 > 0),
        content.x1 - edge * (content.x1 < width),
        content.y1 - edge * (content.y1 < height),
    )


def sharpness(image: Image) -> float:
    """Variance of the Laplacian at `LINES` of height: about 10 is blurred, 100 soft, 1000 crisp."""
    grey = cv2.cvtColor(_at_lines(image, LINES), cv2.COLOR_RGB2GRAY)
    return float(cv2.Laplacian(grey, cv2.CV_64F).var())


def clipped(image: Image) -> float:
    """Share of the pixels that are black or white altogether."""
    black = cv2.inRange(image, (0, 0, 0), (BLACK,) * 3)
    white = cv2.inRange(image, (WHITE,) * 3, (255, 255, 255))
    return float(((black | white) > 0).mean())


def motion(a: Image, b: Image, seconds: float) -> tuple[float, float]:
    """How fast the picture moves from `a` to `b`, and how fast the camera alone would move it.

    Both are medians over the pixels, in frame heights a second.
    """
    grey_a, grey_b = (cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in (a, b))
    flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST).calc(grey_a, grey_b, None)
    nothing = np.zeros(grey_a.shape, bool)
    matrix = camera_motion(a, nothing, b, nothing)
    height, width = grey_a.shape
    y, x = np.mgrid[0:height:4, 0:width:4]
    there = matrix[:2, :2] @ np.stack([x.ravel(), y.ravel()]) + matrix[:2, 2:]
    way = np.hypot(there[0] - x.ravel(), there[1] - y.ravel())
    unit = height * seconds
    return float(np.median(np.linalg.norm(flow, axis=2))) / unit, float(np.median(way)) / unit


def lettering(frames: Sequence[Image]) -> float:
    """Share of the picture under subtitles, watermarks and other lettering, from moments spread over a clip.

    Lettering is thin strokes of high contrast that keep their place and their grey level while the scene moves on,
    close together in rows. The largest share over runs of `LETTERING_PLACES` moments. In a scene that stands still
    everything keeps its place: there only rows that are long and even are counted, and short ones are missed.
    """
    greys = [cv2.cvtColor(_at_lines(frame, LINES), cv2.COLOR_RGB2GRAY) for frame in frames]
    kernel = np.ones((STROKE_PX, STROKE_PX), np.uint8)
    strokes = [[cv2.morphologyEx(g, how, kernel) for how in (cv2.MORPH_TOPHAT, cv2.MORPH_BLACKHAT)] for g in greys]
    run = min(LETTERING_PLACES, len(greys))
    if run < 2:
        return 0.0
    return max(
        _standing_strokes(np.stack(greys[i : i + run]), np.array(strokes[i : i + run]))
        for i in range(len(greys) - run + 1)
    )


def _standing_strokes(greys: NDArray[np.uint8], strokes: NDArray[np.uint8]) -> float:
    """Share of the picture in rows of standing strokes. `greys` (N, H, W), `strokes` (N, bright or dark, H, W)."""
    spread = greys.max(axis=0) - greys.min(axis=0)
    least = strokes.min(axis=0)
    standing = ((least > STROKE_CONTRAST) & (spread < STILL_SHARE * least)).any(axis=0)
    # Letters of a row become one area, and what is smaller than a word goes.
    rows = cv2.morphologyEx(standing.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((5, 21), np.uint8))
    rows = cv2.morphologyEx(rows, cv2.MORPH_OPEN, np.ones((6, 13), np.uint8))
    found, lines = np.zeros_like(standing), np.zeros_like(standing)
    _, _, areas, _ = cv2.connectedComponentsWithStats(rows)
    for x, y, width, height, area in areas[1:]:
        part = slice(y, y + height), slice(x, x + width)
        as_high_as_text = 7 <= height <= LINES / 6 and width >= max(20, 1.2 * height)
        if as_high_as_text and area >= 0.55 * width * height and standing[part].mean() >= 0.2:
            found[part] = True
            lines[part] |= width >= LINES / 4 and width >= 4 * height
    others = (strokes[0] > STROKE_CONTRAST).any(axis=0) & ~found
    still = (standing & others).sum() > SCENE_STANDS * others.sum()
    return float((lines if still else found).mean())


def perceptual_hash(image: Image) -> str:
    """64 bits of the coarse structure (pHash), in hex: they hardly change under scaling and compression."""
    import imagehash  # brings scipy and PyWavelets along
    from PIL import Image as Pillow

    return str(imagehash.phash(Pillow.fromarray(image)))


def _cut(image: Image, box: Box) -> Image:
    return np.ascontiguousarray(image[round(box.y0) : round(box.y1), round(box.x0) : round(box.x1)])


def _at_lines(image: Image, lines: int) -> Image:
    height, width = image.shape[:2]
    if height == lines:
        return image
    how = cv2.INTER_AREA if height > lines else cv2.INTER_LINEAR
    return cv2.resize(image, (max(1, round(width * lines / height)), lines), interpolation=how)
