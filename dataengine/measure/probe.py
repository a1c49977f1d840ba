"""Probe: what a source is, and whether it can be used at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from dataengine import video
from dataengine.config import ProbeSettings
from dataengine.records import Probe, Record
from dataengine.stage import BadInput, Row, Stage
from dataengine.store import open_source


class ProbeStage(Stage[Probe]):
    """Reads the container and decodes the first frames.

    Raises `VideoError` for a file that is no usable video (its subclass and message say why) and `BadInput` for one
    that is smaller than the settings allow.
    """

    name: ClassVar[str] = "probe"
    version: ClassVar[int] = 1
    reads: ClassVar[tuple[type[Record], ...]] = ()
    writes: ClassVar[type[Record]] = Probe

    def __init__(self, settings: ProbeSettings) -> None:
        self.settings = settings

    def parameters(self) -> Mapping[str, Any]:
        return self.settings.parameters()

    def process(self, rows: Sequence[Row]) -> Sequence[Probe]:
        return [self._probe(row.source.uri) for row in rows]

    def _probe(self, uri: str) -> Probe:
        with open_source(uri) as source:
            info = video.probe(source)
        if min(info.width, info.height) < self.settings.min_side_px:
            raise BadInput(
                f"{uri}: the picture is {info.width} x {info.height} pixels, below {self.settings.min_side_px} on a "
                "side (stages.probe.min_side_px). Find the full-size version, or lower the setting."
            )
        if info.duration_s <= 0:
            raise BadInput(f"{uri}: the video has no duration. Copy or download it again, or re-encode it.")
        return Probe(
            width=info.width,
            height=info.height,
            rotation=info.rotation,
            duration_s=info.duration_s,
            fps=info.fps,
            frames=info.frame_count,
            codec=info.codec,
            pixel_format=info.pix_fmt,
            bit_depth=info.bit_depth,
        )
