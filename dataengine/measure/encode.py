"""Encode: the clip as the H.264 file that goes into a shard."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

from dataengine.config import EncodeSettings
from dataengine.models.interfaces import Image
from dataengine.records import EncodedClip, Record
from dataengine.stage import BadInput, Row, Stage
from dataengine.store import open_source
from dataengine.video import Frame, Video, as_rate, encode_clip


class EncodeStage(Stage[EncodedClip]):
    """Encodes the clip's frames at the source's average rate, resampled by presentation time."""

    name: ClassVar[str] = "encode"
    version: ClassVar[int] = 1
    reads: ClassVar[tuple[type[Record], ...]] = ()
    writes: ClassVar[type[Record]] = EncodedClip
    model = "x264"

    def __init__(self, settings: EncodeSettings) -> None:
        self.settings = settings

    def parameters(self) -> Mapping[str, Any]:
        return self.settings.parameters()

    def process(self, rows: Sequence[Row]) -> Sequence[EncodedClip]:
        return [self._encode(row) for row in rows]

    def _encode(self, row: Row) -> EncodedClip:
        clip = row.clip
        if clip is None:
            raise BadInput(f"{row.source.uri}: clips are encoded, this row has none")
        with open_source(row.source.uri) as source, Video(source) as video:
            rate = as_rate(video.info.fps)
            seen: list[int] = []
            frames = video.iter_frames(clip.start_s, clip.end_s, fps=rate)
            mp4 = encode_clip(
                _counted(frames, seen),
                rate,
                crf=self.settings.crf,
                preset=self.settings.preset,
                gop_s=self.settings.gop_s,
            )
            width, height = video.info.width & ~1, video.info.height & ~1
        return EncodedClip(mp4=mp4, width=width, height=height, fps=float(rate), frames=len(seen))


def _counted(frames: Iterable[Frame], seen: list[int]) -> Iterator[Image]:
    for number, frame in enumerate(frames):
        seen.append(number)
        yield frame.rgb
