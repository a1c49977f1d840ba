"""Cuts are found where they are, with and without black bars, and bars are told from dark scenes."""

import numpy as np
import pytest

from dataengine.config import ShotSettings
from dataengine.decide.clips import shot_boundaries
from dataengine.measure.shots import ShotsStage, content_box
from dataengine.records import Box, ShotScores
from dataengine.video import iter_frames


def scores(row, **settings) -> ShotScores:
    stage = ShotsStage(ShotSettings(**settings))
    stage.setup()
    (record,) = stage.process([row])
    return record


def test_all_hard_cuts_of_the_sample_to_the_frame(sample_video, probed) -> None:
    """PySceneDetect takes one keyframe, at which the codec redraws a field of stars, for a cut.

    TransNetV2 on the sample: `tests/pipelines/test_truth.py`.
    """
    truth = sample_video.truth
    found = scores(probed(sample_video.path), detector="adaptive")
    cuts = shot_boundaries(found, threshold=0.3)
    for cut in truth.hard_cuts_s:
        assert min(abs(cut - f) for f in cuts) <= 1.01 / truth.fps, f"cut at {cut:.2f} s"
    others = [f for f in cuts if min(abs(cut - f) for cut in truth.hard_cuts_s) > 1.01 / truth.fps]
    dissolves = [(d.start_s - 0.1, d.end_s + 0.1) for d in truth.dissolves]
    assert sum(not any(a <= f <= b for a, b in dissolves) for f in others) <= 1
    assert found.content == Box(0, 0, 640, 360)
    assert found.duration_s == pytest.approx(truth.duration_s, abs=1e-3)


@pytest.fixture(scope="module")
def boxed(sample_video, video_of):
    """Five seconds of the sample with two cuts, shown small inside a black frame with a codec's noise."""
    rng = np.random.default_rng(0)

    def frames():
        for frame in iter_frames(sample_video.path, 6.5, 13.5, size=(200, 160)):
            screen = rng.integers(0, 8, (180, 320, 3), dtype=np.uint8)
            screen[10:170, 60:260] = frame.rgb
            yield screen

    return video_of(list(frames()))


def test_scores_are_sparse_sorted_and_named(boxed, probed) -> None:
    low, high = (scores(probed(boxed), detector="adaptive", floor=f) for f in (0.02, 0.3))
    assert all(s.score >= 0.3 for s in high.scores)
    assert set(high.scores) == {s for s in low.scores if s.score >= 0.3}
    times = [s.time_s for s in low.scores]
    assert times == sorted(times)
    assert len(low.scores) < 0.5 * low.duration_s * 24
    assert low.detector == "pyscenedetect-adaptive"


def test_black_bars_are_cropped_and_cuts_found(boxed, probed, sample_video) -> None:
    found = scores(probed(boxed))
    np.testing.assert_allclose(found.content, Box(60, 10, 260, 170), atol=2)
    true = [cut - 6.5 for cut in sample_video.truth.hard_cuts_s if 6.5 < cut < 13.5]
    assert shot_boundaries(found, threshold=0.3) == pytest.approx(true, abs=0.05)
    assert scores(probed(boxed), crop_black_bars=False, detector="adaptive").content == Box(0, 0, 320, 180)


def test_variable_frame_rate_keeps_true_times(bad_video_folder, probed) -> None:
    (file,) = [f for f in bad_video_folder.files if "variable" in f.name]
    row = probed(bad_video_folder.folder / file.name)
    found = scores(row, floor=0.0, detector="adaptive")
    times = [f.time_s for f in iter_frames(row.source.uri)]
    assert [s.time_s for s in found.scores] == pytest.approx(times, abs=1e-5)


# --- Black bars -------------------------------------------------------------------------------------------------------


def picture(brightness: int, noise: int = 0, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 2 * brightness + 1, (90, 160, 3))
    return np.clip(image + rng.integers(0, noise + 1, image.shape), 0, 255).astype(np.uint8)


def with_bars(image: np.ndarray, x: int = 0, y: int = 0, noise: int = 6) -> np.ndarray:
    out = np.random.default_rng(9).integers(0, noise + 1, image.shape, dtype=np.uint8)
    out[y : 90 - y, x : 160 - x] = image[y : 90 - y, x : 160 - x]
    return out


def test_pillars_letters_and_both() -> None:
    image = picture(120)
    assert content_box([with_bars(image, x=20)] * 3) == Box(20, 0, 140, 90)
    assert content_box([with_bars(image, y=11)] * 3) == Box(0, 11, 160, 79)
    assert content_box([with_bars(image, 20, 11)] * 3) == Box(20, 11, 140, 79)
    assert content_box([image]) == Box(0, 0, 160, 90)


def test_one_bright_scene_shows_the_picture_of_all() -> None:
    """A man at the right of a night scene: only there is it light."""
    night = np.zeros((90, 160, 3), np.uint8)
    night[20:70, 100:120] = 90
    day = with_bars(picture(120), x=20)
    assert content_box([night, night, day, night]) == Box(20, 0, 140, 90)


def test_dark_throughout_means_no_crop() -> None:
    night = np.zeros((90, 160, 3), np.uint8)
    night[40:50, 70:80] = 255
    assert content_box([night] * 9) == Box(0, 0, 160, 90)
    assert content_box([np.zeros((90, 160, 3), np.uint8)] * 9) == Box(0, 0, 160, 90)


def test_a_speck_in_a_bar_is_no_picture() -> None:
    image = with_bars(picture(120), x=30)
    image[80, 10] = 255
    assert content_box([image] * 3) == Box(30, 0, 130, 90)
