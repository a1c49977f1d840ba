from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dataengine import video
from dataengine.audit.media import Kept, Media, main_still, still_frames
from dataengine.audit.scene import Scene, UnreadableSample
from dataengine.shards.index import Index
from dataengine.store import Store

TWO = 2
"""Position of the sample with two people."""


@pytest.fixture
def media(dataset: Store) -> Media:
    return Media(dataset, Index.read(dataset))


def spoil(media: Media, name: str) -> None:
    """Turns one byte in the middle of a member of the sample with two people."""
    row = media.index[TWO]
    at = row.member(name)
    shard = Path(media.out.path(f"shards/{row.shard}"))
    data = bytearray(shard.read_bytes())
    data[at.offset + at.size // 2] ^= 0x55
    shard.write_bytes(bytes(data))


def test_frames_are_those_of_the_clip(media: Media, scenes: list[Scene]) -> None:
    pair = scenes[0].pair
    wanted = video.frames_at(io.BytesIO(scenes[0].members["mp4"]), [number / pair.fps for number in range(pair.frames)])
    for number in (0, 1, pair.frames // 2, pair.frames - 1):
        with Image.open(io.BytesIO(media.frame(TWO, number))) as image:
            shown = np.asarray(image.convert("RGB")).astype(int)
        assert shown.shape == (pair.height, pair.width, 3)
        assert np.abs(shown - wanted[number].rgb).mean() < 3, "but for JPEG"


def test_a_frame_brings_those_behind_it_and_a_still_comes_alone(media: Media, scenes: list[Scene]) -> None:
    stills = still_frames(scenes[0].pair)
    between = next(number for number in range(scenes[0].pair.frames) if number not in stills)
    media.frame(TWO, between)
    assert ("frame", TWO, between + 1) in media.kept
    media.frame(TWO, stills[2])
    spoil(media, "mp4")
    assert media.frame(TWO, between + 1)
    with pytest.raises(UnreadableSample, match="no frame 99"):
        media.frame(TWO, 99)


def test_masks_are_opaque_where_the_entity_is(media: Media, scenes: list[Scene]) -> None:
    pair = scenes[0].pair
    for reference in pair.references:
        if reference.mask_member is None:
            continue
        data = media.overlay(TWO, pair, reference)
        alpha = np.asarray(Image.open(io.BytesIO(data)).convert("RGBA"))[..., 3]
        assert (alpha > 127).tolist() == scenes[0].masks[reference.entity].tolist()
        assert len(data) < 20_000


def test_references_come_as_they_are_stored(media: Media, scenes: list[Scene]) -> None:
    for reference in scenes[0].pair.references:
        assert media.reference(TWO, reference) == scenes[0].members[reference.member]


def test_a_small_picture_has_what_was_cut_drawn_in(media: Media, scenes: list[Scene]) -> None:
    with Image.open(
        io.BytesIO(media.thumb(TWO, scenes[0].pair, {r.entity: r for r in scenes[0].pair.references}))
    ) as image:
        thumb = np.asarray(image.convert("RGB")).astype(int)
    pair = scenes[0].pair
    assert thumb.shape[1] == 400
    still = scenes[0].stills[main_still(pair)]
    plain = np.asarray(Image.fromarray(still).resize(thumb.shape[1::-1])).astype(int)
    mask = np.asarray(Image.fromarray(scenes[0].masks["s0.a0"]).resize(thumb.shape[1::-1]))
    assert np.abs(thumb - plain)[mask].mean() > 3 * np.abs(thumb - plain)[:40, -40:].mean()


def test_the_stills_are_the_frames_that_references_come_from(scenes: list[Scene]) -> None:
    for scene in scenes:
        times = [frame / scene.pair.fps for frame in still_frames(scene.pair)]
        frames = video.frames_at(io.BytesIO(scene.members["mp4"]), times)
        for frame, still in zip(frames, scene.stills, strict=True):
            assert (frame.rgb == still).all()


@pytest.mark.parametrize("name", ["mp4", "json", "s0.face.png", "s0.a0.mask.png"])
def test_a_damaged_member_is_refused_by_name_and_the_others_work(media: Media, name: str, scenes: list[Scene]) -> None:
    spoil(media, name)
    pair = scenes[0].pair
    by_name = {
        "mp4": lambda: media.frame(TWO, 0),
        "json": lambda: media.pair(TWO),
        "s0.face.png": lambda: media.reference(TWO, pair.subjects[0].face),
        "s0.a0.mask.png": lambda: media.mask(TWO, pair, pair.subjects[0].attributes[0]),
    }
    with pytest.raises(UnreadableSample, match=rf"{name}: its bytes in .* are not those that were indexed"):
        by_name[name]()
    assert media.reference(TWO, pair.subjects[1].face)
    assert media.frame(0, 0)


def test_a_shard_that_is_cut_short_or_gone(media: Media) -> None:
    row = media.index[TWO]
    shard = Path(media.out.path(f"shards/{row.shard}"))
    shard.write_bytes(shard.read_bytes()[:2000])
    with pytest.raises(UnreadableSample, match="ends before it"):
        media.pair(TWO)
    shard.unlink()
    with pytest.raises(UnreadableSample):
        media.pair(TWO)
    assert media.pair(0).key == "one_person"


def test_ranges_of_the_clip(media: Media, scenes: list[Scene]) -> None:
    mp4 = scenes[0].members["mp4"]
    assert media.clip_size(TWO) == len(mp4)
    assert media.clip_range(TWO, 10, 50) == mp4[10:50]
    assert hashlib.sha256(media.clip_range(TWO, 0, len(mp4))).digest() == hashlib.sha256(mp4).digest()


def test_what_is_kept_is_bounded_and_the_latest_used_stays() -> None:
    kept = Kept(100)
    made = []
    for name in "abcdefgh":
        kept.get(name, lambda name=name: made.append(name) or bytes(30))
        kept.get("a", lambda: made.append("a again") or bytes(30))
    assert kept.size <= 100
    assert "a" in kept
    assert "b" not in kept
    assert made.count("a") + made.count("a again") == 1
    kept.put("large", bytes(1000))
    assert kept.size == 0
