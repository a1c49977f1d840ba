"""Our scores cut at 0.3 exactly where the library cuts, one frame earlier in numbering."""

import numpy as np
import pytest
from scenedetect import FrameTimecode
from scenedetect.detectors import AdaptiveDetector

from dataengine.models.scenedetect import THRESHOLD, Adaptive
from dataengine.video import iter_frames


@pytest.fixture(scope="module")
def frames(sample_video) -> list[np.ndarray]:
    return [f.rgb for f in iter_frames(sample_video.path, 1.0, 15.0, size=Adaptive.size)]


def library_cuts(frames) -> list[int]:
    detector = AdaptiveDetector(min_scene_len=0)
    return [
        cut.frame_num
        for number, frame in enumerate(frames)
        for cut in detector.process_frame(FrameTimecode(number, 24.0), frame[:, :, ::-1])
    ]


def test_threshold_means_what_the_library_means(frames) -> None:
    scores = np.array(list(Adaptive().scores(iter(frames))))
    cuts = library_cuts(frames)
    assert len(cuts) >= 5
    assert list(np.flatnonzero(scores >= THRESHOLD) + 1) == cuts


def test_also_where_cuts_are_doubtful() -> None:
    """Noise of changing strength puts ratio and content on either side of the library's two limits."""
    rng = np.random.default_rng(3)
    base = rng.integers(60, 190, (144, 256, 3))
    frames = []
    for _ in range(120):
        base = np.clip(base + rng.integers(-1, 2) * rng.integers(0, 60), 0, 255)
        frames.append(np.clip(base + rng.integers(0, 12, base.shape), 0, 255).astype(np.uint8))
    scores = np.array(list(Adaptive().scores(iter(frames))))
    cuts = library_cuts(frames)
    assert 0 < len(cuts) < 100
    assert list(np.flatnonzero(scores >= THRESHOLD) + 1) == cuts


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5, 9])
def test_one_score_a_frame(count: int, frames) -> None:
    scores = list(Adaptive().scores(iter(frames[:count])))
    assert len(scores) == count
    assert all(0 <= score <= 1 for score in scores)


def test_keeps_no_measurements_of_frames_gone_by(frames, monkeypatch) -> None:
    from dataengine.models import scenedetect

    made = []

    class Watched(scenedetect._Latest):
        def __init__(self) -> None:
            super().__init__()
            made.append(self)

    monkeypatch.setattr(scenedetect, "_Latest", Watched)
    for _ in Adaptive().scores(iter(frames[:60])):
        assert len(made[0].metrics) <= 6
