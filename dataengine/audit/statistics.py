"""What a dataset holds, in numbers: counted once over all samples, without keeping any."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from pydantic import Field

from dataengine.audit.checks import QUESTIONS, Finding
from dataengine.audit.wording import shortened
from dataengine.records import Pair, Record, StageProvenance

MOST_PHRASES = 15
MOST_FAILED = 1000
"""Failed findings that are kept one by one; all are counted."""


class Bin(NamedTuple):
    """A bar of a histogram: how many values lie in start … end (half open, the last one closed)."""

    start: float
    end: float
    values: int


class Histogram(Record):
    """How a quantity is distributed. For whole numbers every bar is one value and `end` equals `start`."""

    title: str
    unit: str
    total: int
    median: float
    bins: tuple[Bin, ...]


class CheckTally(Record):
    """How often a check ran and failed."""

    check: str
    question: str = Field(description="what holds when it passes")
    checked: int
    failed: int


class FailedSample(Record):
    key: str
    findings: tuple[Finding, ...]


class PhraseCount(NamedTuple):
    text: str
    uses: int


class StageUse(Record):
    """One way in which a measurement of the dataset's samples was made."""

    stage: StageProvenance
    samples: int


class Statistics(Record):
    """Counts and distributions over all samples that could be read."""

    samples: int
    train: int
    val: int
    subjects: int
    attributes: int
    objects: int
    backgrounds: int
    clip_seconds: float
    sources: int
    distributions: tuple[Histogram, ...]
    phrases: tuple[PhraseCount, ...]
    checks: tuple[CheckTally, ...]
    failed_samples: int
    failed: tuple[FailedSample, ...] = Field(description="most failures first; at most 1000 samples")
    made_by: tuple[StageUse, ...]
    unreadable: tuple[str, ...] = Field(description="what is wrong with samples that could not be decoded")


class Tally:
    """Counts sample after sample."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._sources: set[str] = set()
        self._seconds: list[float] = []
        self._subjects: list[int] = []
        self._attributes: list[int] = []
        self._faces: list[float] = []
        self._areas: list[float] = []
        self._risks: list[float] = []
        self._sharpness: list[float] = []
        self._leads: list[float] = []
        self._phrases: Counter[str] = Counter()
        self._checked: Counter[str] = Counter()
        self._failures: Counter[str] = Counter()
        self._failed: list[FailedSample] = []
        self._stages: Counter[str] = Counter()
        self._unreadable: list[str] = []

    def add(self, pair: Pair, findings: Sequence[Finding], risk: float = 0.0) -> None:
        """Count a sample, what the checks said of it, and the risk that follows."""
        self._counts.update(
            {
                "samples": 1,
                pair.split: 1,
                "objects": len(pair.objects),
                "backgrounds": int(pair.background is not None),
                "failed": int(any(not finding.passed for finding in findings)),
            }
        )
        self._sources.add(pair.clip.source_id)
        self._seconds.append(pair.frames / pair.fps)
        self._risks.append(risk)
        self._sharpness += [finding.score for finding in findings if finding.check == "face_sharp"]
        self._leads += [finding.score for finding in findings if finding.check == "swap_alarm"]
        self._subjects.append(len(pair.subjects))
        for subject in pair.subjects:
            self._attributes.append(len(subject.attributes))
            self._faces.append(min(subject.face.box.width, subject.face.box.height))
            self._areas += [100 * attribute.area_share for attribute in subject.attributes]
            self._phrases.update(shortened(attribute.phrase.text, 60).lower() for attribute in subject.attributes)
        self._stages.update(stage.to_json() for stage in pair.provenance.stages)
        self._checked.update(finding.check for finding in findings)
        failures = tuple(finding for finding in findings if not finding.passed)
        self._failures.update(finding.check for finding in failures)
        if failures and len(self._failed) < MOST_FAILED:
            self._failed.append(FailedSample(key=pair.key, findings=failures))

    def add_unreadable(self, problem: str) -> None:
        self._unreadable.append(problem)

    def result(self) -> Statistics:
        counts = self._counts
        return Statistics(
            samples=counts["samples"],
            train=counts["train"],
            val=counts["val"],
            subjects=sum(self._subjects),
            attributes=sum(self._attributes),
            objects=counts["objects"],
            backgrounds=counts["backgrounds"],
            clip_seconds=sum(self._seconds),
            sources=len(self._sources),
            distributions=(
                whole("Subjects in a sample", "", self._subjects),
                whole("Attributes of a subject", "", self._attributes),
                spread("Clip length", "s", self._seconds),
                spread("Short side of a face", "px", self._faces),
                spread("Sharpness of a face", "", self._sharpness),
                spread("Area of an attribute", "%", self._areas),
                spread("Lead of an owner", "", self._leads),
                spread("Risk of a sample", "", self._risks),
            ),
            # Ties in alphabetic order: the same dataset gives the same report.
            phrases=tuple(
                PhraseCount(text, count)
                for text, count in sorted(self._phrases.items(), key=lambda item: (-item[1], item[0]))[:MOST_PHRASES]
            ),
            checks=tuple(
                CheckTally(check=check, question=question, checked=self._checked[check], failed=self._failures[check])
                for check, question in QUESTIONS.items()
            ),
            failed_samples=counts["failed"],
            failed=tuple(sorted(self._failed, key=lambda sample: (-len(sample.findings), sample.key))),
            made_by=tuple(
                StageUse(stage=StageProvenance.from_json(stage), samples=samples)
                for stage, samples in sorted(self._stages.items())
            ),
            unreadable=tuple(self._unreadable),
        )


def whole(title: str, unit: str, values: Sequence[int]) -> Histogram:
    """One bar for every whole number from the least value to the greatest."""
    counts = Counter(values)
    numbers = range(min(values), max(values) + 1) if values else range(0)
    bins = tuple(Bin(number, number, counts[number]) for number in numbers)
    return Histogram(title=title, unit=unit, total=len(values), median=_median(values), bins=bins)


def spread(title: str, unit: str, values: Sequence[float], most: int = 14) -> Histogram:
    """At most `most` bars of one round width (1, 2 or 5 times a power of ten) that start at a multiple of it."""
    if not values:
        return Histogram(title=title, unit=unit, total=0, median=0, bins=())
    low, high = min(values), max(values)
    width = _round_width((high - low) or abs(high) or 1.0, most)
    first = np.floor(low / width)
    edges = (first + np.arange(np.floor((high - first * width) / width) + 2)) * width
    counts, edges = np.histogram(values, edges)
    bins = tuple(
        Bin(round(float(a), 9), round(float(b), 9), int(c))
        for a, b, c in zip(edges[:-1], edges[1:], counts, strict=True)
    )
    return Histogram(title=title, unit=unit, total=len(values), median=_median(values), bins=bins)


def _round_width(extent: float, most: int) -> float:
    """The least 1, 2 or 5 · 10ⁿ that covers `extent` in fewer than `most` steps."""
    power = 10.0 ** np.floor(np.log10(extent / most))
    return float(next(step * power for step in (1, 2, 5, 10, 20) if extent / (step * power) < most - 1))


def _median(values: Sequence[float]) -> float:
    return round(float(np.median(values)), 4) if values else 0.0
