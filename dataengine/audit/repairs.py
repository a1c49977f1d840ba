"""Repairs of a sample that people ask for: pure functions from a pair to a pair that keeps the pair's contract.

Repairs apply in the order they were made, each to what the ones before it left: after `MoveAttribute("s0.a1", 1)` the
attribute is called `s1.a2`, and a later repair of it says so.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, Field, ValidationError

from dataengine.records import Box, EntityId, Mask, Pair, Phrase, Record, Reference, Share, Span, Subject

MOST_ATTRIBUTES = 3


class RepairRefused(ValueError):
    """A repair would break the pair; the message says how."""


def plain(text: str, lines: bool = False) -> str:
    """`text` without a change, if nothing in it can mislead or break who reads it; `lines` allows line breaks and tabs.

    Raises `ValueError` naming the first character that is refused: control characters, NUL among them, halves of
    surrogate pairs, and marks that turn the direction of what follows.
    """
    for character in text:
        kind = unicodedata.category(character)
        turns = unicodedata.bidirectional(character) in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
        if kind in ("Cs", "Zl", "Zp") or turns or (kind == "Cc" and not (lines and character in "\n\t")):
            raise ValueError(f"it has the character U+{ord(character):04X}, which is not allowed here")
    return text


def _words(text: str) -> str:
    if text != text.strip() or not text:
        raise ValueError("a phrase neither is empty nor begins or ends with white space")
    return plain(text)


class MoveAttribute(Record):
    """The attribute is another subject's. It gets that subject's next number."""

    type: Literal["move_attribute"] = "move_attribute"
    entity: EntityId
    subject: int = Field(ge=0, description="`index` of the subject whose it is")


class Respan(Record):
    """The entity's words stand elsewhere in the caption."""

    type: Literal["respan"] = "respan"
    entity: EntityId
    start: int = Field(ge=0)
    end: int = Field(ge=1)


class Relabel(Record):
    """The entity is called something else: the caption is changed at its span, and all later spans move along."""

    type: Literal["relabel"] = "relabel"
    entity: EntityId
    text: Annotated[str, Field(min_length=1, max_length=100), AfterValidator(_words)]


class DeleteEntity(Record):
    """The entity goes; a subject (`s0`) goes with all that is its own. The caption keeps its words."""

    type: Literal["delete_entity"] = "delete_entity"
    entity: EntityId


class ChooseStill(Record):
    """The entity's reference is cut from another still."""

    type: Literal["choose_still"] = "choose_still"
    entity: EntityId
    still: int = Field(ge=0, le=99)


Repair = MoveAttribute | Respan | Relabel | DeleteEntity | ChooseStill


class Cut(Record):
    """How an entity stands in one still, as it was measured: what a reference is cut by."""

    time_s: float = Field(description="seconds from the clip's start")
    box: Box
    area_share: Share
    score: float
    mask: Mask | None = Field(description="over the whole frame; None for what is cut by its box alone, as faces are")
    sharpness: float | None = None
    frontal: Share | None = None
    visible: Share | None = None

    @property
    def placed(self) -> dict[str, Any]:
        """The fields of a `Reference` that change with its still."""
        return {name: value for name, value in dict(self).items() if name != "mask"}


Cuts = Callable[[EntityId, int], Cut | None]
"""Looks up how an entity, by the name it was measured under, stands in a still; None where nothing is stored."""


def nothing_stored(entity: EntityId, still: int) -> Cut | None:
    """The `Cuts` of a dataset that came without its measurements."""
    return None


@dataclass(frozen=True)
class Repaired:
    """A repaired pair, and what its references are made of."""

    pair: Pair
    origins: dict[EntityId, EntityId]
    """The name that each of the pair's references had before the repairs."""
    cuts: dict[EntityId, Cut]
    """References, by their new names, that have to be cut anew."""


def repaired(pair: Pair, repairs: Sequence[Repair], cuts: Cuts = nothing_stored) -> Pair:
    """The pair after the repairs, in their order. Raises `RepairRefused` for the first that would break it."""
    return apply_repairs(pair, repairs, cuts).pair


def apply_repairs(pair: Pair, repairs: Sequence[Repair], cuts: Cuts = nothing_stored) -> Repaired:
    """As `repaired`, and also which files each reference comes from."""
    state = Repaired(pair, {reference.entity: reference.entity for reference in pair.references}, {})
    for repair in repairs:
        try:
            state = _one(state, repair, cuts)
        except ValidationError as error:
            raise RepairRefused(f"{repair.type} of {repair.entity}: {error.errors()[0]['msg']}") from error
        except RepairRefused as error:
            raise RepairRefused(f"{repair.type} of {repair.entity}: {error}") from error
    return state


def _one(state: Repaired, repair: Repair, cuts: Cuts) -> Repaired:
    match repair:
        case MoveAttribute():
            return _moved(state, repair)
        case Respan():
            return _kept(_respanned(state.pair, repair), state)
        case Relabel():
            return _kept(_relabelled(state.pair, repair), state)
        case DeleteEntity():
            return _kept(_without(state.pair, repair.entity), state)
        case ChooseStill():
            return _cut_anew(state, repair, cuts)


def _kept(pair: Pair, before: Repaired) -> Repaired:
    """The state after a repair that gave nothing a new name."""
    there = {reference.entity for reference in pair.references}
    return Repaired(
        pair,
        {entity: origin for entity, origin in before.origins.items() if entity in there},
        {entity: cut for entity, cut in before.cuts.items() if entity in there},
    )


# --- Whose it is ------------------------------------------------------------------------------------------------------


def _moved(state: Repaired, repair: MoveAttribute) -> Repaired:
    pair, old = state.pair, repair.entity
    owner, attribute = _attribute(pair, old)
    to = next((subject for subject in pair.subjects if subject.index == repair.subject), None)
    if to is None:
        raise RepairRefused(f"there is no subject s{repair.subject}")
    if to is owner:
        raise RepairRefused(f"it is s{to.index}'s already")
    if len(to.attributes) >= MOST_ATTRIBUTES:
        raise RepairRefused(f"s{to.index} has {MOST_ATTRIBUTES} attributes already: delete or move one first")
    new = f"s{to.index}.a{_next_number(state, to)}"
    moved = changed(
        attribute,
        entity=new,
        member=f"{new}.png",
        mask_member=None if attribute.mask_member is None else f"{new}.mask.png",
    )
    subjects = {
        owner.index: changed(owner, attributes=tuple(a for a in owner.attributes if a.entity != old)),
        to.index: changed(to, attributes=(*to.attributes, moved)),
    }
    relations = tuple(changed(r, attribute=new) if r.attribute == old else r for r in pair.relations)
    return Repaired(
        changed(pair, subjects=tuple(subjects.get(s.index, s) for s in pair.subjects), relations=relations),
        {new if entity == old else entity: origin for entity, origin in state.origins.items()},
        {new if entity == old else entity: cut for entity, cut in state.cuts.items()},
    )


def _next_number(state: Repaired, subject: Subject) -> int:
    """One more than any number that an attribute of the subject has, or had before the repairs.

    Numbers are never used twice: a name that was another thing's would bind that thing's files and votes.
    """
    names = {*state.origins, *state.origins.values(), *(r.attribute for r in state.pair.relations)}
    numbers = (re.fullmatch(rf"s{subject.index}\.a(\d+)", name) for name in names)
    return 1 + max((int(found[1]) for found in numbers if found), default=-1)


def _without(pair: Pair, entity: EntityId) -> Pair:
    subject = next((s for s in pair.subjects if entity == f"s{s.index}"), None)
    if subject is not None:
        if len(pair.subjects) == 1:
            raise RepairRefused("it is the only subject: reject the sample instead")
        gone = {attribute.entity for attribute in subject.attributes}
        return changed(
            pair,
            subjects=tuple(s for s in pair.subjects if s is not subject),
            relations=tuple(r for r in pair.relations if r.subject != subject.index and r.attribute not in gone),
        )
    reference = _reference(pair, entity)
    if reference.kind == "face":
        raise RepairRefused(f"a subject has a face: delete {entity.removesuffix('.face')} as a whole")
    if reference.kind == "background":
        return changed(pair, background=None)
    if reference.kind == "object":
        return changed(pair, objects=tuple(o for o in pair.objects if o.entity != entity))
    return changed(
        pair,
        subjects=tuple(
            changed(
                s,
                attributes=tuple(a for a in s.attributes if a.entity != entity),
                body=None if s.body is not None and s.body.entity == entity else s.body,
            )
            for s in pair.subjects
        ),
        relations=tuple(r for r in pair.relations if r.attribute != entity),
    )


# --- Its words --------------------------------------------------------------------------------------------------------


def _respanned(pair: Pair, repair: Respan) -> Pair:
    target = _noun_or_own(pair, repair.entity)
    span = Span(repair.start, repair.end)
    if not 0 <= span.start < span.end <= len(pair.caption):
        raise RepairRefused(f"characters {span.start} to {span.end} are not inside the caption of {len(pair.caption)}")
    words = span.of(pair.caption)
    if words != words.strip():
        raise RepairRefused(f"{words!r} begins or ends with white space")
    phrase = Phrase(text=words, span=span)
    return _rephrased(pair, pair.caption, lambda name, old: phrase if name == target else old)


def _relabelled(pair: Pair, repair: Relabel) -> Pair:
    target = _noun_or_own(pair, repair.entity)
    span = _span_of(pair, target)
    caption = pair.caption[: span.start] + repair.text + pair.caption[span.end :]
    longer = len(repair.text) - (span.end - span.start)
    phrase = Phrase(text=repair.text, span=Span(span.start, span.start + len(repair.text)))

    def shifted(name: str, old: Phrase) -> Phrase:
        if name == target:
            return phrase
        if old.span is not None and old.span.start >= span.end:
            return Phrase(text=old.text, span=Span(old.span.start + longer, old.span.end + longer))
        return old

    return _rephrased(pair, caption, shifted)


def _rephrased(pair: Pair, caption: str, phrase: Callable[[str, Phrase], Phrase]) -> Pair:
    """The pair with another caption; `phrase` gives each entity's new phrase. A subject's noun goes by `s0`."""

    def own(reference: Reference) -> Reference:
        return changed(reference, phrase=phrase(_tied(reference.entity), reference.phrase))

    return changed(
        pair,
        caption=caption,
        subjects=tuple(
            changed(
                s,
                noun=phrase(f"s{s.index}", s.noun),
                face=own(s.face),
                attributes=tuple(own(a) for a in s.attributes),
                body=None if s.body is None else own(s.body),
            )
            for s in pair.subjects
        ),
        objects=tuple(own(o) for o in pair.objects),
        background=None if pair.background is None else own(pair.background),
    )


def _tied(entity: str) -> str:
    """What an entity's words are tied to: a subject's face and body share its noun."""
    return re.sub(r"\.(face|body)$", "", entity)


def _noun_or_own(pair: Pair, entity: EntityId) -> str:
    name = _tied(entity)
    if not any(name == f"s{s.index}" for s in pair.subjects):
        _reference(pair, entity)
    return name


def _span_of(pair: Pair, name: str) -> Span:
    span = next(r.phrase.span for r in pair.references if _tied(r.entity) == name)
    assert span is not None  # a reference without one cannot be made
    return span


# --- Its picture ------------------------------------------------------------------------------------------------------


def _cut_anew(state: Repaired, repair: ChooseStill, cuts: Cuts) -> Repaired:
    old = _reference(state.pair, repair.entity)
    if old.kind == "background":
        raise RepairRefused("a background is made from all of the clip, not from one still")
    if old.origin is not None:
        raise RepairRefused("it was cut from another clip, whose stills are not this sample's")
    cut = cuts(state.origins[repair.entity], repair.still)
    if cut is None:
        raise RepairRefused(f"nothing is stored of how it stands in still {repair.still}")
    if (cut.mask is None) != (old.mask_member is None):
        raise RepairRefused("what is stored of the other still does not go with how the reference was cut")
    new = changed(old, still=repair.still, **cut.placed)

    def swapped(reference: Reference) -> Reference:
        return new if reference is old else reference

    pair = state.pair
    pair = changed(
        pair,
        subjects=tuple(
            changed(
                s,
                face=swapped(s.face),
                attributes=tuple(swapped(a) for a in s.attributes),
                body=None if s.body is None else swapped(s.body),
            )
            for s in pair.subjects
        ),
        objects=tuple(swapped(o) for o in pair.objects),
    )
    return Repaired(pair, state.origins, state.cuts | {repair.entity: cut})


# --- Looking things up, changing records ------------------------------------------------------------------------------


def _reference(pair: Pair, entity: EntityId) -> Reference:
    found = next((r for r in pair.references if r.entity == entity), None)
    if found is None:
        raise RepairRefused(f"there is none: the sample has {', '.join(r.entity for r in pair.references)}")
    return found


def _attribute(pair: Pair, entity: EntityId) -> tuple[Subject, Reference]:
    for subject in pair.subjects:
        for attribute in subject.attributes:
            if attribute.entity == entity:
                return subject, attribute
    raise RepairRefused("it is no attribute of any subject")


R = TypeVar("R", bound=Record)


def changed(record: R, **changes: Any) -> R:
    """A copy with some fields changed, checked as a new record. Raises pydantic's `ValidationError`."""
    return type(record)(**(dict(record) | changes))
