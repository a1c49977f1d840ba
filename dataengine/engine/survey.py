"""How far stored results carry every row: what is ready to be decided on, and what is still to be measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TypeVar

from dataengine.engine.cargo import Cargo, cut
from dataengine.engine.measurements import Ledger, Measurements
from dataengine.engine.pipeline import Pipeline, Step
from dataengine.engine.worker import gated
from dataengine.records import Quarantined, SourceVideo
from dataengine.stage import Row

T = TypeVar("T")

CUT = "cut"
"""The stage that a source stands at when it cannot be cut into clips."""

ROWS = 1024
"""Rows that are looked up together: memory does not grow with what is stored."""


@dataclass(frozen=True)
class Standing:
    """A row as far as stored results carry it.

    It is complete (`stage` is None), stopped by `cargo.fate` at `stage`, or waits for `stage` to measure it; `ahead`
    are the stages behind that one whose results are there all the same.
    """

    cargo: Cargo
    stage: str | None = None
    ahead: frozenset[str] = frozenset()

    @property
    def waits(self) -> bool:
        return self.stage is not None and self.cargo.fate is None


@dataclass
class StageStanding:
    """Rows of one stage."""

    stored: int = 0
    failed: int = 0
    spared: int = 0
    """Rows that were stopped before the stage or by its gate."""
    waiting: int = 0
    behind: int = 0
    """Rows that lack this stage's result and an earlier one's: unmeasured sources count once, not as their clips."""

    def __add__(self, other: StageStanding) -> StageStanding:
        return StageStanding(*(getattr(self, f) + getattr(other, f) for f in self.__dataclass_fields__))


def survey(
    pipeline: Pipeline,
    measurements: Measurements,
    ledgers: Mapping[str, Ledger],
    sources: Iterable[SourceVideo],
    wanted: Callable[[Step], bool] = lambda step: True,
    gates: bool = True,
) -> Iterator[Standing]:
    """Every clip of the sources (or the source itself, if it has none yet) in order, with the records that are stored.

    Records that `wanted` leaves out are looked up but not read; gates and the cut must not need them. Media are not
    read. Without `gates` every row goes on as far as it was ever measured.
    """

    def advanced(standings: Sequence[Standing], step: Step) -> list[Standing]:
        return _advance(standings, step, measurements, ledgers[step.stage.name], wanted(step), gates)

    for group in _batches(sources):
        standings = [Standing(Cargo(Row(source))) for source in group]
        for step in pipeline.source_steps:
            standings = advanced(standings, step)
        clips = (clip for source in standings for clip in _clips(source, pipeline))
        for standings in _batches(clips):
            for step in pipeline.clip_steps:
                standings = advanced(standings, step)
            yield from standings


class Census:
    """Counts standings by stage. Rows of source stages are sources, rows of the others are clips."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._order = [step.stage.name for step in pipeline.steps]
        self._sources = len(pipeline.source_steps)
        self._source = ""
        # Most rows stand alike: each way to stand is counted, and spread over the stages at the end.
        self._alike: Counter[tuple[int, int, str | None, frozenset[str]]] = Counter()

    def add(self, standing: Standing) -> None:
        """Standings come as `survey` gives them: those of one source after each other."""
        stage, fate = standing.stage, standing.cargo.fate
        order = self._order
        at = len(order) if stage is None else self._sources if stage == CUT else order.index(stage)
        source = standing.cargo.row.source.source_id
        first = self._sources if source == self._source else 0
        self._source = source
        stop = None if fate is None else fate.stage if isinstance(fate, Quarantined) else _REFUSED
        self._alike[first, at, stop, standing.ahead] += 1

    @property
    def stages(self) -> dict[str, StageStanding]:
        counted = {name: StageStanding() for name in self._order}
        for (first, at, stop, ahead), rows in self._alike.items():
            for number in range(first, len(self._order)):
                name = self._order[number]
                here = counted[name]
                if number < at:
                    here.stored += rows
                elif stop is None:
                    here.waiting += rows * (number == at)
                    here.stored += rows * (number > at and name in ahead)
                    here.behind += rows * (number > at and name not in ahead)
                elif number == at and stop == name:
                    here.failed += rows
                else:
                    here.spared += rows
        return counted


_REFUSED = ""
"""In place of the stage at which a row failed: a rule stopped it."""


def total(censuses: Iterable[Mapping[str, StageStanding]]) -> dict[str, StageStanding]:
    """Censuses of different sources as one."""
    sums: dict[str, StageStanding] = {}
    for stages in censuses:
        for name, standing in stages.items():
            sums[name] = sums.get(name, StageStanding()) + standing
    return sums


def _batches(items: Iterable[T]) -> Iterator[list[T]]:
    left = iter(items)
    while batch := list(islice(left, ROWS)):
        yield batch


def _clips(source: Standing, pipeline: Pipeline) -> list[Standing]:
    if source.stage is not None:
        return [source]
    return [Standing(cargo, CUT if cargo.fate else None) for cargo in cut(source.cargo.row, pipeline)]


def _advance(
    standings: Sequence[Standing], step: Step, measurements: Measurements, ledger: Ledger, wanted: bool, gates: bool
) -> list[Standing]:
    name = step.stage.name
    entered = [_through_gate(standing, step) for standing in standings] if gates else standings
    ids = [standing.cargo.row.id for standing in entered if standing.cargo.fate is None]
    places = dict(zip(ids, ledger.find(ids).tolist(), strict=True))
    complete = [standing.cargo.row.id for standing in entered if standing.stage is None]
    read = [i for i in complete if places[i] >= 0 and (wanted or ledger.failed[places[i]])]
    results = {i: stored.result(step.stage.writes) for i, stored in measurements.records(ledger, read).items()}

    def arrived(standing: Standing) -> Standing:
        row = standing.cargo.row
        if standing.waits and places[row.id] >= 0:
            return replace(standing, ahead=standing.ahead | {name})
        if standing.stage is not None:
            return standing
        if places[row.id] < 0:
            return replace(standing, stage=name)
        result = results.get(row.id)
        if result is None:
            return standing
        if isinstance(result, Quarantined):
            return Standing(standing.cargo.stopped(result), name)
        return Standing(Cargo(row.with_record(result)))

    return [arrived(standing) for standing in entered]


def _through_gate(standing: Standing, step: Step) -> Standing:
    if standing.stage is not None:
        return standing
    cargo = gated(standing.cargo, step)
    return standing if cargo.fate is None else Standing(cargo, step.stage.name)
