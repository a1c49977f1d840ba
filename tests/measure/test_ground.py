"""Each attribute is looked for in its owner, wherever its owner is seen."""

from dataengine.config import GroundSettings
from dataengine.measure.ground import GroundStage
from dataengine.models.face_regions import FaceRegions
from dataengine.records import Caption, Grounding, Mention, People, Phrase, Span, Stills


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
