"""What an ablation found: shares of people with bootstrap intervals, by variant, and in which order they stand."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from dataengine.records import Record
from dataengine.world.ablation import ARC_SIM, VARIANTS
from dataengine.world.ablation_reading import Reading

RESAMPLES = 4000
LEVEL = 0.95

Measure = Literal[
    "binding", "of two", "of three", "preferred", "rise", "placed", "shown", "identity", "garments", "background"
]
_MEASURES: Mapping[Measure, Callable[[Reading], tuple[float, float]]] = {
    "binding": lambda r: (r.bound, r.subjects),
    "of two": lambda r: (r.bound, r.subjects) if r.subjects == 2 else (0, 0),
    "of three": lambda r: (r.bound, r.subjects) if r.subjects == 3 else (0, 0),
    "preferred": lambda r: (0, 0) if r.rise is None else (r.rise > 0, 1),
    "rise": lambda r: (0, 0) if r.rise is None else (r.rise, 1),
    "placed": lambda r: (r.placed, r.subjects),
    "shown": lambda r: (r.shown, r.subjects),
    "identity": lambda r: (r.faces, r.subjects),
    "garments": lambda r: (r.garments, r.subjects),
    "background": lambda r: (r.background, 1),
}
"""By name, how much of a reading counts, of how much; see `ablation_reading.Reading`. The first three: binding."""

COMPARED: tuple[Measure, ...] = ("binding", "rise")
"""Measures in which variants are compared with each other."""


class Share(Record):
    """A share with its interval."""

    measure: Measure
    value: float
    low: float
    high: float


class Row(Record):
    """A variant, or pictures that tell whether the measure works."""

    name: str
    runs: int = Field(description="seeds; 0 where nothing was trained")
    shares: tuple[Share, ...]

    def share(self, measure: Measure) -> Share:
        return next(share for share in self.shares if share.measure == measure)


class Step(Record):
    """By how much a measure changes from one variant to another, in the same pairs."""

    measure: Measure
    before: str
    after: str
    change: float
    low: float
    high: float


class Ablation(Record):
    """`ablation.json`."""

    size: str
    seeds: tuple[int, ...]
    held_out: int
    base_steps: int
    steps: int
    rows: tuple[Row, ...]
    steps_between: tuple[Step, ...] = Field(description="each variant against the one before it, and against the first")
    rank_correlation: float = Field(description="Spearman's, of binding and the paper's ArcSim over the variants")
    rise_rank_correlation: float = Field(description="the same of `rise`")
    cpu_minutes: float = Field(description="of training, generation and reading, all runs")

    def row(self, name: str) -> Row:
        return next(row for row in self.rows if row.name == name)


@dataclass(frozen=True, slots=True)
class Readings:
    """A row's readings, [runs][pairs]; the same pairs in every row."""

    name: str
    trained: bool
    runs: Sequence[Sequence[Reading]]


def summed_up(
    found: Sequence[Readings], *, size: str, seeds: Sequence[int], base_steps: int, steps: int, cpu_minutes: float
) -> Ablation:
    """Shares, their intervals over pairs and seeds, and the order of the variants."""
    rows = tuple(_row(readings) for readings in found)
    by_name = {readings.name: readings for readings in found}
    order = [by_name[variant.name] for variant in VARIANTS]
    pairs = [*pairwise(order), *((order[0], after) for after in order[2:])]

    def correlation(measure: Measure) -> float:
        values = [next(row for row in rows if row.name == v.name).share(measure).value for v in VARIANTS]
        return _spearman(values, ARC_SIM)

    return Ablation(
        size=size,
        seeds=tuple(seeds),
        held_out=len(order[0].runs[0]),
        base_steps=base_steps,
        steps=steps,
        rows=rows,
        steps_between=tuple(_step(measure, *pair) for measure in COMPARED for pair in pairs),
        rank_correlation=correlation("binding"),
        rise_rank_correlation=correlation("rise"),
        cpu_minutes=round(cpu_minutes, 1),
    )


def _row(readings: Readings) -> Row:
    shares = []
    for measure in _MEASURES:
        counted = _counted(readings, measure)
        value, resampled = _value(counted.sum(axis=(0, 1))), _resampled(counted)
        low, high = np.quantile(resampled, ((1 - LEVEL) / 2, (1 + LEVEL) / 2)).tolist()
        shares.append(Share(measure=measure, value=round(float(value), 4), low=round(low, 4), high=round(high, 4)))
    return Row(name=readings.name, runs=len(readings.runs) if readings.trained else 0, shares=tuple(shares))


def _step(measure: Measure, before: Readings, after: Readings) -> Step:
    """The change, with the same pairs and seeds drawn on both sides."""
    one, other = _counted(before, measure), _counted(after, measure)
    resampled = _resampled(other) - _resampled(one)
    low, high = np.quantile(resampled, ((1 - LEVEL) / 2, (1 + LEVEL) / 2)).tolist()
    change = _value(other.sum(axis=(0, 1))) - _value(one.sum(axis=(0, 1)))
    return Step(
        measure=measure,
        before=before.name,
        after=after.name,
        change=round(float(change), 4),
        low=round(low, 4),
        high=round(high, 4),
    )


def _counted(readings: Readings, measure: Measure) -> NDArray[np.float64]:
    """[runs, pairs, 2]: how much counts, of how much."""
    return np.array([[_MEASURES[measure](reading) for reading in run] for run in readings.runs], dtype=float)


def _resampled(counted: NDArray[np.float64]) -> NDArray[np.float64]:
    """The share in each resample: runs and pairs are both drawn anew, with replacement; the same draws every time."""
    of_runs, of_pairs = _drawn(*counted.shape[:2])
    by_run = of_pairs @ counted  # [runs, resamples, 2]
    return _value((of_runs.T[:, :, None] * by_run).sum(axis=0))


@lru_cache(maxsize=4)
def _drawn(runs: int, pairs: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """How often each run and each pair is in each resample, [RESAMPLES, runs] and [RESAMPLES, pairs]."""
    draw = np.random.default_rng(0)
    of_runs = draw.multinomial(runs, np.full(runs, 1 / runs), size=RESAMPLES)
    return of_runs, draw.multinomial(pairs, np.full(pairs, 1 / pairs), size=RESAMPLES)


def _value(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.divide(sums[..., 0], sums[..., 1], out=np.zeros(sums.shape[:-1]), where=sums[..., 1] > 0)


def _spearman(one: Sequence[float], other: Sequence[float]) -> float:
    """Correlation of ranks, equal values sharing theirs."""
    ranks = np.array([_ranks(one), _ranks(other)])
    return 0.0 if np.any(ranks.std(axis=1) == 0) else round(float(np.corrcoef(ranks)[0, 1]), 3)


def _ranks(values: Iterable[float]) -> NDArray[np.float64]:
    array = np.array(list(values))
    return (array[:, None] > array).sum(axis=1) + (array[:, None] == array).sum(axis=1) / 2
