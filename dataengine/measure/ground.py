"""Ground: where the caption's attributes and objects are in each still."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

from dataengine.config import GroundSettings
from dataengine.measure.frames import pictures
from dataengine.models.face_regions import FaceRegions
from dataengine.models.grounding_dino import GroundingDino
from dataengine.models.interfaces import Grounder, Query, Region
from dataengine.records import Box, Caption, GroundedBox, Grounding, Mention, People, Record, Stills
from dataengine.stage import Row, Stage

_GROUNDERS: dict[str, Callable[[GroundSettings], Grounder]] = {
    "face_regions": lambda settings: FaceRegions(),
    "grounding_dino": lambda settings: GroundingDino(settings.grounding_dino),
}


class GroundStage(Stage[Grounding]):
    """Looks for each attribute inside its owner and for each object in the whole still, phrase by phrase.

    One prompt with many phrases would be cheaper, and makes Grounding DINO lose and merge them. An attribute is looked
    for where its owner is seen, by the votes; where they tie, or the caption lists it under somebody else, in all who
    come into question, and the best box says whose it is. One without votes is not looked for. All candidates that the
    grounder names are stored; what a low score means is a decision. A box that came with the source under an entity's
    words is taken as it is, and the grounder is not asked for that still.
    """

    name: ClassVar[str] = "ground"
    version: ClassVar[int] = 2
    reads: ClassVar[tuple[type[Record], ...]] = (Stills, People, Caption)
    writes: ClassVar[type[Record]] = Grounding

    def __init__(self, settings: GroundSettings) -> None:
        self.settings = settings
        self._grounder = _GROUNDERS[settings.grounder](settings)
        self.model, self.needs = self._grounder.name, self._grounder.needs

    @property
    def revision(self) -> str:
        return self._grounder.revision

    def parameters(self) -> Mapping[str, Any]:
        return self.settings.parameters()

    def setup(self) -> None:
        self._grounder.load()

    def process(self, rows: Sequence[Row]) -> Sequence[Grounding]:
        asked = [_queries(row) for row in rows]
        given = [
            [_given(row, still, query.phrase) for _, still, query in queries]
            for row, queries in zip(rows, asked, strict=True)
        ]
        unknown = [
            query
            for queries, boxes in zip(asked, given, strict=True)
            for (_, _, query), box in zip(queries, boxes, strict=True)
            if box is None
        ]
        answers = iter(self._grounder.ground(unknown) if unknown else ())
        return [
            Grounding(
                boxes=_best_first(
                    _grounded(entity, still, found)
                    for (entity, still, _), box in zip(queries, boxes, strict=True)
                    for found in ([Region(box, 1.0)] if box is not None else next(answers))
                )
            )
            for queries, boxes in zip(asked, given, strict=True)
        ]


def _best_first(boxes: Iterable[GroundedBox]) -> tuple[GroundedBox, ...]:
    """Boxes by entity and still, in the order in which these were asked for; the best of each first, none twice."""
    found: dict[tuple[str, int], dict[GroundedBox, None]] = {}
    for box in boxes:
        found.setdefault((box.entity, box.still), {})[box] = None
    return tuple(box for group in found.values() for box in sorted(group, key=lambda box: -box.score))


def _given(row: Row, still: int, phrase: str) -> Box | None:
    """The box that came with the source for these words, if it holds in this still: always, or nearest in time."""
    stills = row[Stills]
    words = " ".join(phrase.split()).casefold()
    for one in row.source.boxes:
        if " ".join(one.phrase.split()).casefold() != words:
            continue
        times = [abs(at.time_s - one.time_s) for at in stills.stills] if one.time_s is not None else []
        if not times or times.index(min(times)) == still:
            box = one.box.clipped(stills.width, stills.height)
            return box if box.area > 0 else None
    return None


def _queries(row: Row) -> list[tuple[str, int, Query]]:
    """Entity, still and question for all that is to be found in a clip."""
    images = pictures(row[Stills])
    people = {person.index: person for person in row[People].people}
    queries = []
    for i, subject in enumerate(row[Caption].people):
        for j, attribute in enumerate(subject.attributes):
            for sighting in (
                s for person in _possible_owners(subject.noun, attribute) for s in people[person].sightings
            ):
                query = Query(images[sighting.still], attribute.phrase.text, sighting)
                queries.append((f"s{i}.a{j}", sighting.still, query))
    for k, thing in enumerate(row[Caption].objects):
        for still, image in enumerate(images):
            queries.append((f"o{k}", still, Query(image, thing.text, None)))
    return queries


def _possible_owners(noun: Mention, attribute: Mention) -> list[int]:
    """Whom most votes name, all of them where they tie; and whom the caption lists the attribute under."""
    most = max((vote.share for vote in attribute.votes), default=0.0)
    listed = [noun.owner] if noun.owner and attribute.votes else []
    return list(dict.fromkeys(vote.person for vote in (*(v for v in attribute.votes if v.share == most), *listed)))


def _grounded(entity: str, still: int, region: Region) -> GroundedBox:
    box = Box(*(round(value, 2) for value in region.box))
    return GroundedBox(entity=entity, still=still, box=box, score=round(region.score, 4))
