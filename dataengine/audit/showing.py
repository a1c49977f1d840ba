"""A sample as one auditor sees it: as it is stored, or with a planted fault, and with the auditor's repairs on top."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from dataengine import masks
from dataengine.audit.checks import Aids, Case, Cell, Finding, Matrix, check_sample, score_matrix
from dataengine.audit.honeypots import plant
from dataengine.audit.media import Media
from dataengine.audit.repairs import Cut, Cuts, Repair, RepairRefused, apply_repairs, nothing_stored
from dataengine.audit.scene import Scene
from dataengine.config import CheckLimits
from dataengine.records import EntityId, Pair, Reference
from dataengine.shards.assembly import png


@dataclass(frozen=True)
class Shown:
    """One sample. Reading pictures raises `UnreadableSample`."""

    media: Media
    row: int
    stored: Pair
    before: Pair
    """With the planted fault, if there is one."""
    pair: Pair
    """With the repairs."""
    origins: Mapping[EntityId, EntityId]
    """The stored entity that each entity of `pair` is made of."""
    cuts: Mapping[EntityId, Cut]
    """Entities that will be cut anew."""
    planted: bool
    repaired: bool
    stale: str | None
    """Why the repairs in force do not apply; they are left out then."""

    @classmethod
    def of(cls, media: Media, row: int, planted: int | None, repairs: Sequence[Repair], cuts: Cuts) -> Shown:
        """A sample of the index; `planted` is the seed of its fault. Raises `UnreadableSample` without a record."""
        stored = before = media.pair(row)
        fault = None if planted is None else plant(stored, planted)
        first = {reference.entity: reference.entity for reference in stored.references}
        if fault is not None:
            before, first = fault.pair, fault.origins
        stale = None
        try:
            # Stored measurements are known by stored names.
            now = apply_repairs(before, repairs, lambda entity, still: cuts(first[entity], still))
        except RepairRefused as error:
            now, stale = apply_repairs(before, ()), str(error)
        origins = {entity: first[origin] for entity, origin in now.origins.items()}
        done = bool(repairs) and stale is None
        return cls(media, row, stored, before, now.pair, origins, now.cuts, fault is not None, done, stale)

    @cached_property
    def references(self) -> dict[EntityId, Reference]:
        """The stored reference that each entity is made of."""
        stored = {reference.entity: reference for reference in self.stored.references}
        return {entity: stored[origin] for entity, origin in self.origins.items()}

    @cached_property
    def scene(self) -> Scene:
        """What the checks look at: the repaired record over the stored files, and over what will be cut anew."""
        return Scene(self.pair, _Members(self))

    def findings(self, limits: CheckLimits, aids: Aids, stored: Sequence[Finding]) -> list[Finding]:
        """What the checks say now.

        Until something is repaired that is what was stored, or what they find here if nothing was. A planted fault
        shows in neither: they would give it away. After a repair they run at once; of checks that do not run here (on
        the whole dataset, on decoded clips) what was stored stays.
        """
        if self.planted and not self.repaired:
            found = stored or check_sample(self._true.scene, limits, aids)
            return [self._disguised(finding) for finding in found]
        if stored and not self.repaired:
            return list(stored)
        live = check_sample(self.scene, limits, aids)
        ran = {finding.check for finding in live}
        renamed = {origin: entity for entity, origin in self.origins.items()}
        kept = [
            finding.model_copy(update={"entity": renamed.get(finding.entity, finding.entity)})
            for finding in stored
            if finding.check not in ran and (not finding.entity or finding.entity in renamed)
        ]
        return [*live, *kept]

    def matrix(self, limits: CheckLimits, aids: Aids) -> Matrix:
        """Attributes by subjects. With a planted fault the witnesses say what they would have said had they erred."""
        if not self.planted or self.repaired:
            return score_matrix(Case(self.scene, limits, aids))
        true = self._true.matrix(limits, aids)
        columns = self._exchanged
        told: dict[tuple[EntityId, int], Cell] = {}
        for subject in self.pair.subjects:
            for attribute in subject.attributes:
                origin = self.origins[attribute.entity]
                moved = columns if origin != attribute.entity else {}
                for rival in self.pair.subjects:
                    told[attribute.entity, rival.index] = true[origin, moved.get(rival.index, rival.index)]
        return told

    @cached_property
    def _true(self) -> Shown:
        """The sample as it is stored."""
        return Shown.of(self.media, self.row, None, (), nothing_stored)

    @cached_property
    def _exchanged(self) -> dict[int, int]:
        """The two subjects whose attributes a planted fault has exchanged."""
        moved = [(e, o) for e, o in self.origins.items() if e != o]
        return {_owner(entity): _owner(origin) for entity, origin in moved}

    def _disguised(self, finding: Finding) -> Finding:
        """A finding on the sample as it is, told of the planted one."""
        renamed = {origin: entity for entity, origin in self.origins.items()}
        entity = renamed.get(finding.entity, finding.entity)
        if entity == finding.entity:
            return finding
        columns = self._exchanged

        def subject(match: re.Match[str]) -> str:
            number = int(match[1])
            return f"s{columns.get(number, number)}"

        return finding.model_copy(update={"entity": entity, "reason": re.sub(r"\bs(\d+)\b", subject, finding.reason)})


def _owner(entity: EntityId) -> int:
    return int(entity[1:].split(".")[0])


@dataclass(frozen=True)
class _Members(Mapping[str, bytes]):
    """The files of a shown sample by the names that its record has for them, each read when it is asked for."""

    shown: Shown

    @cached_property
    def _names(self) -> dict[str, str]:
        names = {"mp4": "mp4"}
        for reference in self.shown.pair.references:
            stored = self.shown.references[reference.entity]
            names[reference.member] = stored.member
            if reference.mask_member is not None and stored.mask_member is not None:
                names[reference.mask_member] = stored.mask_member
        return names

    @cached_property
    def _anew(self) -> dict[str, bytes]:
        """Pictures and masks as they will be cut: faces by their box, everything else by its mask, on white."""
        files: dict[str, bytes] = {}
        stills = Scene(self.shown.stored, _Stored(self.shown)).stills if self.shown.cuts else ()
        for reference in self.shown.pair.references:
            cut = self.shown.cuts.get(reference.entity)
            if cut is None:
                continue
            x0, y0, x1, y1 = (int(value) for value in cut.box)
            picture = stills[reference.still][y0:y1, x0:x1]
            if cut.mask is not None and reference.mask_member is not None:
                pixels = masks.decode(cut.mask)
                picture = np.where(pixels[y0:y1, x0:x1, None], picture, np.uint8(255))
                files[reference.mask_member] = png(pixels)
            files[reference.member] = png(picture)
        return files

    def __getitem__(self, name: str) -> bytes:
        if name in self._anew:
            return self._anew[name]
        return _Stored(self.shown)[self._names[name]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


@dataclass(frozen=True)
class _Stored(Mapping[str, bytes]):
    """The stored files of a sample."""

    shown: Shown

    def __getitem__(self, name: str) -> bytes:
        return self.shown.media.member(self.shown.media.index[self.shown.row], name)

    def __iter__(self) -> Iterator[str]:
        return (member.name for member in self.shown.media.index[self.shown.row].members)

    def __len__(self) -> int:
        return len(self.shown.media.index[self.shown.row].members)
