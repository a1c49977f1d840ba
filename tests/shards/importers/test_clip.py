"""A clip that is one stays as it is; anything else is encoded, or refused with the reason."""

import numpy as np
import pytest

from dataengine.shards.importers import clip
from dataengine.shards.importers.clip import cut_clip, is_shard_clip, take_clip
from dataengine.shards.importers.contract import ImportRefused
from dataengine.video import decode_clip, encode_clip


def frames(count: int = 30, width: int = 96, height: int = 64) -> list[np.ndarray]:
    y, x = np.mgrid[:height, :width]
    return [np.stack([x + 4 * k, y, np.full_like(x, 90)], axis=2).astype(np.uint8) for k in range(count)]


def test_our_own_clips_are_kept_byte_for_byte() -> None:
    mp4 = encode_clip(frames(), 12, preset="ultrafast")
    taken = take_clip(mp4)
    assert taken.mp4 == mp4
    assert (taken.width, taken.height, taken.fps, taken.frames) == (96, 64, 12, 30)


@pytest.mark.parametrize("name", ["variable frame rate.mp4", "phone held upright.mov"])
def test_others_are_encoded_anew(name, bad_video_folder) -> None:
    data = (bad_video_folder.folder / name).read_bytes()
    assert not is_shard_clip(data)
    taken = take_clip(data)
    assert is_shard_clip(taken.mp4)
    decoded = decode_clip(taken.mp4)
    assert len(decoded) == taken.frames
    assert decoded[0].rgb.shape == (taken.height, taken.width, 3)


def test_keyframes_further_apart_than_a_second_are_none_of_ours() -> None:
    assert is_shard_clip(encode_clip(frames(), 12, preset="ultrafast", gop_s=1.0))
    assert not is_shard_clip(encode_clip(frames(), 12, preset="ultrafast", gop_s=2.0))


def test_a_span_and_a_crop(tmp_path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(encode_clip(frames(), 10, preset="ultrafast"))
    taken = cut_clip(path, 1.0, 2.0, crop=(16, 8, 63, 40))
    assert (taken.width, taken.height, taken.frames) == (46, 32, 10)
    first = decode_clip(taken.mp4)[0].rgb
    assert np.abs(first.astype(int) - frames()[10][8:40, 16:62].astype(int)).mean() < 6


@pytest.mark.parametrize(
    ("crop", "why"), [((0, 0, 97, 10), "not inside"), ((5, 5, 5, 9), "not inside"), ((-1, 0, 9, 9), "not inside")]
)
def test_a_crop_outside_the_picture_is_refused(crop, why, tmp_path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(encode_clip(frames(3), 10, preset="ultrafast"))
    with pytest.raises(ImportRefused, match=why):
        cut_clip(path, 0.0, None, crop=crop)


def test_damaged_and_long_videos_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    mp4 = encode_clip(frames(), 12, preset="ultrafast")
    for data in (b"", b"no video", mp4[: len(mp4) // 3]):
        with pytest.raises(ImportRefused, match="the clip"):
            take_clip(data)
    monkeypatch.setattr(clip, "MAX_CLIP_S", 2.0)
    with pytest.raises(ImportRefused, match="at most 2 s"):
        take_clip(mp4)
