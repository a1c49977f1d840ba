"""Each attribute is looked for in its owner, wherever its owner is seen."""

from dataclasses import replace

import numpy as np
import pytest

from dataengine.config import GroundingDinoSettings, GroundSettings
from dataengine.measure.ground import GroundStage
from dataengine.models.face_regions import FaceRegions
from dataengine.models.grounding_dino import crop_around
from dataengine.models.interfaces import Region
from dataengine.records import Box, Caption, GivenBox, Grounding, Mention, People, Phrase, Span, Stills, Vote


def test_one_box_for_each_attribute_in_each_still_inside_its_owner(seen) -> None:
    row = seen["both"].row
    expected = set()
    people = {p.index: p for p in row[People].people}
    boxes = {(b.entity, b.still): b for b in row[Grounding].boxes}
    for i, subject in enumerate(row[Caption].people):
        for j, attribute in enumerate(subject.attributes):
            assert attribute.owner is not None
            for sighting in people[attribute.owner.person].sightings:
                key = f"s{i}.a{j}", sighting.still
                expected.add(key)
                box = boxes[key].box
                assert box.area > 0
                assert box.intersection(sighting.body).area > 0.999 * box.area
                middle = (box.y0 + box.y1) / 2
                assert (middle > sighting.face.y1) == attribute.phrase.text.endswith("top")
    assert set(boxes) == expected


def test_asks_objects_of_whole_stills_and_skips_attributes_without_an_owner(seen, monkeypatch) -> None:
    row = seen["both"].row
    caption = row[Caption]
    first, second = caption.people
    loose = Mention(phrase=first.attributes[0].phrase, votes=())
    changed = caption.model_copy(
        update={
            "people": (first.model_copy(update={"attributes": (loose,)}), second),
            "objects": (Phrase(text="A", span=Span(0, 1)),),
        }
    )
    asked = []

    def record(self, queries):
        asked.extend(queries)
        return [[] for _ in queries]

    monkeypatch.setattr(FaceRegions, "ground", record)
    (found,) = GroundStage(GroundSettings()).process([row.with_record(changed)])
    assert found == Grounding(boxes=())
    assert [(q.phrase, q.owner is None) for q in asked if q.phrase == "A"] == [("A", True)] * 3
    parts = [q for q in asked if q.phrase != "A"]
    assert len(parts) == 3 * len(second.attributes)
    assert all(q.owner in row[People].people[1].sightings for q in parts)
    assert all(q.image.shape == (row[Stills].height, row[Stills].width, 3) for q in asked)


def test_a_disputed_attribute_is_looked_for_in_all_who_may_have_it(seen, monkeypatch) -> None:
    """The best box of them all comes first, and one that two of them have comes once."""
    row = seen["both"].row
    caption = row[Caption]
    first, second = caption.people
    one, other = (person.noun.owner.person for person in caption.people)

    def asked_with(*votes: tuple[int, float]) -> list[int]:
        cast = tuple(Vote(person=person, share=share) for person, share in votes)
        worn = first.attributes[0].model_copy(update={"votes": cast})
        people = (first.model_copy(update={"attributes": (worn,)}), second.model_copy(update={"attributes": ()}))
        asked: list[int] = []

        def ground(self, queries):
            everybody = {id(s): person.index for person in row[People].people for s in person.sightings}
            asked.extend(everybody[id(query.owner)] for query in queries)
            edge = Region(Box(0, 0, 5, 5), 0.4)
            return [[Region(Box(0, 0, 9, 9), 0.3 + 0.3 * everybody[id(q.owner)]), edge] for q in queries]

        monkeypatch.setattr(FaceRegions, "ground", ground)
        (found,) = GroundStage(GroundSettings()).process(
            [row.with_record(caption.model_copy(update={"people": people, "objects": ()}))]
        )
        for still in {box.still for box in found.boxes}:
            scores = [box.score for box in found.boxes if box.still == still]
            assert scores == sorted(scores, reverse=True)
            assert scores.count(0.4) == 1
        return sorted(set(asked))

    assert asked_with((one, 1.0)) == [one]
    assert asked_with((other, 1.0)) == sorted((one, other)), "the caption lists it under the first"
    assert asked_with((one, 0.5), (other, 0.5)) == sorted((one, other))


@pytest.fixture(scope="module")
def dino(tiny_grounding_dino):
    """`dino(images)`: the stage with the real network, of which this many images fit at once."""

    def make(images: int) -> GroundStage:
        network = GroundingDinoSettings(weights=str(tiny_grounding_dino), device="cpu", images=images, floor=0.0)
        stage = GroundStage(GroundSettings(grounder="grounding_dino", grounding_dino=network))
        stage.setup()
        return stage

    return make


def test_more_clips_than_fit_are_grounded_as_each_alone(seen, dino) -> None:
    rows = [one.row for one in seen.values()]
    thing = Phrase(text="A", span=Span(0, 1))
    rows = [row.with_record(row[Caption].model_copy(update={"objects": (thing,)})) for row in rows]
    together = dino(4).process(rows)
    for row, found in zip(rows, together, strict=True):
        (alone,) = dino(1).process([row])
        assert [(b.entity, b.still) for b in found.boxes] == [(b.entity, b.still) for b in alone.boxes]
        for a, b in zip(found.boxes, alone.boxes, strict=True):
            assert a.score == pytest.approx(b.score, abs=2e-4) and a.box == pytest.approx(b.box, abs=0.05)
        sightings = {(p.index, s.still): s for p in row[People].people for s in p.sightings}
        for (entity, still), best in found.best.items():
            same = [b for b in found.boxes if (b.entity, b.still) == (entity, still)]
            assert len(same) == 3 and best is same[0], "the best and two more"
            assert [b.score for b in same] == sorted((b.score for b in same), reverse=True)
            frame = Box(0, 0, row[Stills].width, row[Stills].height)
            if entity != "o0":
                subject, part = entity.split(".")
                owner = row[Caption].people[int(subject[1:])].attributes[int(part[1:])].owner
                assert owner is not None
                body = sightings[owner.person, still].body
                frame = crop_around(body, 0.1, np.zeros((row[Stills].height, row[Stills].width, 3), np.uint8))
            assert all(b.box.intersection(frame) == b.box for b in same)
        assert {still for entity, still in found.best if entity == "o0"} == {0, 1, 2}


def test_what_changes_results_enters_the_fingerprint_and_batching_does_not(dino) -> None:
    stage = dino(8)
    assert stage.model == "grounding-dino" and stage.needs.weights
    assert stage.parameters()["grounding_dino"].keys() == {"dtype", "floor", "margin", "boxes"}


def test_boxes_that_came_with_the_video_are_taken_as_they_are(seen) -> None:
    row = seen["both"].row
    stage = GroundStage(GroundSettings())
    stage.setup()
    before = {(b.entity, b.still): b for b in stage.process([row])[0].boxes}
    first, second = (person.attributes[0].phrase.text for person in row[Caption].people)
    stills = row[Stills]
    given = (
        GivenBox(phrase=first.upper(), box=Box(-5, 10, 50, 60)),
        GivenBox(phrase=second, box=Box(100, 10, 150, 60), time_s=stills.stills[2].time_s - 0.01),
    )
    changed = replace(row, source=row.source.model_copy(update={"boxes": given}))
    after = {(b.entity, b.still): b for b in stage.process([changed])[0].boxes}
    assert after.keys() == before.keys()
    for (entity, still), box in after.items():
        if entity == "s0.a0":
            assert (tuple(box.box), box.score) == ((0, 10, 50, 60), 1.0)
        elif (entity, still) == ("s1.a0", 2):
            assert (tuple(box.box), box.score) == ((100, 10, 150, 60), 1.0)
        else:
            assert box == before[entity, still]
