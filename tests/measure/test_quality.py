"""Quality figures follow what was done to the pictures: blur, speed, bars, lettering, copies."""

from collections.abc import Callable

import cv2
import imagehash
import matplotlib
import numpy as np
import pytest
import skimage.data
from PIL import Image, ImageDraw, ImageFont

from dataengine.config import AestheticSettings, FramesSettings, NsfwSettings, QualitySettings
from dataengine.decide.duplicates import apart
from dataengine.measure.frames import FramesStage
from dataengine.measure.quality import QualityStage, clipped, lettering, motion, perceptual_hash, sharpness
from dataengine.records import Quality
from dataengine.stage import BadInput
from dataengine.video import frames_at
from tiny.clip import WIDTH, save_encoder, save_head
from tiny.vit import save_classifier

FPS = 24
DEFAULTS = QualitySettings()
FONTS = matplotlib.get_data_path() + "/fonts/ttf/"


@pytest.fixture(scope="session")
def quality_of(row_of) -> Callable[..., Quality]:
    def measure(path, start_s=0.0, end_s=1.0, settings=DEFAULTS) -> Quality:
        row = row_of(path, start_s, end_s)
        row = row.with_record(FramesStage(FramesSettings()).process([row])[0])
        stage = QualityStage(settings)
        stage.setup()
        return stage.process([row])[0]

    return measure


def view(image: np.ndarray, x: float, y: float, width: int = 320, height: int = 180) -> np.ndarray:
    """What a camera at (x, y) sees of a picture, between its pixels too."""
    return cv2.warpAffine(image, np.float64([[1, 0, -x], [0, 1, -y]]), (width, height), flags=cv2.INTER_LINEAR)


def pan(image: np.ndarray, heights_a_second: float, count: int = FPS) -> list[np.ndarray]:
    return [view(image, 10 + i * 180 * heights_a_second / FPS, 60) for i in range(count)]


# --- Motion -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("speed", [0.0, 0.05, 0.3, 0.9])
def test_a_panning_camera_moves_the_picture_at_its_speed(speed, video_of, quality_of) -> None:
    found = quality_of(video_of(pan(skimage.data.coffee(), speed), FPS))
    assert found.motion == pytest.approx(speed, rel=0.1, abs=0.01)
    assert found.camera_motion == pytest.approx(speed, rel=0.1, abs=0.01)


def test_speed_does_not_depend_on_size_or_rate(video_of, quality_of) -> None:
    frames = pan(skimage.data.coffee(), 0.3)
    large = [cv2.resize(frame, None, fx=2.5, fy=2.5) for frame in frames]
    slow = quality_of(video_of(frames[::4], FPS / 4)).motion
    assert quality_of(video_of(large, FPS)).motion == pytest.approx(0.3, rel=0.1)
    assert slow == pytest.approx(0.3, rel=0.1)


def test_what_moves_before_a_camera_that_stands_is_not_the_cameras() -> None:
    """The larger part of the picture slides, the rest, full of corners, stands still."""
    scene, thing = skimage.data.coffee()[:180, :320], cv2.GaussianBlur(skimage.data.grass(), (0, 0), 1)
    frames = []
    for i in range(2):
        frame = scene.copy()
        frame[:, 120:] = np.dstack([thing[100:280, 50 + 4 * i : 250 + 4 * i]] * 3) // 8 + 100
        frames.append(frame)
    moved, by_camera = motion(*frames, seconds=0.1)
    assert moved == pytest.approx(4 / 180 / 0.1, rel=0.15)
    assert by_camera < 0.02 or by_camera == pytest.approx(moved, rel=0.15)
    moved, by_camera = motion(frames[0], frames[0], seconds=0.1)
    assert moved == pytest.approx(0, abs=0.01) and by_camera == pytest.approx(0, abs=0.01)


# --- Light and sharpness ----------------------------------------------------------------------------------------------


def test_blur_lowers_sharpness_and_size_does_not_change_it() -> None:
    smooth = cv2.GaussianBlur(skimage.data.astronaut(), (0, 0), 1.0)
    values = [sharpness(cv2.GaussianBlur(skimage.data.astronaut(), (0, 0), sigma)) for sigma in (0.5, 1, 2, 4, 8)]
    assert values == sorted(values, reverse=True) and values[0] > 20 * values[-1]
    assert sharpness(cv2.resize(smooth, None, fx=2, fy=2)) == pytest.approx(sharpness(smooth), rel=0.35)


def test_clipped_counts_what_is_black_or_white_altogether() -> None:
    image = np.full((100, 100, 3), 128, np.uint8)
    image[:20] = 255
    image[90:] = 0
    image[20:40] = (255, 0, 0)  # a pure red is neither
    assert clipped(image) == pytest.approx(0.3)


@pytest.mark.parametrize("light", [0.2, 1.0])
def test_brightness_is_the_mean_luma(light, video_of, quality_of) -> None:
    picture = (skimage.data.coffee()[:180, :320] * light).astype(np.uint8)
    expected = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).mean() / 255
    assert quality_of(video_of([picture] * FPS, FPS)).brightness == pytest.approx([expected] * 3, abs=0.01)


# --- Bars and hashes --------------------------------------------------------------------------------------------------


def test_bars_change_nothing_but_the_content(video_of, quality_of) -> None:
    frames = pan(skimage.data.coffee(), 0.3)
    letterbox = [cv2.copyMakeBorder(frame, 40, 40, 0, 0, cv2.BORDER_CONSTANT) for frame in frames]
    plain, barred = quality_of(video_of(frames, FPS)), quality_of(video_of(letterbox, FPS))
    assert plain.content == (0, 0, 320, 180)
    assert barred.content == pytest.approx((0, 40, 320, 220), abs=2)
    assert apart(plain.hashes, barred.hashes) <= 6
    assert barred.motion == pytest.approx(plain.motion, rel=0.1)
    assert barred.sharpness == pytest.approx(plain.sharpness, rel=0.35)  # enlarged by another factor
    assert barred.clipped == pytest.approx(plain.clipped, abs=0.02)


def test_copies_are_near_and_other_clips_far(video_of, quality_of) -> None:
    frames = pan(skimage.data.coffee(), 0.3)
    copy = [cv2.convertScaleAbs(cv2.resize(frame, (480, 270)), alpha=1.05, beta=4) for frame in frames]
    mine, twin = quality_of(video_of(frames, FPS)), quality_of(video_of(copy, FPS))
    other = quality_of(video_of(pan(skimage.data.chelsea(), 0.3), FPS))
    assert apart(mine.hashes, twin.hashes) <= 6
    assert apart(mine.hashes, other.hashes) > 16


def test_hashes_are_imagehashs() -> None:
    portrait = skimage.data.astronaut()
    assert perceptual_hash(portrait) == str(imagehash.phash(Image.fromarray(portrait)))
    assert len(perceptual_hash(portrait)) == 16


# --- Lettering --------------------------------------------------------------------------------------------------------

LINE = "and that is what she said to us"


def subtitle(frame: np.ndarray, style: str) -> np.ndarray:
    """A line of 26 px at 360 lines, as films, television and phones write it."""
    image = Image.fromarray(frame)
    draw, middle, base = ImageDraw.Draw(image), frame.shape[1] // 2, frame.shape[0] - 50
    font = ImageFont.truetype(FONTS + ("DejaVuSerif.ttf" if style == "serif" else "DejaVuSans-Bold.ttf"), 22)
    if style == "box":
        draw.rectangle([60, base - 4, frame.shape[1] - 60, base + 30], fill=(0, 0, 0))
    colour = (255, 230, 0) if style == "yellow" else (255, 255, 255)
    stroke = 0 if style in ("box", "plain") else 2
    draw.text((middle, base), LINE, font=font, fill=colour, stroke_width=stroke, stroke_fill=(0, 0, 0), anchor="ma")
    return np.asarray(image)


def logo(frame: np.ndarray) -> np.ndarray:
    """A channel's sign in the corner, three quarters opaque."""
    over = frame.copy()
    cv2.circle(over, (frame.shape[1] - 100, 34), 11, (255, 255, 255), 3, cv2.LINE_AA)
    cv2.putText(over, "NEWS", (frame.shape[1] - 85, 43), cv2.FONT_HERSHEY_DUPLEX, 0.8, (255,) * 3, 2, cv2.LINE_AA)
    return cv2.addWeighted(over, 0.75, frame, 0.25, 0)


@pytest.fixture(scope="module")
def moments(sample_video) -> list[list[np.ndarray]]:
    """Four moments of each of the sample's shots, over which a camera pans and zooms."""
    found = []
    for shot in sample_video.truth.shots:
        start, end = shot.start_s + 0.4, shot.end_s - 0.4
        times = [start + (i + 0.5) / 4 * (end - start) for i in range(4)]
        found.append([np.ascontiguousarray(frame.rgb) for frame in frames_at(sample_video.path, times)])
    return found


def test_subtitles_and_logos_are_found_and_clean_clips_are_clean(moments) -> None:
    clean = [lettering(frames) for frames in moments]
    styles = ("outlined", "plain", "yellow", "serif", "box")
    written = {style: [lettering([subtitle(f, style) for f in frames]) for frames in moments] for style in styles}
    signs = [lettering([logo(f) for f in frames]) for frames in moments]
    recall = {style: np.mean(np.array(values) > 0.006) for style, values in {**written, "logo": signs}.items()}
    false = sum(share > 0.006 for share in clean)
    print(f"\nlettering: recall {recall}, false in {false} of {len(clean)} clean clips, at most {max(clean):.4f}")
    assert np.mean([recall[style] for style in styles]) > 0.85
    assert recall["logo"] > 0.6
    assert false <= 0.2 * len(clean)
    # The area is about that of the line: 22 px of 360 high, half to three quarters as wide as the frame.
    assert 0.01 < np.median(written["outlined"]) < 0.06


def test_a_subtitle_for_three_of_four_moments_counts_as_well(moments) -> None:
    frames = moments[0]
    some = [subtitle(f, "outlined") if i else f for i, f in enumerate(frames)]
    assert lettering(some) > 0.01 > lettering([some[0], some[1], *frames[2:]])


def test_in_a_scene_that_stands_only_long_lines_count() -> None:
    rng = np.random.default_rng(0)
    for picture in (skimage.data.coffee(), skimage.data.astronaut(), skimage.data.rocket(), skimage.data.chelsea()):
        still = cv2.resize(picture, (640, 420))[:360]
        frames = [np.clip(still + rng.normal(0, 2, still.shape), 0, 255).astype(np.uint8) for _ in range(4)]
        assert lettering(frames) < 0.006
    plain = cv2.GaussianBlur(still, (0, 0), 12)
    assert lettering([subtitle(plain, "outlined")] * 4) > 0.01


# --- The stage --------------------------------------------------------------------------------------------------------


def test_same_record_again_and_one_value_a_still(sample_video, quality_of) -> None:
    first = quality_of(sample_video.path, 2.6, 5.4)
    assert first == quality_of(sample_video.path, 2.6, 5.4)
    plural = (first.sharpness, first.brightness, first.clipped, first.hashes)
    assert [len(values) for values in plural] == [3, 3, 3, 3]
    assert first.aesthetic is None


def test_a_clip_of_a_single_frame_does_not_move(video_of, quality_of) -> None:
    found = quality_of(video_of([skimage.data.coffee()[:180, :320]] * 2, 1), 0.0, 0.5)
    assert found.motion == pytest.approx(0, abs=0.001) and found.camera_motion == 0


def test_what_is_not_safe_is_scored_where_weights_are_given(tmp_path, sample_video, quality_of) -> None:
    settings = QualitySettings(nsfw=NsfwSettings(weights=str(save_classifier(tmp_path / "vit")), device="cpu"))
    scored = quality_of(sample_video.path, 2.6, 5.4, settings)
    assert scored.nsfw is not None and len(scored.nsfw) == 3 and all(0 < score < 1 for score in scored.nsfw)
    assert scored.model_copy(update={"nsfw": None}) == quality_of(sample_video.path, 2.6, 5.4)
    stage = QualityStage(settings)
    assert stage.model == "nsfw-classifier" and "vit#" in stage.revision
    assert set(stage.parameters()) == {"frames", "nsfw"}


def test_aesthetics_are_scored_where_weights_are_given(tmp_path, sample_video, quality_of) -> None:
    head = save_head(tmp_path / "head.pth", WIDTH, 4, 1)
    folder = save_encoder(tmp_path / "clip")
    settings = QualitySettings(aesthetic=AestheticSettings(weights=str(folder), head=str(head), device="cpu"))
    scored = quality_of(sample_video.path, 2.6, 5.4, settings)
    assert scored.aesthetic is not None
    assert scored.model_copy(update={"aesthetic": None}) == quality_of(sample_video.path, 2.6, 5.4)
    stage = QualityStage(settings)
    assert stage.model == "clip-aesthetic" and "clip#" in stage.revision
    assert stage.parameters() == {"frames": 8, "aesthetic": {"dtype": "auto", "head": str(head)}}


def test_a_source_has_no_quality(sample_video, row_of, seen) -> None:
    row = row_of(sample_video.path).with_record(next(iter(seen.values())).row.records[FramesStage.writes])
    with pytest.raises(BadInput, match="clips"):
        QualityStage(QualitySettings()).process([row])
