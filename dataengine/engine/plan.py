"""What a run would do and take: a prediction from what is stored, made before anything runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dataengine.config import Prices
from dataengine.engine.measurements import Ledger, Measurements
from dataengine.engine.pipeline import Pipeline, Step, pools
from dataengine.engine.survey import StageStanding


@dataclass(frozen=True)
class Rate:
    """What a row of a stage takes, as the mean over stored results."""

    seconds: float
    cpu_seconds: float
    bytes: float


@dataclass(frozen=True)
class Unseen:
    """Sources that are not cut into clips yet, and what the others tell of how many clips they will give."""

    sources: int = 0
    bytes: int = 0
    known_clips: int = 0
    known_bytes: int = 0

    @property
    def clips(self) -> float | None:
        """Expected by their size; None when there is nothing to go by."""
        if not self.sources:
            return 0.0
        return self.bytes * self.known_clips / self.known_bytes if self.known_clips else None


@dataclass(frozen=True)
class StagePlan:
    """One stage's part of a plan. `todo` is None when it cannot be told, `rate` when the stage has never run."""

    stage: str
    cached: int
    todo: float | None
    exact: bool
    rate: Rate | None
    gpus: float

    @property
    def seconds(self) -> float | None:
        """Seconds inside the stage, over all workers."""
        if self.todo == 0:
            return 0.0
        return None if self.todo is None or self.rate is None else self.todo * self.rate.seconds

    @property
    def bytes(self) -> float | None:
        if self.todo == 0:
            return 0.0
        return None if self.todo is None or self.rate is None else self.todo * self.rate.bytes


@dataclass(frozen=True)
class Plan:
    """All stages, and the sums over those that can be told; `unknown` names the others."""

    stages: tuple[StagePlan, ...]
    wall_s: float
    """Measuring alone: starting, deciding and packing come on top."""
    gpu_hours: float
    bytes: float
    cost: float
    unknown: tuple[str, ...]

    @property
    def idle(self) -> bool:
        """Whether no model would run at all."""
        return all(stage.todo == 0 for stage in self.stages)


def predict(
    pipeline: Pipeline,
    standings: Mapping[str, StageStanding],
    unseen: Unseen,
    rates: Mapping[str, Rate | None],
    cores: float,
    prices: Prices,
) -> Plan:
    """The plan for these standings, with `cores` processor cores for all workers.

    Pools work side by side, so measuring takes as long as the slowest pool, and no less than all processor time spread
    over the cores; before that, each pool waits for the first batch of the one before it.
    """
    todo = _expected(pipeline, standings, unseen)
    stages = tuple(
        StagePlan(
            stage=name,
            cached=standings[name].stored + standings[name].failed,
            todo=todo[name],
            exact=not standings[name].behind,
            rate=rates.get(name),
            gpus=step.resources.gpus,
        )
        for step in pipeline.steps
        for name in (step.stage.name,)
    )
    by_name = {stage.stage: stage for stage in stages}
    slowest = max(
        sum(by_name[step.stage.name].seconds or 0.0 for step in pool) / pool[0].resources.most_workers
        for pool in pools(pipeline.steps)
    )
    filling = sum(
        min(pool[0].resources.batch, stage.todo or 0.0) * stage.rate.seconds
        for pool in pools(pipeline.steps)[:-1]
        for step in pool
        if (stage := by_name[step.stage.name]).rate
    )
    cpu = sum((stage.todo or 0.0) * stage.rate.cpu_seconds for stage in stages if stage.rate)
    gpu_hours = sum((stage.seconds or 0.0) * stage.gpus for stage in stages) / 3600
    return Plan(
        stages=stages,
        wall_s=max(slowest, cpu / cores) + filling,
        gpu_hours=gpu_hours,
        bytes=sum(stage.bytes or 0.0 for stage in stages),
        cost=cpu / 3600 * prices.cpu_hour + gpu_hours * prices.gpu_hour,
        unknown=tuple(stage.stage for stage in stages if stage.seconds is None),
    )


def _expected(pipeline: Pipeline, standings: Mapping[str, StageStanding], unseen: Unseen) -> dict[str, float | None]:
    """Rows each stage will measure: those that wait for it, and of those further back the share that gates let in.

    A gate is taken to let in the share of rows that it let in so far.
    """
    todo: dict[str, float | None] = {}
    coming = 0.0
    for step in pipeline.source_steps:
        coming += standings[step.stage.name].waiting
        todo[step.stage.name] = coming
    clips = unseen.clips
    share = share_behind = 1.0
    waited = False
    before = StageStanding()
    for number, step in enumerate(pipeline.clip_steps):
        here = standings[step.stage.name]
        entered = here.stored + here.failed + here.waiting
        refused = max(0, here.spared - before.spared - before.failed) if number else 0
        admitted = entered / (entered + refused) if entered + refused else 1.0
        share *= admitted
        share_behind *= admitted if waited else 1.0
        known = here.waiting + max(0, here.behind - unseen.sources) * share_behind
        todo[step.stage.name] = None if clips is None else known + clips * share
        waited = waited or here.waiting > 0
        before = here
    return todo


def stored_rate(measurements: Measurements, stage: str, ledgers: Sequence[Ledger]) -> Rate | None:
    """The mean over the first of these ledgers that holds a result which is no failure."""
    for ledger in ledgers:
        good = ~ledger.failed
        if good.any():
            parts = {ledger.files[number] for number in np.unique(ledger.part)}
            sizes = measurements.store.sizes(stage)
            return Rate(
                seconds=float(ledger.seconds[good].mean()),
                cpu_seconds=float(ledger.cpu_seconds[good].mean()),
                bytes=sum(sizes.get(part, 0) for part in parts) / len(ledger),
            )
    return None


def before_gates(pipeline: Pipeline) -> frozenset[str]:
    """The stages whose records a plan must read: those of the sources, for the cut, and those before the last gate."""
    last = max((n for n, step in enumerate(pipeline.steps) if step.admit), default=0)
    steps: Sequence[Step] = pipeline.steps[: max(last, len(pipeline.source_steps))]
    return frozenset(step.stage.name for step in steps)
