"""Frames: the three stills of a clip that every later stage looks at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import cv2
import numpy as np

from dataengine.config import FramesSettings
from dataengine.models.interfaces import Image
from dataengine.records import STILL_POSITIONS, Record, Still, Stills
from dataengine.stage import BadInput, Row, Stage
from dataengine.store import open_source
from dataengine.video import frames_at


class FramesStage(Stage[Stills]):
    """Reads the frames on screen at 5, 50 and 95 % of the clip, cut to even size as the encoded clip is."""

    name: ClassVar[str] = "frames"
    version: ClassVar[int] = 1
    reads: ClassVar[tuple[type[Record], ...]] = ()
    writes: ClassVar[type[Record]] = Stills

    def __init__(self, settings: FramesSettings) -> None:
        self.settings = settings

    def parameters(self) -> Mapping[str, Any]:
        return {**self.settings.parameters(), "positions": list(STILL_POSITIONS)}

    def process(self, rows: Sequence[Row]) -> Sequence[Stills]:
        return [self._stills(row) for row in rows]

    def _stills(self, row: Row) -> Stills:
        clip = row.clip
        if clip is None:
            raise BadInput(f"{row.source.uri}: frames are read from clips, this row has none")
        with open_source(row.source.uri) as source:
            frames = frames_at(source, [clip.start_s + share * clip.seconds for share in STILL_POSITIONS])
        images = [even(frame.rgb) for frame in frames]
        height, width = images[0].shape[:2]
        stills = tuple(
            # A frame already on screen when the clip begins has an earlier time of its own.
            Still(time_s=max(clip.start_s, frame.time_s), image=_jpeg(image, self.settings.jpeg_quality))
            for frame, image in zip(frames, images, strict=True)
        )
        return Stills(width=width, height=height, stills=stills)


def even(image: Image) -> Image:
    """The image without the last row or column where their number is odd: as `video.encode_clip` cuts."""
    return image[: image.shape[0] & ~1, : image.shape[1] & ~1]


def pictures(stills: Stills) -> list[Image]:
    """The stills decoded, in order. Raises `BadInput` for one that is no JPEG."""
    images = []
    for number, still in enumerate(stills.stills):
        bgr = cv2.imdecode(np.frombuffer(still.image, np.uint8), cv2.IMREAD_COLOR) if still.image else None
        if bgr is None:
            raise BadInput(f"still {number} at {still.time_s:.3f} s cannot be decoded as JPEG")
        images.append(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB))
    return images


def _jpeg(image: Image, quality: int) -> bytes:
    options = [
        *(cv2.IMWRITE_JPEG_QUALITY, quality),
        *(cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444),
    ]
    done, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    assert done
    return data.tobytes()
