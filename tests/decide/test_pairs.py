"""Pairs: what is tied, what is dropped with which reason, and that nothing else matters."""

from dataclasses import replace

import numpy as np
import pytest

from dataengine import masks
from dataengine.config import DecideSettings, FilterRules, PairRules
from dataengine.decide.pairs import decide_pair
from dataengine.decide.splits import split_of
from dataengine.records import (
    Background,
    Box,
    Decision,
    Grounding,
    Mention,
    Pair,
    PairQuality,
    People,
    Phrase,
    Provenance,
    Quality,
    Rejected,
    Segmentation,
    Span,
    Vote,
)

PROVENANCE = Provenance(stages=(), decided_by="test")
RULES = DecideSettings()


def decide(measured, rules=RULES, seed=0) -> Decision:
    return decide_pair(measured, PROVENANCE, rules, seed)


def pair_of(measured, rules=RULES, seed=0) -> Pair:
    outcome = decide(measured, rules, seed).outcome
    assert isinstance(outcome, Pair), outcome
    return outcome


def rejected(measured, rules=RULES) -> str:
    outcome = decide(measured, rules).outcome
    assert isinstance(outcome, Rejected), outcome
    return outcome.rule


def dropped(measured, rules=RULES) -> dict[str, str]:
    return {d.entity: d.rule for d in decide(measured, rules).dropped}


def filters(**values) -> DecideSettings:
    return DecideSettings(filters=FilterRules(**values))


def with_person(measured, index, **changes):
    """The measurements with another mention of subject `index`."""
    people = list(measured.caption.people)
    people[index] = people[index].model_copy(update=changes)
    return replace(measured, caption=measured.caption.model_copy(update={"people": tuple(people)}))


def with_attributes(measured, index, *attributes):
    return with_person(measured, index, attributes=attributes)


def with_masks(measured, change):
    """The measurements with `change` made to each mask; None leaves it out."""
    changed = (change(found) for found in measured.segmentation.masks)
    return replace(measured, segmentation=Segmentation(masks=tuple(found for found in changed if found is not None)))


def test_a_good_clip_ties_everything(measured_clip):
    measured = measured_clip(0, people=3)
    decision = decide(measured)
    pair = decision.outcome
    assert isinstance(pair, Pair) and decision.dropped == ()
    assert [s.noun.text for s in pair.subjects] == ["woman", "man", "girl"]
    assert [[a.phrase.text for a in s.attributes] for s in pair.subjects] == [
        ["orange top"],
        ["dark jacket"],
        ["white shirt"],
    ]
    assert all(r.phrase.span.of(pair.caption) == r.phrase.text for r in pair.references)
    assert [s.body.phrase for s in pair.subjects] == [s.noun for s in pair.subjects]
    assert [o.phrase.text for o in pair.objects] == ["red ball"]
    assert pair.background.phrase.text == "green wall"
    assert pair.key == measured.clip.clip_id
    assert (pair.width, pair.height, pair.fps, pair.frames) == (320, 180, 12, 12)
    assert Pair.from_json(pair.to_json()) == pair


def test_references_name_their_still_and_place(measured_clip):
    pair = pair_of(measured_clip(0))
    woman = pair.subjects[0]
    assert woman.face.still == woman.attributes[0].still == woman.body.still == 1, "the middle still is the sharpest"
    assert woman.face.box == Box(39, 32, 79, 72)
    assert woman.face.time_s == pytest.approx(0.5)
    assert woman.face.area_share == pytest.approx(1600 / (320 * 180))
    assert woman.attributes[0].score == 0.7, "no surer than the phrase was found"
    assert woman.attributes[0].mask_member == "s0.a0.mask.png" and woman.face.mask_member is None
    assert pair.background.box == Box(0, 0, 320, 180)


def test_still_by_lot(measured_clip):
    rules = DecideSettings(pairs=PairRules(still="random"))
    clips = [measured_clip(number) for number in range(12)]
    drawn = [pair_of(clip, rules).subjects[0].face.still for clip in clips]
    assert set(drawn) == {0, 1, 2}
    assert drawn == [pair_of(clip, rules).subjects[0].face.still for clip in clips]
    assert drawn != [pair_of(clip, rules, seed=1).subjects[0].face.still for clip in clips]


def test_decisions_need_no_media(measured_clip):
    assert pair_of(measured_clip(0, media=True)) == pair_of(measured_clip(0, media=False))


def test_a_refused_attribute_leaves_a_gap(measured_clip):
    measured = measured_clip(0)
    cap = Mention(phrase=Phrase(text="in", span=None), votes=(Vote(person=0, share=1),))
    measured = with_attributes(measured, 0, cap, measured.caption.people[0].attributes[0])
    measured = with_masks(measured, lambda m: m.model_copy(update={"entity": "s0.a1"}) if m.entity == "s0.a0" else m)
    pair = pair_of(measured)
    assert [a.entity for a in pair.subjects[0].attributes] == ["s0.a1"]
    assert dropped(measured) == {"s0.a0": "span_ambiguous"}


def test_an_attribute_on_somebody_else_is_dropped(measured_clip):
    swap = {"s0.a0": "s1.a0", "s1.a0": "s0.a0"}
    measured = with_masks(measured_clip(0), lambda m: m.model_copy(update={"entity": swap.get(m.entity, m.entity)}))
    assert dropped(measured) == {"s0.a0": "owner_min_inside", "s1.a0": "owner_min_inside"}
    assert [s.attributes for s in pair_of(measured).subjects] == [(), ()]


def test_what_is_disputed_is_listed_with_all_witnesses(measured_clip):
    measured = measured_clip(0)
    worn = measured.caption.people[0].attributes[0].model_copy(update={"votes": (Vote(person=1, share=0.9),)})
    (disputed,) = decide(with_attributes(measured, 0, worn)).dropped
    assert {(w.person, w.still, w.votes, round(w.inside)) for w in disputed.witnesses} == {
        (person, still, votes, inside) for still in range(3) for person, votes, inside in ((0, 0.0, 1), (1, 0.9, 0))
    }
    assert decide(measured, filters(attribute_min_area=0.9)).dropped[0].witnesses == (), "nothing is disputed there"


def test_a_dispute_behind_a_poor_still_is_listed(measured_clip):
    def poor_then_astray(m):
        if m.entity != "s0.a0":
            return m
        theirs = next(o for o in measured.segmentation.masks if (o.entity, o.still) == ("s1.a0", m.still))
        return m.model_copy(update={"score": 0.1} if m.still == 0 else {"mask": theirs.mask, "box": theirs.box})

    measured = measured_clip(0)
    (left,) = decide(with_masks(measured, poor_then_astray), filters(mask_min_score=0.5)).dropped
    assert (left.entity, left.rule) == ("s0.a0", "owner_min_inside"), "its first still alone is only poor"
    assert {w.still for w in left.witnesses} == {0, 1, 2}


def test_what_has_no_place_is_no_dispute(measured_clip):
    """Nobody was asked whose it is: that it has no votes says nothing."""
    lost = Mention(phrase=Phrase(text="blue sash", span=None), votes=())
    measured = with_attributes(measured_clip(0), 0, lost)
    (left,) = decide(measured).dropped
    assert (left.rule, left.witnesses) == ("span_absent", ())
    measured = with_person(measured_clip(0), 0, noun=lost, attributes=())
    assert dropped(measured)["s0"] == "span_absent"


def test_an_attribute_that_walks_to_somebody_else_is_nobodys(measured_clip):
    measured = measured_clip(0)
    other = {m.still: m for m in measured.segmentation.masks if m.entity == "s1.a0"}

    def astray(stills):
        def change(m):
            there = m.entity == "s0.a0" and m.still in stills
            return other[m.still].model_copy(update={"entity": "s0.a0"}) if there else m

        return with_masks(measured, change)

    assert dropped(astray([0])) == {}
    assert dropped(astray([0, 1])) == {"s0.a0": "owner_min_stills"}
    assert dropped(astray([0]), filters(owner_min_stills=1)) == {"s0.a0": "owner_min_stills"}


def test_votes_against_the_caption_drop_an_attribute(measured_clip):
    measured = measured_clip(0)
    worn = measured.caption.people[0].attributes[0].model_copy(update={"votes": (Vote(person=1, share=0.9),)})
    assert dropped(with_attributes(measured, 0, worn)) == {"s0.a0": "owner_disagrees"}


SETTLED = filters(owner_settled_by_pixels=True)


@pytest.mark.parametrize("votes", [{1: 0.9}, {0: 0.5, 1: 0.5}, {0: 0.3}], ids=str)
def test_pixels_settle_what_votes_dispute(measured_clip, votes):
    """They side with whom the caption lists it under, or nobody has it."""
    measured = measured_clip(0)
    cast = tuple(Vote(person=person, share=share) for person, share in votes.items())
    worn = measured.caption.people[0].attributes[0].model_copy(update={"votes": cast})
    disputed = with_attributes(measured, 0, worn)
    why = dropped(disputed)
    assert set(why) == {"s0.a0"}
    assert dropped(disputed, SETTLED) == {}
    assert [a.entity for a in pair_of(disputed, SETTLED).subjects[0].attributes] == ["s0.a0"]
    theirs = {m.still: m for m in measured.segmentation.masks if m.entity == "s1.a0"}

    def astray_once(m):
        astray = (m.entity, m.still) == ("s0.a0", 0)
        return theirs[0].model_copy(update={"entity": "s0.a0"}) if astray else m

    assert dropped(with_masks(disputed, astray_once), SETTLED) == why, "in every still, or the votes hold"
    assert dropped(with_masks(disputed, lambda m: None if m.entity == "s0.a0" else m), SETTLED) == why


def test_at_most_so_many_attributes(measured_clip):
    measured = measured_clip(0)
    assert dropped(measured, filters(max_attributes=0)) == {"s0.a0": "max_attributes", "s1.a0": "max_attributes"}
    words = ["beside", "with", "front", "of", "in a dark"]
    many = [Mention(phrase=Phrase(text=w, span=None), votes=(Vote(person=0, share=1),)) for w in words]
    top = next(m for m in measured.segmentation.masks if m.entity == "s0.a0")
    more = tuple(top.model_copy(update={"entity": f"s0.a{i}"}) for i in range(1, 5))
    measured = with_attributes(measured, 0, *many)
    measured = replace(measured, segmentation=Segmentation(masks=(*measured.segmentation.masks, *more)))
    assert [a.phrase.text for a in pair_of(measured).subjects[0].attributes] == ["beside", "with", "front"]
    assert dropped(measured)["s0.a3"] == dropped(measured)["s0.a4"] == "max_attributes"


def test_words_are_tied_once(measured_clip):
    measured = measured_clip(0)
    noun, top = measured.caption.people[0].noun, measured.caption.people[1].attributes[0]
    same = with_person(measured, 1, noun=noun.model_copy(update={"votes": (Vote(person=1, share=0.9),)}))
    assert dropped(same) == {"s1": "span_overlapping"}
    assert [s.index for s in pair_of(same).subjects] == [0], "numbers stay those of the measurements"
    unfound = top.model_copy(update={"phrase": Phrase(text="a", span=None)})
    assert dropped(with_attributes(measured, 1, unfound)) == {"s1.a0": "span_ambiguous"}
    wrong = top.model_copy(update={"phrase": Phrase(text="dark jacket", span=Span(0, 11))})
    assert dropped(with_attributes(measured, 1, wrong)) == {"s1.a0": "span_wrong"}


def test_a_missing_span_is_found(measured_clip):
    measured = measured_clip(0)
    unfound = (
        measured.caption.people[1].attributes[0].model_copy(update={"phrase": Phrase(text="DARK Jacket", span=None)})
    )
    assert pair_of(with_attributes(measured, 1, unfound)) == pair_of(measured), "the words are the caption's"


def test_masks_must_be_good(measured_clip):
    measured = measured_clip(0)
    assert dropped(measured, filters(mask_min_score=0.85)) == {}, "the last two stills are good enough"
    assert pair_of(measured, filters(mask_min_score=0.9)).subjects[0].attributes[0].still == 2
    assert dropped(measured, filters(mask_min_score=0.95))["s0.a0"] == "mask_min_score"
    assert dropped(measured, filters(attribute_min_area=0.01)) == {"o0": "attribute_min_area"}
    empty = masks.encode(np.zeros((180, 320), bool))
    nothing = with_masks(measured, lambda m: m.model_copy(update={"mask": empty}))
    assert dropped(nothing, filters(attribute_min_area=0))["o0"] == "attribute_min_area"
    assert dropped(with_masks(measured, lambda m: None if m.entity == "o0" else m)) == {"o0": "mask_missing"}


def test_boxes_must_be_good(measured_clip):
    """The best candidate of an entity and still counts; bodies come with their faces and have no box."""
    measured = measured_clip(0)
    boxes = [
        box.model_copy(update={"score": 0.9 if box.still == 2 else 0.3})
        for box in measured.grounding.boxes
        if not box.entity.endswith("body")
    ]
    worse = [box.model_copy(update={"score": 0.1}) for box in boxes]
    measured = replace(measured, grounding=Grounding(boxes=(*boxes, *worse)))
    assert dropped(measured, filters(box_min_score=0.5)) == {}
    assert pair_of(measured).subjects[0].attributes[0].still == 1
    assert pair_of(measured, filters(box_min_score=0.5)).subjects[0].attributes[0].still == 2
    refused = dropped(measured, filters(box_min_score=0.95))
    assert refused == {"s0.a0": "box_min_score", "s1.a0": "box_min_score", "o0": "box_min_score"}


def test_masks_must_be_stable_where_that_is_known(measured_clip):
    measured = measured_clip(0)
    assert dropped(measured, filters(mask_min_stability=1)) == {}, "the segmenter gives none"
    shaky = with_masks(measured, lambda m: m.model_copy(update={"stability": 0.9 if m.entity == "o0" else 0.95}))
    assert dropped(shaky, filters(mask_min_stability=0.9)) == {}
    assert dropped(shaky, filters(mask_min_stability=0.92)) == {"o0": "mask_min_stability"}


def test_a_body_that_nobody_measured_is_not_missing(measured_clip):
    measured = with_masks(measured_clip(0), lambda m: None if m.entity.endswith("body") else m)
    assert dropped(measured) == {}
    assert [s.body for s in pair_of(measured).subjects] == [None, None]


def test_an_invented_background_is_left_out(measured_clip):
    measured = replace(measured_clip(0), background=Background(image=b"", seen_share=0, filled_share=0.7))
    assert dropped(measured) == {"bg": "background_max_filled"}
    assert pair_of(measured).background is None
    kept = pair_of(measured, filters(background_max_filled=0.7)).background
    assert kept is not None and kept.score == pytest.approx(0.3), "its score is the share that was seen"


def test_why_a_clip_gives_no_pair(measured_clip):
    measured = measured_clip(0)
    assert rejected(replace(measured, people=People(people=()))) == "faces"
    assert rejected(measured, filters(face_min_px=41)) == "face_min_px"
    assert rejected(measured, filters(max_subjects=1)) == "max_subjects"
    silent = measured.caption.model_copy(update={"people": ()})
    assert rejected(replace(measured, caption=silent)) == "caption"
    assert rejected(measured, filters(owner_min_share=0.95)) == "owner_min_share"
    stranger = Mention(phrase=Phrase(text="woman", span=None), votes=(Vote(person=7, share=1),))
    only = measured.caption.model_copy(
        update={"people": (measured.caption.people[0].model_copy(update={"noun": stranger, "attributes": ()}),)}
    )
    assert rejected(replace(measured, caption=only)) == "owner_unseen"


def test_a_rejection_lists_what_led_to_it(measured_clip):
    decision = decide(measured_clip(0), filters(owner_min_share=0.95))
    assert [(d.entity, d.phrase, d.rule) for d in decision.dropped] == [
        ("s0", "woman", "owner_min_share"),
        ("s1", "man", "owner_min_share"),
    ]
    assert "0.90" in decision.outcome.detail
    assert Decision.from_json(decision.to_json()) == decision


def test_sizes_that_do_not_fit_are_an_error(measured_clip):
    measured = measured_clip(0)
    with pytest.raises(ValueError, match="320x180 and its encoded frames 160x90"):
        decide(replace(measured, encoded=measured.encoded.model_copy(update={"width": 160, "height": 90})))
    small = masks.encode(np.ones((90, 160), bool))
    with pytest.raises(ValueError, match="measure segment again"):
        decide(with_masks(measured, lambda m: m.model_copy(update={"mask": small})))


def test_split_is_the_sources(measured_clip):
    def splits(share: float) -> list[str]:
        rules = DecideSettings(pairs=PairRules(val_share=share))
        return [pair_of(measured_clip(number), rules).split for number in range(12)]

    assert splits(0.3) == [split_of(f"source{number}", 0.3) for number in range(12)]
    assert set(splits(0.3)) == {"train", "val"} and set(splits(0)) == {"train"}


def test_every_witness_is_heard_of_every_tie(measured_clip):
    measured = measured_clip(0)
    votes = (Vote(person=0, share=0.7), Vote(person=1, share=0.2))
    worn = measured.caption.people[0].attributes[0].model_copy(update={"votes": votes})
    relations = pair_of(with_attributes(measured, 0, worn)).relations
    assert [(r.attribute, r.subject, r.votes, r.inside) for r in relations] == [
        ("s0.a0", 0, 0.7, pytest.approx(1)),
        ("s0.a0", 1, 0.2, 0.0),
        ("s1.a0", 0, 0.0, 0.0),
        ("s1.a0", 1, 0.8, pytest.approx(1)),
    ]


def test_a_witness_that_says_nothing_is_none(measured_clip):
    measured = measured_clip(0)
    man = measured.people.people[1]
    gone = man.model_copy(update={"sightings": tuple(s for s in man.sightings if s.still != 1)})
    pair = pair_of(replace(measured, people=People(people=(measured.people.people[0], gone))))
    assert pair.subjects[0].attributes[0].still == 1
    assert [r.inside for r in pair.relations] == [pytest.approx(1), None, 0.0, pytest.approx(1)]


def test_what_is_known_of_faces_and_pictures(measured_clip):
    measured = measured_clip(0)
    assert pair_of(measured).subjects[0].likeness is None
    assert pair_of(measured).quality == PairQuality()
    woman = measured.people.people[0]
    looks = ((1.0, 0.0), (0.6, 0.8), (0.8, 0.6))
    seen = tuple(
        s.model_copy(update={"embedding": e, "frontal": 0.9, "visible": 0.8})
        for s, e in zip(woman.sightings, looks, strict=True)
    )
    people = People(people=(woman.model_copy(update={"sightings": seen}), measured.people.people[1]))
    quality = Quality(
        sharpness=(90.0, 40.0, 60.0),
        brightness=(0.4, 0.5, 0.6),
        clipped=(0.0, 0.1, 0.05),
        motion=0.2,
        camera_motion=0.1,
        overlay_share=0.01,
        aesthetic=5.5,
        content=Box(0, 0, 320, 180),
        hashes=("0" * 16,) * 3,
    )
    pair = pair_of(replace(measured, people=people, quality=quality))
    assert pair.subjects[0].likeness == pytest.approx(0.6)
    face = pair.subjects[0].face
    assert (face.sharpness, face.frontal, face.visible) == (80.0, 0.9, 0.8)
    assert (pair.quality.sharpness, pair.quality.clipped, pair.quality.nsfw) == (40.0, 0.1, None)
    assert pair.quality.brightness == pytest.approx(0.5)
    assert "embedding" not in pair.to_json(), "who somebody is stays out of shards"


def test_pairs_of_the_first_version_are_read(measured_clip):
    text = pair_of(measured_clip(0)).model_dump(mode="json")
    for new in ("relations", "quality", "licence"):
        del text[new]
    for subject in text["subjects"]:
        del subject["likeness"]
        for new in ("sharpness", "frontal", "visible", "origin"):
            del subject["face"][new]
    old = Pair.model_validate(text | {"schema_version": 1})
    assert old.relations == () and old.subjects[0].face.origin is None
