"""A whole dataset against the truth of its videos: metrics with intervals, by number of people and by hard case."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import Field

from dataengine.records import Record
from dataengine.shards.reader import PairDataset
from dataengine.store import Store
from dataengine.world.judge import VISIBLE, Score, judge
from dataengine.world.make import VideoTruth
from dataengine.world.recognised import Recognised, purity

CUT_S = 0.25
"""How far a found cut may be from a true one."""
RESAMPLES = 2000
ALL = "all"
_F1 = ("shots", "who wears what")
"""Metrics that weigh what was said against what is true; the others are shares of what was asked for."""


class Metric(Record):
    """A figure with its bootstrap interval of 95 %, resampled by video."""

    name: str
    group: str = Field(description="`all`, a number of people, or a hard case")
    value: float
    low: float
    high: float
    asked: float = Field(description="how many it is of")
    videos: int


class Evaluation(Record):
    """`evaluation.json`."""

    videos: int
    shots: int
    samples: int
    unmatched: int = Field(description="samples whose clip lies in no shot of the truth")
    wrong: int = Field(description="samples with a tie, a face or a noun that is wrong")
    wrong_among_riskiest: float | None = Field(
        description="share of them in the riskiest tenth of the audit's queue; None without wrong ones or a queue"
    )
    metrics: tuple[Metric, ...]


def evaluate(
    out: Store,
    truths: Mapping[str, VideoTruth],
    cuts: Mapping[str, Sequence[float]],
    people: Sequence[Recognised] = (),
) -> Evaluation:
    """Judge every sample of a dataset that was built from the world.

    Args:
        truths: by the video's file name.
        cuts: found shot changes in seconds, by the same names; videos without an entry do not count for shots.
        people: everybody who was followed through a clip.

    Raises:
        ValueError: none of the dataset's sources has a truth.
        StoreError: there is no dataset.
    """
    parts: dict[tuple[str, str], dict[str, list[Score]]] = defaultdict(lambda: defaultdict(list))
    seen: dict[str, set[tuple[int, str]]] = defaultdict(set)
    wrong: list[str] = []
    samples = unmatched = 0
    dataset = PairDataset(out)
    for sample in (dataset[i] for i in range(len(dataset))):
        name = next((PurePath(n).name for n in sample.pair.source_names if PurePath(n).name in truths), None)
        if name is None:
            continue
        samples += 1
        judged = judge(sample, truths[name])
        if judged is None:
            unmatched += 1
            wrong.append(sample.pair.key)
            continue
        for metric, score in judged.scores.items():
            for group in _groups(judged.subjects, judged.hard):
                parts[metric, group][name].append(score)
        shot = _shot_of(truths[name], (sample.pair.clip.start_s + sample.pair.clip.end_s) / 2)
        seen[name] |= {(shot, who) for who in judged.seen}
        if judged.wrong:
            wrong.append(sample.pair.key)
    if not samples:
        raise ValueError(f"{out.uri}: no sample is from a video of this truth ({len(truths)} videos)")
    for name, truth in truths.items():
        for group, score in _recall(truth, seen[name]):
            parts["subjects", group][name].append(score)
        if name in cuts:
            parts["shots", ALL][name].append(_cuts(cuts[name], truth.cuts_s))
    for metric, name, score in purity(people):
        parts[metric, ALL][name].append(score)
    draw = np.random.default_rng(0)
    return Evaluation(
        videos=len(truths),
        shots=sum(len(truth.shots) for truth in truths.values()),
        samples=samples,
        unmatched=unmatched,
        wrong=len(wrong),
        wrong_among_riskiest=_among_riskiest(out, wrong),
        metrics=tuple(
            _metric(name, group, videos, draw)
            for (name, group), videos in sorted(parts.items())
            if any(score.true or score.said for scores in videos.values() for score in scores)
        ),
    )


def _groups(people: int, hard: Iterable[str]) -> tuple[str, ...]:
    return (ALL, f"{people} {'person' if people == 1 else 'people'}", *hard)


def _shot_of(truth: VideoTruth, time_s: float) -> int:
    return min(range(len(truth.shots)), key=lambda i: abs(time_s - (truth.shots[i].start_s + truth.shots[i].end_s) / 2))


def _recall(truth: VideoTruth, seen: set[tuple[int, str]]) -> Iterable[tuple[str, Score]]:
    """People of each shot whose face is seen in its middle, and whether some sample has them as a subject."""
    for number, shot in enumerate(truth.shots):
        middle = truth.at((shot.start_s + shot.end_s) / 2)
        faces = {mask.entity for mask in middle.masks if mask.box.area >= VISIBLE} if middle else set()
        there = [person.identity for i, person in enumerate(shot.people) if f"s{i}.face" in faces]
        score = Score(sum((number, who) in seen for who in there), len(there), len(there))
        for group in _groups(len(shot.people), shot.hard):
            yield group, score


def _cuts(found: Sequence[float], true: Sequence[float]) -> Score:
    """Each true cut takes the nearest found one that is near enough and free."""
    free = sorted(found)
    right = 0
    for cut in true:
        near = min(free, key=lambda at: abs(at - cut), default=None)
        if near is not None and abs(near - cut) <= CUT_S:
            free.remove(near)
            right += 1
    return Score(right, len(found), len(true))


def _metric(name: str, group: str, videos: Mapping[str, Sequence[Score]], draw: np.random.Generator) -> Metric:
    sums = np.array([np.sum(scores, axis=0) for scores in videos.values()], dtype=float)
    weights = draw.multinomial(len(sums), np.full(len(sums), 1 / len(sums)), size=RESAMPLES)
    resampled = _value(name, weights @ sums)
    low, high = np.nanquantile(resampled, (0.025, 0.975)) if np.isfinite(resampled).any() else (np.nan, np.nan)
    value = float(_value(name, sums.sum(axis=0, keepdims=True))[0])
    return Metric(
        name=name,
        group=group,
        value=round(value, 4),
        low=round(float(low), 4),
        high=round(float(high), 4),
        asked=float(sums[:, 2].sum()),
        videos=len(sums),
    )


def _value(name: str, sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """F1 where too much can be said, else the share of what was asked for; 1 where nothing was."""
    right, said, true = sums.T
    total = (said + true) / 2 if name in _F1 else true
    return np.divide(right, total, out=np.ones_like(right), where=total > 0)


def _among_riskiest(out: Store, wrong: Sequence[str]) -> float | None:
    if not wrong or not out.exists("risk.parquet"):
        return None
    with out.open_input("risk.parquet") as stream:
        table = pq.read_table(stream, columns=["key", "risk"])
    ranked = [row["key"] for row in sorted(table.to_pylist(), key=lambda row: -row["risk"])]
    riskiest = set(ranked[: max(1, -(-len(ranked) // 10))])
    return sum(key in riskiest for key in wrong) / len(wrong)
