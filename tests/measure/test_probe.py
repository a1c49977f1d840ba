"""Every file is described right or refused with a reason a person understands."""

import numpy as np
import pytest

from dataengine.config import ProbeSettings
from dataengine.measure.probe import ProbeStage
from dataengine.records import Probe
from dataengine.stage import BadInput
from dataengine.video import VideoError


def test_describes_the_sample(sample_video, probed) -> None:
    found = probed(sample_video.path)[Probe]
    truth = sample_video.truth
    assert (found.width, found.height, found.rotation, found.bit_depth) == (truth.width, truth.height, 0, 8)
    assert found.fps == pytest.approx(truth.fps)
    assert found.duration_s == pytest.approx(truth.duration_s, abs=1e-3)
    assert found.frames == round(truth.duration_s * truth.fps)
    assert (found.codec, found.pixel_format) == ("h264", "yuv420p")


def test_real_life_files_are_accepted_or_refused_as_expected(bad_video_folder, row_of) -> None:
    stage = ProbeStage(ProbeSettings(min_side_px=16))
    for file in bad_video_folder.expected("processed"):
        (record,) = stage.process([row_of(bad_video_folder.folder / file.name)])
        assert record.duration_s > 0 and record.frames > 1, file.name
    refused = bad_video_folder.expected("quarantined")
    assert len(refused) >= 6
    for file in refused:
        with pytest.raises((VideoError, BadInput)) as error:
            stage.process([row_of(bad_video_folder.folder / file.name)])
        assert file.reason in str(error.value), file.name


def test_too_small_a_picture_is_refused_with_both_sizes(video_of, row_of) -> None:
    row = row_of(video_of([np.full((48, 96, 3), 90, np.uint8)] * 3))
    with pytest.raises(BadInput, match=r"96 x 48 pixels, below 64 .*min_side_px"):
        ProbeStage(ProbeSettings()).process([row])
    assert ProbeStage(ProbeSettings(min_side_px=48)).process([row])[0].height == 48


def test_one_frame_is_refused(video_of, row_of) -> None:
    with pytest.raises(VideoError, match="single frame"):
        ProbeStage(ProbeSettings()).process([row_of(video_of([np.full((96, 96, 3), 90, np.uint8)]))])
