"""The clip in the shard shows the same frames as the stills, at the same size."""

import numpy as np
import pytest

from dataengine.config import EncodeSettings
from dataengine.measure.encode import EncodeStage
from dataengine.measure.frames import pictures
from dataengine.records import Stills
from dataengine.stage import BadInput
from dataengine.video import decode_clip


def test_frames_rate_and_pixels(seen) -> None:
    row = seen["collins"].row
    assert row.clip is not None
    (clip,) = EncodeStage(EncodeSettings()).process([row])
    frames = decode_clip(clip.mp4)
    assert clip.fps == 24
    assert clip.frames == len(frames) == pytest.approx(row.clip.seconds * 24, abs=1)
    assert frames[0].rgb.shape == (clip.height, clip.width, 3) == (row[Stills].height, row[Stills].width, 3)
    for still, image in zip(row[Stills].stills, pictures(row[Stills]), strict=True):
        shown = frames[round((still.time_s - row.clip.start_s) * 24)].rgb
        assert np.abs(shown.astype(int) - image).mean() < 6


def test_settings_reach_the_encoder_and_bytes_repeat(video_of, row_of) -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (96, 128, 3), dtype=np.uint8)
    row = row_of(video_of([np.roll(noise, k, axis=1) for k in range(24)]), 0.25, 0.75)
    fine, coarse = (EncodeStage(EncodeSettings(crf=crf)) for crf in (10, 40))
    (a,), (b,), (c,) = fine.process([row]), fine.process([row]), coarse.process([row])
    assert a == b
    assert len(c.mp4) < len(a.mp4) / 2
    assert a.frames == 12


def test_odd_sizes_and_sources_without_a_clip(bad_video_folder, row_of) -> None:
    (file,) = [f for f in bad_video_folder.files if "odd" in f.name]
    (clip,) = EncodeStage(EncodeSettings()).process([row_of(bad_video_folder.folder / file.name, 0.0, 0.5)])
    assert clip.width % 2 == 0 and clip.height % 2 == 0
    assert decode_clip(clip.mp4)[0].rgb.shape == (clip.height, clip.width, 3)
    with pytest.raises(BadInput, match="clips"):
        EncodeStage(EncodeSettings()).process([row_of(bad_video_folder.folder / file.name)])
