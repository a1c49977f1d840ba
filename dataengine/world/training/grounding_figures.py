"""How well a Grounding DINO finds what is in the world, and leaves what is not, asked as the measuring stages ask."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dataengine.config import GroundingDinoSettings
from dataengine.models.grounding_dino import GroundingDino, crop_around
from dataengine.models.interfaces import Query, Region
from dataengine.records import Box, Sighting
from dataengine.world.cast import GARMENTS
from dataengine.world.judge import SAME_THING, VISIBLE, iou
from dataengine.world.training.examples import HELD_OUT, Example, example
from dataengine.world.training.grounding_phrases import (
    NOUNS,
    Entity,
    Term,
    any_object,
    any_worn,
    entities,
    recoloured,
    renamed,
)
from dataengine.world.training.log import Figure

ENOUGH = 0.3
"""`decide.filters.box_min_score` of the production profile."""
EXAMPLES = 200
_PLURAL = {"glasses": "glasses", "scarf": "scarves", "hair": "hair"}


@dataclass(frozen=True, slots=True)
class Case:
    """A question and its answer.

    Attributes:
        of: the kind of thing that is there, or of absent phrase.
        true: boxes that are right; none for an absent phrase.
        others: boxes of the same kind of garment on other people.
    """

    of: str
    query: Query
    true: tuple[Box, ...]
    others: tuple[Box, ...] = ()


def held_out(folder: Path, examples: int = EXAMPLES) -> tuple[Figure, ...]:
    """Recall at IoU 0.5 of what has 200 visible pixels and more, and false positives, both at a score of 0.3.

    Attributes are asked in the crop of their owner's true body. A thing counts as found where the best box is right, a
    person where any is.
    """
    model = GroundingDino(GroundingDinoSettings(weights=str(folder), device="cpu"))
    model.load()
    shown = [example(HELD_OUT, index) for index in range(examples)]
    found: dict[str, list[bool]] = defaultdict(list)
    for seen, regions in zip(shown, model.people([seen.image for seen in shown]), strict=True):
        sure = [region.box for region in regions if region.score >= ENOUGH]
        bodies = [box for e in _drawn(seen) if e.term.kind in NOUNS and (box := _seen(seen, e, VISIBLE)) is not None]
        found["box recall of persons"] += [any(iou(body, box) >= SAME_THING for box in sure) for body in bodies]
        every = [box for e in _drawn(seen) if e.term.kind in NOUNS and (box := _seen(seen, e)) is not None]
        found["persons who are none"] += [all(iou(body, box) < SAME_THING for body in every) for box in sure]
    asked = [case for index, seen in enumerate(shown) for case in cases(seen, np.random.default_rng((17, index)))]
    for case, regions in zip(asked, model.ground([case.query for case in asked]), strict=True):
        for name, right in judged(case, regions):
            found[name].append(right)
    totals = {
        f"{what}, all": [right for name, rights in found.items() if name.startswith(f"{what} ") for right in rights]
        for what in ("box recall", "false positives")
    }
    every_figure = {**totals, **dict(sorted(found.items()))}
    return tuple(
        Figure(name=name, value=round(float(np.mean(rights)), 4), of=len(rights))
        for name, rights in every_figure.items()
        if rights
    )


def judged(case: Case, regions: Sequence[Region]) -> Iterator[tuple[str, bool]]:
    """Names of figures, and what a question's answer counts for in them."""
    best = regions[0] if regions and regions[0].score >= ENOUGH else None
    if not case.true:
        yield f"false positives on {case.of}", best is not None
        return
    own = max((iou(box, best.box) for box in case.true), default=0.0) if best else 0.0
    yield f"box recall of {case.of}", own >= SAME_THING
    if case.others and best:
        yield "own garment beside another's of its kind", own > max(iou(box, best.box) for box in case.others)


def cases(seen: Example, draw: np.random.Generator) -> Iterator[Case]:
    """What is asked of a frame: everything that is there, and of every person and frame some things that are not."""
    drawn = _drawn(seen)
    things = [e for e in drawn if e.owner is None]
    for thing in things:
        if _seen(seen, thing, VISIBLE) is not None:
            same = [box for e in things if thing.term.names(e.term) and (box := _seen(seen, e)) is not None]
            yield Case("objects", Query(seen.image, thing.term.text, None), tuple(same))
        yield from _absent(seen.image, None, things, draw, thing.term)
    yield from _missing("random phrases", any_object(draw), things, seen.image, None)
    for owner in range(len(seen.shot.actors)):
        yield from _worn(seen, owner, draw)


def _worn(seen: Example, owner: int, draw: np.random.Generator) -> Iterator[Case]:
    drawn = _drawn(seen)
    body = next(_seen(seen, e, VISIBLE) for e in drawn if e.owner == owner and e.term.kind in NOUNS)
    if body is None:
        return
    sighting = Sighting(still=0, face=body, face_score=1, landmarks=(), body=body, body_score=1, sharpness=0)
    own = [e for e in drawn if e.owner == owner and e.term.kind not in NOUNS]
    others = [e for e in drawn if e.owner not in (None, owner)]
    for entity in own:
        if (box := _seen(seen, entity, VISIBLE)) is not None:
            kind = "garments" if entity.term.kind in GARMENTS else _PLURAL.get(entity.term.kind, f"{entity.term.kind}s")
            same = [e for e in others if e.term.kind in GARMENTS and e.term.kind == entity.term.kind]
            beside = tuple(other for e in same if (other := _seen(seen, e, VISIBLE)) is not None)
            yield Case(kind, Query(seen.image, entity.term.text, sighting), (box,), beside)
    term = own[int(draw.integers(len(own)))].term
    yield from _absent(seen.image, sighting, own, draw, term)
    yield from _missing("random phrases", any_worn(draw), own, seen.image, sighting)
    window = crop_around(body, 0.1, seen.image)
    for entity in others:
        box = _seen(seen, entity)
        if entity.term.kind in GARMENTS and box is not None and box.intersection(window).area > 0:
            yield from _missing("another person's garment", entity.term, own, seen.image, sighting)


def _absent(
    image: np.ndarray[tuple[int, ...], np.dtype[np.uint8]],
    owner: Sighting | None,
    there: Sequence[Entity],
    draw: np.random.Generator,
    term: Term,
) -> Iterator[Case]:
    yield from _missing("the noun in another colour", recoloured(term, draw), there, image, owner)
    yield from _missing("the colour of another noun", renamed(term, draw), there, image, owner)


def _missing(
    of: str,
    term: Term,
    there: Iterable[Entity],
    image: np.ndarray[tuple[int, ...], np.dtype[np.uint8]],
    owner: Sighting | None,
) -> Iterator[Case]:
    """The question, unless the phrase is true of something."""
    if not any(term.names(entity.term) for entity in there):
        yield Case(of, Query(image, term.text, owner), ())


def _drawn(seen: Example) -> tuple[Entity, ...]:
    shot = seen.shot
    return entities([actor.person for actor in shot.actors], [placed.thing for placed in shot.objects])


def _seen(seen: Example, entity: Entity, least: int = 1) -> Box | None:
    """The box of an entity's pixels, if there are so many."""
    pixels = np.isin(seen.labels, entity.labels)
    if pixels.sum() < least:
        return None
    columns, rows = np.flatnonzero(pixels.any(axis=0)), np.flatnonzero(pixels.any(axis=1))
    return Box(float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))
