"""Masks lie on their owner and hold the colour that their phrase names."""

import numpy as np
import pytest

from dataengine import masks
from dataengine.config import Sam2Settings, SamSettings, SegmentSettings
from dataengine.measure.frames import pictures
from dataengine.measure.segment import SegmentStage, lies_over_the_face, oval
from dataengine.models.colour_names import TERMS, term_of
from dataengine.models.interfaces import Segment
from dataengine.records import Box, Caption, GroundedBox, Grounding, Mention, People, Phrase, Segmentation, Stills, Vote


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


@pytest.mark.parametrize("name", ["sam", "sam2"])
def test_the_networks_cut_the_best_boxes_of_every_still(name, seen, tiny_sam, tiny_sam2) -> None:
    stage = SegmentStage(
        SegmentSettings(
            segmenter=name,
            sam=SamSettings(weights=str(tiny_sam), device="cpu", images=2),
            sam2=Sam2Settings(weights=str(tiny_sam2), device="cpu", images=2),
            speck_share=0,
        )
    )
    stage.setup()
    assert stage.model == name and stage.needs.weights
    rows = [seen["both"].row, seen["collins"].row]
    for row, found in zip(rows, stage.process(rows), strict=True):
        assert {(m.entity, m.still) for m in found.masks} == {(m.entity, m.still) for m in row[Segmentation].masks}
        size = (row[Stills].width, row[Stills].height)
        for mask in found.masks:
            assert (mask.mask.width, mask.mask.height) == size
            assert mask.box == masks.tight_box(mask.mask)
            assert 0 <= mask.score <= 1 and mask.stability is not None and 0 <= mask.stability <= 1
    row = rows[1]
    elsewhere = GroundedBox(entity="s0.a0", still=0, box=Box(0, 0, 9, 9), score=0.1)
    more = row.with_record(Grounding(boxes=(*row[Grounding].boxes, elsewhere)))
    assert stage.process([more]) == stage.process([row]), "a worse candidate is not cut"


class Everything:
    """A segmenter that cuts all of a box, with a speck beside it and a hole in it."""

    def segment(self, scenes):
        for scene in scenes:
            found = []
            for prompt in scene.prompts:
                x0, y0, x1, y1 = (round(v) for v in prompt.box)
                pixels = np.zeros(scene.image.shape[:2], bool)
                pixels[y0:y1, x0:x1] = True
                pixels[y1 - 6 : y1 - 4, x0 + 4 : x0 + 6] = False
                pixels[0:2, 0:2] = True
                found.append(Segment(pixels, 1.0, 0.5))
            yield found


def cut(seen, phrase: str, **settings):
    """Body and one attribute with that phrase, grounded over the whole body, in still 0 of a portrait."""
    row = seen["collins"].row
    person = row[Caption].people[0]
    worn = Mention(phrase=Phrase(text=phrase, span=None), votes=(Vote(person=0, share=1),))
    (sighting,) = [s for s in row[People].people[0].sightings if s.still == 0]
    row = row.with_record(
        row[Caption].model_copy(update={"people": (person.model_copy(update={"attributes": (worn,)}),)})
    )
    row = row.with_record(Grounding(boxes=(GroundedBox(entity="s0.a0", still=0, box=sighting.body, score=1),)))
    stage = SegmentStage(SegmentSettings(**settings))
    stage._segmenter = Everything()
    (found,) = stage.process([row])
    by = {m.entity: masks.decode(m.mask) for m in found.masks if m.still == 0}
    return by["s0.body"], by["s0.a0"], sighting


def test_a_face_is_taken_out_of_clothes_but_not_of_what_is_worn_over_it(seen) -> None:
    body, coat, sighting = cut(seen, "long coat")
    face = oval(sighting.face, body.shape)
    assert face.sum() == pytest.approx(np.pi / 4 * sighting.face.area, rel=0.02)
    assert body[face].all() and not coat[face].any()
    assert (coat == body & ~face).all(), "nothing else is taken"
    assert cut(seen, "round glasses")[1][face].all()


def test_specks_go_and_holes_are_filled(seen) -> None:
    body, _, sighting = cut(seen, "coat")
    x0, y0, x1, y1 = (round(v) for v in sighting.body)
    assert body[y0:y1, x0:x1].all() and body.sum() == (y1 - y0) * (x1 - x0)
    raw, _, _ = cut(seen, "coat", speck_share=0)
    assert raw.sum() == body.sum() - 4 + 4 and raw[0, 0] and not raw[y1 - 5, x0 + 4]


@pytest.mark.parametrize(
    "phrase", ["Sunglasses", "straw hat", "long blonde hair", "two earrings", "a beard", "蓝色口罩"]
)
def test_what_lies_over_a_face(phrase) -> None:
    assert lies_over_the_face(phrase)


@pytest.mark.parametrize("phrase", ["dark jacket", "red dress", "hooded coat", "wristwatch", "necklace", "红色外套"])
def test_what_does_not(phrase) -> None:
    assert not lies_over_the_face(phrase)
