"""Masks lie on their owner and hold the colour that their phrase names."""

import numpy as np
import pytest

from dataengine import masks
from dataengine.config import SegmentSettings
from dataengine.measure.frames import pictures
from dataengine.measure.segment import SegmentStage
from dataengine.models.colour_names import TERMS, term_of
from dataengine.records import Box, Caption, Grounding, People, Segmentation, Stills


def owner_of(row, entity: str) -> int:
    owner = row[Caption].people[int(entity[1 : entity.index(".")])].noun.owner
    assert owner is not None
    return owner.person


@pytest.mark.parametrize("name", ["collins", "hopper", "both"])
def test_bodies_and_attributes_of_everybody_in_every_still(name, seen) -> None:
    row = seen[name].row
    expected = {
        (entity, still)
        for i, subject in enumerate(row[Caption].people)
        for entity in (f"s{i}.body", *(f"s{i}.a{j}" for j in range(len(subject.attributes))))
        for still in range(3)
    }
    assert {(m.entity, m.still) for m in row[Segmentation].masks} == expected


@pytest.mark.parametrize("name", ["collins", "hopper", "both"])
def test_masks_lie_inside_their_owner_and_their_box(name, seen) -> None:
    row = seen[name].row
    grounded = {(b.entity, b.still): b.box for b in row[Grounding].boxes}
    found = {(m.entity, m.still): m for m in row[Segmentation].masks}
    for (entity, still), mask in found.items():
        (sighting,) = [s for s in row[People].people[owner_of(row, entity)].sightings if s.still == still]
        assert mask.box == masks.tight_box(mask.mask)
        assert masks.share_inside(mask.mask, mask.box, sighting.body) > 0.98
        assert (mask.mask.width, mask.mask.height) == (row[Stills].width, row[Stills].height)
        assert 0 < mask.score <= 1
        if not entity.endswith("body"):
            assert masks.share_inside(mask.mask, mask.box, grounded[entity, still]) > 0.98
            own = masks.decode(found[f"{entity.split('.')[0]}.body", still].mask)
            part = masks.decode(mask.mask)
            assert (part & own).sum() > 0.98 * part.sum()


def test_faces_are_in_bodies_and_not_in_clothes_or_hair(seen) -> None:
    row = seen["both"].row
    for mask in row[Segmentation].masks:
        (sighting,) = [s for s in row[People].people[owner_of(row, mask.entity)].sightings if s.still == mask.still]
        face = sighting.face
        x, y = round((face.x0 + face.x1) / 2), round(face.y0 + 0.6 * face.height)
        assert masks.decode(mask.mask)[y, x] == mask.entity.endswith("body")


def test_pixels_have_the_colour_of_the_words(seen) -> None:
    for one in seen.values():
        images = pictures(one.row[Stills])
        for mask in one.row[Segmentation].masks:
            if mask.entity.endswith("body"):
                continue
            subject, part = mask.entity.split(".")
            words = one.row[Caption].people[int(subject[1:])].attributes[int(part[1:])].phrase.text
            names = term_of(images[mask.still])[masks.decode(mask.mask)]
            counts = np.bincount(names, minlength=len(TERMS))
            near = {"orange": ("orange", "red"), "brown": ("brown",), "black": ("black",)}[words.split()[0]]
            assert counts[[TERMS.index(t) for t in near]].sum() > 0.35 * counts.sum(), words


def test_the_people_are_where_the_truth_has_them(seen) -> None:
    """Nearly all of a body mask inside the true person's box, and the true face inside the mask."""
    row = seen["both"].row
    truth = sorted(seen["both"].shot.people, key=lambda p: p.sightings[0].face_box[0])
    for mask in row[Segmentation].masks:
        if mask.entity.endswith("body"):
            time = row[Stills].stills[mask.still].time_s
            true = min(truth[owner_of(row, mask.entity)].sightings, key=lambda s: abs(s.time_s - time))
            assert masks.share_inside(mask.mask, mask.box, Box(*true.body_box)) > 0.95
            x0, y0, x1, y1 = (round(v) for v in true.face_box)
            assert masks.decode(mask.mask)[y0:y1, x0:x1].mean() > 0.85


def test_same_masks_again_alone_or_in_a_batch(seen) -> None:
    stage = SegmentStage(SegmentSettings())
    stage.setup()
    rows = [seen[name].row for name in ("hopper", "collins")]
    assert stage.process(rows) == [row[Segmentation] for row in rows]
    assert stage.process(rows[1:]) == [rows[1][Segmentation]]


def test_nobody_mentioned_nothing_cut(seen) -> None:
    row = seen["collins"].row.with_record(Grounding(boxes=()))
    row = row.with_record(row[Caption].model_copy(update={"people": ()}))
    assert SegmentStage(SegmentSettings()).process([row]) == [Segmentation(masks=())]
