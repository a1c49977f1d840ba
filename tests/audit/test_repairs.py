"""Repairs keep the pair's contract, whatever their order; what would break it is refused with a reason."""

from __future__ import annotations

import re
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from audit_samples import sample
from dataengine.audit.repairs import (
    ChooseStill,
    Cut,
    DeleteEntity,
    MoveAttribute,
    Relabel,
    Repair,
    RepairRefused,
    Respan,
    apply_repairs,
    repaired,
)
from dataengine.records import Box, Mask, Pair, Phrase, Relation, Span


@cache
def pair_of(seed: int, people: int = 2) -> Pair:
    return sample(seed, people).pair


@pytest.fixture
def pair() -> Pair:
    """Three people; s0 has three attributes, s1 two, s2 one."""
    found = pair_of(22, 3)
    assert _counts(found) == (3, 2, 1)
    return found


def _counts(pair: Pair) -> tuple[int, ...]:
    return tuple(len(s.attributes) for s in pair.subjects)


def check_contract(pair: Pair) -> None:
    """All that a reader relies on, beside what the record's own validators say."""
    assert Pair.from_json(pair.to_json()) == pair
    names = [r.entity for r in pair.references]
    assert len(set(names)) == len(names)
    for subject in pair.subjects:
        assert subject.face.entity == f"s{subject.index}.face"
        assert subject.noun == subject.face.phrase
        assert subject.body is None or (subject.body.phrase, subject.body.entity) == (
            subject.noun,
            f"s{subject.index}.body",
        )
        assert all(re.fullmatch(rf"s{subject.index}\.a\d+", a.entity) for a in subject.attributes)
    for reference in pair.references:
        assert reference.member == f"{reference.entity}.png"
        assert reference.mask_member in (None, f"{reference.entity}.mask.png")
    cells = [(r.attribute, r.subject) for r in pair.relations]
    attributes = [a.entity for s in pair.subjects for a in s.attributes]
    assert sorted(cells) == sorted((a, s.index) for a in attributes for s in pair.subjects)


# --- Each repair ------------------------------------------------------------------------------------------------------


def test_a_moved_attribute_takes_its_name_files_and_relations_along(pair: Pair) -> None:
    before = pair.subjects[0].attributes[1]
    result = apply_repairs(pair, [MoveAttribute(entity="s0.a1", subject=1)])
    after = result.pair.subjects[1].attributes[-1]
    assert _counts(result.pair) == (2, 3, 1)
    assert (after.entity, after.member, after.mask_member) == ("s1.a2", "s1.a2.png", "s1.a2.mask.png")
    assert (after.phrase, after.box, after.still) == (before.phrase, before.box, before.still)
    assert [a.entity for a in result.pair.subjects[0].attributes] == ["s0.a0", "s0.a2"]
    assert result.origins["s1.a2"] == "s0.a1"
    assert "s0.a1" not in result.origins
    votes = {r.subject: r.votes for r in pair.relations if r.attribute == "s0.a1"}
    assert {r.subject: r.votes for r in result.pair.relations if r.attribute == "s1.a2"} == votes
    check_contract(result.pair)


def test_a_number_is_never_used_twice(pair: Pair) -> None:
    moves: list[Repair] = [
        MoveAttribute(entity="s0.a1", subject=2),
        MoveAttribute(entity="s2.a1", subject=1),
        MoveAttribute(entity="s0.a0", subject=2),
    ]
    result = apply_repairs(pair, moves)
    assert [a.entity for a in result.pair.subjects[2].attributes] == ["s2.a0", "s2.a1"]
    assert result.origins["s2.a1"] == "s0.a0"
    back = apply_repairs(pair, [MoveAttribute(entity="s0.a1", subject=2), MoveAttribute(entity="s2.a1", subject=0)])
    assert [a.entity for a in back.pair.subjects[0].attributes] == ["s0.a0", "s0.a2", "s0.a3"]
    assert back.origins["s0.a3"] == "s0.a1"


@pytest.mark.parametrize(
    ("repair", "says"),
    [
        (MoveAttribute(entity="s1.a0", subject=0), "3 attributes already"),
        (MoveAttribute(entity="s1.a0", subject=1), "s1's already"),
        (MoveAttribute(entity="s1.a0", subject=7), "no subject s7"),
        (MoveAttribute(entity="s1.a9", subject=2), "no attribute"),
        (MoveAttribute(entity="s1.face", subject=2), "no attribute"),
        (Respan(entity="s0.a0", start=0, end=5000), "not inside"),
        (Respan(entity="s0.a0", start=1, end=3), "white space"),
        (Respan(entity="s8", start=0, end=1), "there is none"),
        (Relabel(entity="o3", text="x"), "there is none"),
        (DeleteEntity(entity="s1.face"), "delete s1 as a whole"),
        (DeleteEntity(entity="o0"), "there is none"),
        (ChooseStill(entity="s0.a0", still=2), "nothing is stored"),
        (ChooseStill(entity="bg", still=2), "all of the clip"),
    ],
)
def test_what_would_break_the_pair_is_refused(pair: Pair, repair: Repair, says: str) -> None:
    with pytest.raises(RepairRefused, match=f"{repair.type} of {re.escape(repair.entity)}.*{says}"):
        repaired(pair, [repair])


def test_words_of_another_entity_cannot_be_taken(pair: Pair) -> None:
    span = pair.subjects[1].attributes[0].phrase.span
    assert span is not None
    with pytest.raises(RepairRefused, match="share characters"):
        repaired(pair, [Respan(entity="s0.a0", start=span.start, end=span.end)])


def test_a_subjects_noun_face_and_body_change_together(pair: Pair) -> None:
    start = pair.subjects[0].noun.span.start - 2  # "A dancer"
    for entity in ("s0", "s0.face", "s0.body"):
        after = repaired(pair, [Respan(entity=entity, start=start, end=pair.subjects[0].noun.span.end)])
        assert after.subjects[0].noun.text.startswith("A ")
        check_contract(after)


@pytest.mark.parametrize("text", ["tie", "a very long description of a hat", "grüner Hut 🎩", "帽子"])
def test_a_new_label_moves_all_later_spans(pair: Pair, text: str) -> None:
    target = pair.subjects[0].attributes[1].phrase
    after = repaired(pair, [Relabel(entity="s0.a1", text=text)])
    assert after.caption == pair.caption[: target.span.start] + text + pair.caption[target.span.end :]
    assert [r.phrase.text for r in after.references if r.entity != "s0.a1"] == [
        r.phrase.text for r in pair.references if r.entity != "s0.a1"
    ]
    check_contract(after)


@pytest.mark.parametrize("text", ["", " x", "x\n", "a\x00b", "\u202egnp", "x" * 101, "a\nb"])
def test_hostile_labels_are_refused(text: str) -> None:
    with pytest.raises(ValidationError):
        Relabel(entity="s0.a1", text=text)


def test_deleting(pair: Pair) -> None:
    assert repaired(pair, [DeleteEntity(entity="bg")]).background is None
    assert repaired(pair, [DeleteEntity(entity="s1.body")]).subjects[1].body is None
    without = repaired(pair, [DeleteEntity(entity="s1"), DeleteEntity(entity="s0.a1")])
    assert [s.index for s in without.subjects] == [0, 2]
    assert without.caption == pair.caption
    check_contract(without)
    with pytest.raises(RepairRefused, match="only subject"):
        repaired(without, [DeleteEntity(entity="s0"), DeleteEntity(entity="s2")])


def cuts(entity: str, still: int) -> Cut | None:
    """Something is stored of every entity in still 2, under its own name."""
    if still != 2:
        return None
    masked = not entity.endswith("face")
    mask = Mask(height=360, width=640, counts=entity) if masked else None
    return Cut(time_s=0.9, box=Box(1, 2, 33, 44), area_share=0.1, score=0.7, mask=mask, sharpness=None if masked else 9)


def test_another_still_is_looked_up_under_the_first_name(pair: Pair) -> None:
    repairs = [MoveAttribute(entity="s0.a1", subject=2), ChooseStill(entity="s2.a1", still=2)]
    result = apply_repairs(pair, repairs, cuts)
    moved = result.pair.subjects[2].attributes[-1]
    assert (moved.still, moved.time_s, moved.box, moved.score) == (2, 0.9, Box(1, 2, 33, 44), 0.7)
    assert result.cuts["s2.a1"].mask.counts == "s0.a1"
    face = apply_repairs(pair, [ChooseStill(entity="s1.face", still=2)], cuts).pair.subjects[1].face
    assert (face.still, face.sharpness) == (2, 9)
    again = apply_repairs(pair, [ChooseStill(entity="s0.a1", still=2), MoveAttribute(entity="s0.a1", subject=1)], cuts)
    assert set(again.cuts) == {"s1.a2"}


# --- Any sequence -----------------------------------------------------------------------------------------------------


@st.composite
def any_repair(draw: st.DrawFn) -> Repair:
    entity = draw(st.sampled_from(["s0", "s1", "s2", "s0.face", "s1.body", "bg", "o0"]) | _attributes())
    kind = draw(st.sampled_from(["move", "move", "respan", "relabel", "delete", "still"]))
    if kind == "move":
        return MoveAttribute(entity=draw(_attributes()), subject=draw(st.integers(0, 3)))
    if kind == "respan":
        start = draw(st.integers(0, 120))
        return Respan(entity=entity, start=start, end=start + draw(st.integers(1, 12)))
    if kind == "relabel":
        return Relabel(entity=entity, text=draw(st.sampled_from(["tie", "long dark winter coat", "é", "帽子", "x y"])))
    if kind == "delete":
        return DeleteEntity(entity=entity)
    return ChooseStill(entity=entity, still=draw(st.integers(1, 2)))


def _attributes() -> st.SearchStrategy[str]:
    return st.builds("s{}.a{}".format, st.integers(0, 2), st.integers(0, 4))


@settings(max_examples=120, deadline=None)
@given(st.integers(0, 5), st.integers(1, 3), st.lists(any_repair(), max_size=12))
def test_any_sequence_of_repairs_gives_a_valid_pair(seed: int, people: int, repairs: list[Repair]) -> None:
    before = pair_of(seed, people)
    done: list[Repair] = []
    result = before
    for repair in repairs:
        try:
            result = repaired(before, [*done, repair], cuts)
        except RepairRefused:
            continue
        done.append(repair)
        check_contract(result)
    assert repaired(before, done, cuts) == result
    origins = apply_repairs(before, done, cuts).origins
    known = {r.entity: r for r in before.references}
    assert set(origins) == {r.entity for r in result.references}
    assert len(set(origins.values())) == len(origins)
    assert all(known[origins[r.entity]].kind == r.kind for r in result.references)


def test_a_phrase_without_relations_moves_too() -> None:
    """Pairs that were packed before relations were stored have none."""
    old = pair_of(0).model_copy(update={"relations": ()})
    assert repaired(old, [DeleteEntity(entity="s1")]).relations == ()


def test_relations_of_a_deleted_subject_go(pair: Pair) -> None:
    after = repaired(pair, [DeleteEntity(entity="s2")])
    assert all(isinstance(r, Relation) and r.subject != 2 for r in after.relations)
    assert after.subjects[0].noun == Phrase(text=pair.subjects[0].noun.text, span=Span(*pair.subjects[0].noun.span))
