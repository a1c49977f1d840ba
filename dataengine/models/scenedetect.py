"""PySceneDetect's AdaptiveDetector: 25 to 50 times cheaper than a network, weaker on gradual transitions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from importlib import metadata
from typing import Any

from scenedetect import FrameTimecode
from scenedetect.detectors import AdaptiveDetector

from dataengine.models.interfaces import Image
from dataengine.weights import Needs

RATIO = 3.0
"""The library's default: a cut changes at least this many times as much as the frames around it."""
CONTENT = 15.0
"""The library's default: … and at least this much in itself (mean HSV difference, 0…255)."""
THRESHOLD = 0.3
"""The score at which the library would cut by these defaults; the same value as TransNetV2's usual threshold."""
_RATE = 25.0  # frame numbers are turned into the library's time codes and back; any rate does


class Adaptive:
    """Scores frames by the library's own measurements. Implements `ShotDetector`.

    A frame's score is 0.3 · min(ratio / 3, content / 15)³, at most 1: it reaches 0.3 exactly where the library, which
    asks for both, would cut; the power keeps ordinary frames, whose ratio is about 1, near 0. The library names the
    first frame of the new shot; the score is given to the frame before it, as by every `ShotDetector`.
    """

    name = "pyscenedetect-adaptive"
    needs = Needs()
    size = (256, 144)

    def __init__(self) -> None:
        self.revision = f"scenedetect {metadata.version('scenedetect')}"

    def load(self) -> None:
        """There are no weights."""

    def scores(self, frames: Iterable[Image]) -> Iterator[float]:
        """One score in 0…1 a frame. `frames`: RGB uint8 (144, 256, 3)."""
        detector = AdaptiveDetector(adaptive_threshold=RATIO, min_content_val=CONTENT, min_scene_len=0)
        latest = detector.stats_manager = _Latest()
        *_, ratio_key = detector.get_metrics()
        behind = detector.window_width  # a frame's ratio is known when that many frames after it are
        count = 0
        for count, frame in enumerate(frames, start=1):
            detector.process_frame(FrameTimecode(count - 1, _RATE), frame[:, :, ::-1])
            if count > behind + 1:
                yield _score(latest.metrics.pop(count - 1 - behind), ratio_key)
        # The first and last frames have no full window around them: no cut there, as in the library.
        yield from [0.0] * min(count, behind + 1)


class _Latest:
    """Stands for the library's `StatsManager`, which would keep every frame's measurements."""

    def __init__(self) -> None:
        self.metrics: dict[int, dict[str, float]] = {}

    def set_metrics(self, timecode: FrameTimecode, metrics: dict[str, Any]) -> None:
        self.metrics.setdefault(timecode.frame_num, {}).update(metrics)


def _score(metrics: dict[str, float], ratio_key: str) -> float:
    ratio, content = metrics.get(ratio_key, 0.0), metrics.get(AdaptiveDetector.FRAME_SCORE_KEY, 0.0)
    return min(1.0, THRESHOLD * min(ratio / RATIO, content / CONTENT) ** 3)
