"""The right frames, to the pixel."""

import io

import numpy as np
import pytest
from PIL import Image

from dataengine.config import FramesSettings
from dataengine.measure.frames import FramesStage, pictures
from dataengine.records import STILL_POSITIONS, Probe, Still, Stills
from dataengine.stage import BadInput


def grey_steps(count: int, height: int = 90, width: int = 160) -> list[np.ndarray]:
    return [np.full((height, width, 3), 20 + 4 * k, np.uint8) for k in range(count)]


@pytest.mark.parametrize(("start", "end"), [(0.0, 2.0), (0.5, 1.5), (0.25, 1.96)])
def test_stills_are_the_frames_on_screen_at_their_times(start, end, video_of, row_of) -> None:
    """Frame k of a 24 fps video is grey 20 + 4k."""
    (stills,) = FramesStage(FramesSettings()).process([row_of(video_of(grey_steps(48)), start, end)])
    wanted = [int((start + p * (end - start)) * 24 + 1e-6) for p in STILL_POSITIONS]
    shown = [round((image.mean() - 20) / 4) for image in pictures(stills)]
    assert shown == wanted
    assert [s.time_s for s in stills.stills] == pytest.approx([max(start, k / 24) for k in wanted], abs=1e-6)


def test_full_colour_resolution_and_quality(video_of, row_of) -> None:
    (stills,) = FramesStage(FramesSettings(jpeg_quality=95)).process([row_of(video_of(grey_steps(24)), 0.0, 1.0)])
    image = Image.open(io.BytesIO(stills.stills[0].image))
    assert image.format == "JPEG"
    assert [component[1:3] for component in image.layer] == [(1, 1)] * 3  # 4:4:4: no channel is subsampled
    assert image.quantization[0][0] == 2  # libjpeg's table at quality 95


def test_odd_sizes_lose_the_last_row_and_column(bad_video_folder, row_of, probed) -> None:
    (file,) = [f for f in bad_video_folder.files if "odd" in f.name]
    row = row_of(bad_video_folder.folder / file.name, 0.0, 0.5)

    size = probed(bad_video_folder.folder / file.name)[Probe]
    assert size.width % 2 == 1 or size.height % 2 == 1
    (stills,) = FramesStage(FramesSettings()).process([row])
    assert (stills.width, stills.height) == (size.width & ~1, size.height & ~1)
    assert all(image.shape == (stills.height, stills.width, 3) for image in pictures(stills))


def test_needs_a_clip(sample_video, row_of) -> None:
    with pytest.raises(BadInput, match="clips"):
        FramesStage(FramesSettings()).process([row_of(sample_video.path)])


def test_a_still_that_is_no_picture_is_named() -> None:
    for damaged in (b"", b"not a jpeg"):
        with pytest.raises(BadInput, match=r"still 0 at 1\.500 s"):
            pictures(Stills(width=2, height=2, stills=(Still(time_s=1.5, image=damaged),)))
