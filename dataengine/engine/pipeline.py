"""What the engine runs: stages in order, the decision that cuts a source into clips, and the decision at the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from dataengine.config import Resources
from dataengine.records import Clip, Record, Rejected
from dataengine.stage import Row, Stage, fingerprints


@dataclass(frozen=True)
class Step:
    """A stage, where it runs, and an optional gate that spares it (and every stage after it) rows nobody will keep.

    `admit` is a pure decision on what was measured so far; it returns the refusal, or None to let the row in.
    """

    stage: Stage
    resources: Resources
    admit: Callable[[Row], Rejected | None] | None = None
    admit_reads: tuple[type[Record], ...] = ()
    """What the gate looks at, beside what the stage itself reads."""


def pools(steps: Sequence[Step]) -> list[tuple[Step, ...]]:
    """Steps by the worker processes they share: a fused step joins the pool of the step before it."""
    grouped: list[tuple[Step, ...]] = []
    for step in steps:
        if step.resources.fused and grouped:
            grouped[-1] += (step,)
        else:
            grouped.append((step,))
    return grouped


@dataclass(frozen=True)
class Pipeline:
    """Sources go through `source_steps`, `cut` makes clips of each, clips go through `clip_steps`, `finish` decides.

    `finish` reads any record, without its media, and returns a `verdict`.
    """

    source_steps: tuple[Step, ...]
    cut: Callable[[Row], Sequence[Clip]]
    clip_steps: tuple[Step, ...]
    finish: Callable[[Row], Record]
    verdict: type[Record]

    @property
    def steps(self) -> tuple[Step, ...]:
        return self.source_steps + self.clip_steps

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        """Fingerprint of every stage by name. Raises `ValueError` when a stage reads what none before it writes."""
        return fingerprints([step.stage for step in self.steps])

    def __getstate__(self) -> dict[str, Any]:
        """With the fingerprints as they are here: another process's machine may lack the weights of other stages."""
        return {**self.__dict__, "fingerprints": self.fingerprints}

    @cached_property
    def writers(self) -> dict[type[Record], str]:
        """The stage that writes each kind of record."""
        return {step.stage.writes: step.stage.name for step in self.steps}

    def readers_after(self, name: str, kind: type[Record]) -> list[str]:
        """The stages behind stage `name` that read `kind`, or whose gates do."""
        names = [step.stage.name for step in self.steps]
        later = self.steps[names.index(name) + 1 :]
        return [step.stage.name for step in later if kind in step.stage.reads or kind in step.admit_reads]
