"""What stood behind people who move is shown; where nobody has seen it, nothing of the people is left."""

import io
from dataclasses import dataclass

import cv2
import numpy as np
import pytest
import skimage.data
from PIL import Image

from dataengine import masks
from dataengine.config import BackgroundSettings, FramesSettings
from dataengine.measure.background import BackgroundStage, Plate, agreed, all_of, camera_motion
from dataengine.measure.frames import FramesStage, pictures
from dataengine.models.centerface import CenterFace
from dataengine.models.colour_names import TERMS, term_of
from dataengine.models.face_regions import BODY
from dataengine.records import (
    Background,
    Box,
    Caption,
    EntityMask,
    Mention,
    People,
    Person,
    PersonMention,
    Phrase,
    Segmentation,
    Sighting,
    Span,
    Stills,
    Vote,
)
from dataengine.stage import Row
from tiny import flux, lama

HEIGHT, WIDTH = 180, 320
GREEN = (20, 230, 40)


def image_of(record: Background) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(record.image)).convert("RGB"))


@dataclass(frozen=True)
class Drawn:
    """A clip of a green figure before a photograph, all its records but the background, and the true backgrounds."""

    row: Row
    scenes: list[np.ndarray]
    figures: list[np.ndarray]


@pytest.fixture(scope="module")
def drawn(video_of, row_of):
    """`drawn(walk, pan)`: the figure walks and the camera pans by so many pixels in two seconds."""
    photo = skimage.data.chelsea()  # 300 x 451
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5

    def make(walk: float, pan: float) -> Drawn:
        scenes, frames, figures, faces = [], [], [], []
        for k in range(48):
            share = k / 47
            shift = np.float32([[1, 0, -60 - pan * share], [0, 1, -60]])
            scene = cv2.warpAffine(photo, shift, (WIDTH, HEIGHT), borderMode=cv2.BORDER_REFLECT)
            middle = 110 + walk * share
            face = Box(middle - 11, 60, middle + 11, 90)
            head = ((x - middle) / 12) ** 2 + ((y - 75) / 17) ** 2 < 1
            figure = head | ((np.abs(x - middle) < 26) & (y > 92))
            scenes.append(scene)
            figures.append(figure)
            frames.append(np.where(figure[..., None], GREEN, scene).astype(np.uint8))
            faces.append(face)
        row = row_of(video_of(frames), 0.0, 2.0)
        row = row.with_record(FramesStage(FramesSettings()).process([row])[0])
        at = [round(s.time_s * 24) for s in row[Stills].stills]
        sightings = tuple(
            Sighting(
                still=i,
                face=faces[k],
                face_score=0.9,
                landmarks=(),
                body=BODY.box(faces[k], (), WIDTH, HEIGHT),
                body_score=None,
                sharpness=1,
            )
            for i, k in enumerate(at)
        )
        noun = Mention(phrase=Phrase(text="person", span=Span(2, 8)), votes=(Vote(person=0, share=1),))
        found = [(i, masks.encode(figures[k])) for i, k in enumerate(at)]
        for record in (
            People(people=(Person(index=0, sightings=sightings),)),
            Caption(
                text="A person.",
                people=(PersonMention(noun=noun, attributes=()),),
                objects=(),
                background=None,
                answers=(),
            ),
            Segmentation(
                masks=tuple(
                    EntityMask(entity="s0.body", still=i, box=masks.tight_box(m), mask=m, score=1) for i, m in found
                )
            ),
        ):
            row = row.with_record(record)
        return Drawn(row, scenes, figures)

    return make


def background(row: Row, **settings) -> Background:
    stage = BackgroundStage(BackgroundSettings(**settings))
    stage.setup()
    return stage.process([row])[0]


@pytest.mark.parametrize(("walk", "pan"), [(160, 0), (160, 40), (150, -30)])
def test_what_a_walking_figure_uncovers_is_shown_as_it_was(walk, pan, drawn) -> None:
    clip = drawn(walk, pan)
    record = background(clip.row)
    image, middle = image_of(record), round(clip.row[Stills].stills[1].time_s * 24)
    truth, figure = clip.scenes[middle], clip.figures[middle]
    assert record.seen_share > 0.9
    assert record.filled_share < 0.1
    error = np.abs(image.astype(int) - truth).max(axis=2)
    assert np.median(error[figure]) < 10
    assert np.median(error[~figure]) < 6


def test_without_alignment_a_panning_camera_would_smear(drawn, monkeypatch) -> None:
    clip = drawn(160, 40)
    monkeypatch.setattr("dataengine.measure.background.camera_motion", lambda *_: np.eye(3))
    assert background(clip.row).seen_share < 0.5


@pytest.mark.parametrize(("walk", "pan"), [(0, 0), (10, 0), (160, 40)])
def test_nothing_of_the_figure_is_left(walk, pan, drawn) -> None:
    record = background(drawn(walk, pan).row)
    image = image_of(record).astype(int)
    green = (image[..., 1] > image[..., 0] + 60) & (image[..., 1] > image[..., 2] + 60)
    assert green.sum() == 0


@pytest.mark.parametrize("name", ["lama", "flux_fill"])
def test_networks_get_only_what_no_frame_shows(name, drawn, tmp_path) -> None:
    row = drawn(40, 0).row
    weights = lama.build(tmp_path / "lama.onnx") if name == "lama" else flux.build(tmp_path / "flux")
    chosen = {"weights": str(weights), "device": "cpu"} | ({"steps": 1} if name == "flux_fill" else {})
    by_network = background(row, inpainter=name, **{name: chosen})
    by_rules = background(row, inpainter="cv2")
    assert 0.2 < by_network.seen_share < 0.8
    assert (by_network.seen_share, by_network.filled_share) == (by_rules.seen_share, by_rules.filled_share)
    differs = float((image_of(by_network) != image_of(by_rules)).any(axis=2).mean())
    assert differs == pytest.approx(by_rules.filled_share, rel=0.1), "and nothing else"


def test_a_figure_that_stands_still_is_all_invented(drawn) -> None:
    clip = drawn(0, 0)
    record = background(clip.row)
    assert record.seen_share == 0
    assert record.filled_share > clip.figures[0].mean()
    image, outside = image_of(record), cv2.dilate(clip.figures[0].astype(np.uint8), np.ones((75, 75))) == 0
    assert np.median(np.abs(image.astype(int) - clip.scenes[0]).max(axis=2)[outside]) < 6


def test_same_bytes_again(drawn) -> None:
    row = drawn(160, 40).row
    assert background(row) == background(row)


def test_nobody_to_remove(drawn) -> None:
    row = drawn(160, 0).row
    empty = row.with_record(People(people=())).with_record(Segmentation(masks=()))
    empty = empty.with_record(row[Caption].model_copy(update={"people": ()}))
    record = background(empty)
    assert (record.seen_share, record.filled_share) == (1, 0)
    assert np.abs(image_of(record).astype(int) - pictures(row[Stills])[1]).mean() < 3


def test_objects_are_removed_too(drawn) -> None:
    row = drawn(160, 0).row
    box = np.zeros((HEIGHT, WIDTH), bool)
    box[20:50, 20:60] = True
    mask = masks.encode(box)
    thing = [EntityMask(entity="o0", still=i, box=masks.tight_box(mask), mask=mask, score=1) for i in range(3)]
    record = background(row.with_record(Segmentation(masks=(*row[Segmentation].masks, *thing))))
    assert record.filled_share >= box.mean()


@pytest.mark.parametrize("name", ["collins", "hopper", "both"])
def test_no_face_and_no_clothes_in_the_samples_backgrounds(name, seen) -> None:
    row = seen[name].row
    image = image_of(row[Background])
    assert image.shape == (row[Stills].height, row[Stills].width, 3)
    detector = CenterFace(floor=0.3)
    detector.load()
    assert detector.detect([image]) == [[]]
    if name == "collins":
        suit = masks.decode(next(m for m in row[Segmentation].masks if m.entity == "s0.a1" and m.still == 1).mask)
        names = np.bincount(term_of(image[suit]), minlength=len(TERMS)) / suit.sum()
        assert names[TERMS.index("orange")] < 0.02


# --- Its parts --------------------------------------------------------------------------------------------------------


def test_camera_motion_is_found_beside_a_moving_figure() -> None:
    photo = skimage.data.coffee()[:360, :600]
    true = cv2.getRotationMatrix2D((300, 180), 2.0, 1.05)
    true[:, 2] += 12, -7
    moved = cv2.warpAffine(photo, true, (600, 360), borderMode=cv2.BORDER_REFLECT)
    holes = [np.zeros((360, 600), bool) for _ in range(2)]
    for image, hole, x in ((photo := photo.copy(), holes[0], 100), (moved, holes[1], 260)):
        hole[100:300, x : x + 120] = True
        image[hole] = np.random.default_rng(1).integers(0, 256, (int(hole.sum()), 3))
    found = camera_motion(photo, holes[0], moved, holes[1])
    corners = np.array([[0, 0, 1], [599, 0, 1], [0, 359, 1], [599, 359, 1], [300, 180, 1]]).T
    assert np.abs(found[:2] @ corners - true @ corners).max() < 2.0


def test_no_texture_no_motion() -> None:
    flat = np.full((180, 320, 3), 128, np.uint8)
    hole = np.zeros((180, 320), bool)
    assert np.array_equal(camera_motion(flat, hole, flat, hole), np.eye(3))


def test_a_frame_of_another_scene_is_left_out() -> None:
    still, other = skimage.data.coffee()[:180, :320], skimage.data.rocket()[:180, :320]
    hole = np.zeros((180, 320), bool)
    hole[50:100, 100:200] = True
    plate = Plate(still, hole)
    for _ in range(3):
        plate.add(other, np.zeros_like(hole), np.eye(3))
    assert np.array_equal(plate.result()[1], hole)
    for _ in range(2):
        plate.add(still, np.zeros_like(hole), np.eye(3))
    image, unseen = plate.result()
    assert not unseen.any() and np.array_equal(image, still)


def test_pixels_on_which_frames_disagree_are_not_trusted() -> None:
    colours = np.array([[10, 10, 10, 200], [12, 11, 250, 10], [11, 250, 90, 10]], np.uint8)[..., None].repeat(3, axis=2)
    shown = np.array([[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 1, 0]], bool)
    median, sure = agreed(colours, shown)
    assert median[:, 0].tolist()[:2] == [11, 11]
    assert sure.tolist() == [True, True, False, False]  # all agree, two of three, none, seen once


def test_a_sleeve_that_the_mask_missed_goes_with_its_colour() -> None:
    rng = np.random.default_rng(4)
    image = np.clip(rng.normal((110, 120, 130), 6, (200, 300, 3)), 0, 255).astype(np.uint8)
    face = Box(130, 30, 170, 84)
    sighting = Sighting(
        still=0,
        face=face,
        face_score=0.9,
        landmarks=(),
        body=BODY.box(face, (), 300, 200),
        body_score=None,
        sharpness=1,
    )
    sleeve = np.zeros((200, 300), bool)
    sleeve[150:190, 70:232] = True
    image[sleeve] = (230, 90, 30)
    cut = sleeve.copy()
    cut[:, :110] = False
    everything = all_of(image, sighting, cut)
    assert everything[sleeve].mean() > 0.98
    assert not everything[10:140, 62:85].any()
