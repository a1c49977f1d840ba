"""Shots: how surely each frame of a source is a shot's last, looked at without black bars."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import cv2
import numpy as np

from dataengine.config import ShotSettings
from dataengine.models.interfaces import Image, ShotDetector
from dataengine.models.scenedetect import Adaptive
from dataengine.models.transnetv2 import TransNetV2
from dataengine.records import Box, FrameScore, Probe, Record, ShotScores
from dataengine.stage import Row, Stage
from dataengine.store import open_source
from dataengine.video import Video

BAR_LUMA = 24
"""A bar's pixels are no brighter than this (0…255): black, with a codec's noise."""
BAR_SHARE = 0.98
"""… but for this share of a row's or column's pixels the rest may be brighter: specks, a channel's faint logo."""
BAR_FRAMES = 9
"""Frames, spread over the source, in which bars are looked for."""
LEAST_CONTENT = 0.3
"""What is left must be this much of the width and of the height, else the scenes are dark and nothing is cropped."""

_DETECTORS: dict[str, Callable[[], ShotDetector]] = {"transnetv2": TransNetV2, "adaptive": Adaptive}


class ShotsStage(Stage[ShotScores]):
    """Streams every frame of a source, scaled down, through the shot detector; memory does not grow with its length."""

    name: ClassVar[str] = "shots"
    version: ClassVar[int] = 1
    reads: ClassVar[tuple[type[Record], ...]] = (Probe,)
    writes: ClassVar[type[Record]] = ShotScores

    def __init__(self, settings: ShotSettings) -> None:
        self.settings = settings
        self._detector = _DETECTORS[settings.detector]()
        self.model, self.needs = self._detector.name, self._detector.needs

    @property
    def revision(self) -> str:
        return self._detector.revision

    def parameters(self) -> Mapping[str, Any]:
        return self.settings.parameters()

    def setup(self) -> None:
        self._detector.load()

    def process(self, rows: Sequence[Row]) -> Sequence[ShotScores]:
        return [self._measure(row) for row in rows]

    def _measure(self, row: Row) -> ShotScores:
        probe = row[Probe]
        with open_source(row.source.uri) as source, Video(source) as video:
            content = Box(0, 0, probe.width, probe.height)
            if self.settings.crop_black_bars:
                times = [(i + 0.5) / BAR_FRAMES * probe.duration_s for i in range(BAR_FRAMES)]
                content = content_box([frame.rgb for frame in video.frames_at(times)])
            times_seen: list[float] = []
            small = _content_frames(video, content, self._detector.size, times_seen)
            scores = list(self._detector.scores(small))
        return ShotScores(
            detector=self._detector.name,
            floor=self.settings.floor,
            frame_s=1 / probe.fps,
            duration_s=probe.duration_s,
            scores=tuple(
                FrameScore(round(time, 6), round(score, 4))
                for time, score in zip(times_seen, scores, strict=True)
                if score >= self.settings.floor
            ),
            content=content,
        )


def content_box(frames: Sequence[Image]) -> Box:
    """The picture without the black bars that all frames have in common, in whole pixels.

    A row or column belongs to a bar when it is black in *every* frame, so a dark scene among brighter ones does not
    matter; where all are so dark that little would be left, the whole picture is returned.
    """
    channels = [cv2.split(frame) for frame in frames]
    bright = [cv2.max(cv2.max(r, g), b) > BAR_LUMA for r, g, b in channels]  # ten times faster than numpy's max
    height, width = bright[0].shape
    spans = []
    for axis, size in ((0, width), (1, height)):
        lit = np.any([b.mean(axis=axis) > 1 - BAR_SHARE for b in bright], axis=0)
        found = np.flatnonzero(lit)
        if len(found) == 0 or found[-1] + 1 - found[0] < LEAST_CONTENT * size:
            return Box(0, 0, width, height)
        spans.append((int(found[0]), int(found[-1]) + 1))
    (x0, x1), (y0, y1) = spans
    return Box(x0, y0, x1, y1)


def _content_frames(video: Video, content: Box, size: tuple[int, int], times: list[float]) -> Iterator[Image]:
    """The content of every frame at the detector's size; its presentation time is appended to `times`.

    Whole frames are scaled so that the content gets that size, and then cut: one pass of the scaler does both.
    """
    width, height = size
    scale_x, scale_y = width / content.width, height / content.height
    whole = (
        max(width, round(video.info.width * scale_x)),
        max(height, round(video.info.height * scale_y)),
    )
    x = min(round(content.x0 * scale_x), whole[0] - width)
    y = min(round(content.y0 * scale_y), whole[1] - height)
    for frame in video.iter_frames(size=whole):
        times.append(frame.time_s)
        yield frame.rgb[y : y + height, x : x + width]
