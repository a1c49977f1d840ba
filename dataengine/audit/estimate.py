"""How wrong a dataset is, how sure that is, and how good those are who say so.

Only the random stratum speaks of the dataset: the queue that is ranked by risk finds faults, and would make any
dataset look worse than it is. Samples of one source video resemble each other, so the interval counts them as fewer.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Literal, NamedTuple

import numpy as np

from dataengine.audit.honeypots import Recall, honeypot_key, recalls
from dataengine.audit.state import SampleState, States, by_sample
from dataengine.config import AuditSettings, SamplingPlan
from dataengine.records import Record

MOST_SAMPLES = 20_000
"""A plan that asks for more is refused."""


class Judged(NamedTuple):
    """A sample of the random stratum that somebody has judged."""

    source_id: str
    wrong: bool


class Estimate(Record):
    """The share of wrong samples in a dataset, from its random stratum."""

    judged: int
    wrong: int
    sources: int
    effective: float
    """Independent samples that would tell as much."""
    rate: float
    low: float
    high: float
    confidence: float


def clopper_pearson(wrong: float, judged: float, confidence: float) -> tuple[float, float]:
    """The exact two-sided interval of a share of which `wrong` of `judged` were seen (Clopper & Pearson, 1934).

    By quantiles of the beta distribution, so `judged` may be an effective number that is not whole.
    Raises `ValueError` unless 0 ≤ wrong ≤ judged and judged > 0.
    """
    from scipy.stats import beta

    if not 0 <= wrong <= judged or judged <= 0:
        raise ValueError(f"{wrong} of {judged} is no share")
    tail = (1 - confidence) / 2
    low = 0.0 if wrong == 0 else float(beta.ppf(tail, wrong, judged - wrong + 1))
    high = 1.0 if wrong == judged else float(beta.ppf(1 - tail, wrong + 1, judged - wrong))
    return low, high


def effective_size(judged: Sequence[Judged], confidence: float) -> float:
    """How many independent samples tell as much as these, of which several may come from one source.

    The design effect is the variance of the rate between sources over that of independent samples, at least 1, with
    the degrees of freedom of the sources (Korn & Graubard, *Survey Methodology* 24, 1998). Where all samples are alike
    nothing can be said of it: then a source counts as one sample, the least that is certain.
    """
    from scipy.stats import t

    total, wrong = len(judged), sum(one.wrong for one in judged)
    by_source: dict[str, list[bool]] = defaultdict(list)
    for one in judged:
        by_source[one.source_id].append(one.wrong)
    sources = len(by_source)
    if sources == total:
        return float(total)
    if sources == 1 or wrong in (0, total):
        return float(sources)
    rate = wrong / total
    between = sum((sum(bad) - rate * len(bad)) ** 2 for bad in by_source.values())
    variance = sources / (sources - 1) * between / total**2
    effect = max(1.0, variance / (rate * (1 - rate) / total))
    tail = (1 + confidence) / 2
    freedom = (t.ppf(tail, total - 1) / t.ppf(tail, sources - 1)) ** 2
    return min(float(total), total / effect * float(freedom))


def estimate(judged: Sequence[Judged], confidence: float) -> Estimate | None:
    """The rate of wrong samples with its interval; None before anything was judged."""
    if not judged:
        return None
    wrong = sum(one.wrong for one in judged)
    rate, size = wrong / len(judged), effective_size(judged, confidence)
    low, high = clopper_pearson(rate * size, size, confidence)
    sources = len({one.source_id for one in judged})
    return Estimate(
        judged=len(judged),
        wrong=wrong,
        sources=sources,
        effective=size,
        rate=rate,
        low=low,
        high=high,
        confidence=confidence,
    )


class Acceptance(NamedTuple):
    """Look at `samples` of the random stratum; accept the dataset with at most `wrong` wrong ones among them."""

    samples: int
    wrong: int


def acceptance_plan(plan: SamplingPlan) -> Acceptance:
    """The least samples, and the most wrong ones among them, that keep both risks.

    A dataset with `good_rate` wrong is accepted with probability `accept_good` or more, one with `bad_rate` with
    `accept_bad` or less (single sampling by attributes, binomial). Raises `ValueError` when more than 20,000 samples
    would be needed.
    """
    from scipy.stats import binom

    wrong, samples = 0, 1
    while samples <= MOST_SAMPLES:
        if binom.cdf(wrong, samples, plan.bad_rate) > plan.accept_bad:
            # Too few to see a bad dataset. The next number that could do is found by halving: cdf falls with samples.
            low, high = samples, samples * 2
            while binom.cdf(wrong, high, plan.bad_rate) > plan.accept_bad:
                low, high = high, high * 2
            while high - low > 1:
                middle = (low + high) // 2
                if binom.cdf(wrong, middle, plan.bad_rate) > plan.accept_bad:
                    low = middle
                else:
                    high = middle
            samples = high
        if binom.cdf(wrong, samples, plan.good_rate) >= plan.accept_good:
            return Acceptance(samples, wrong)
        wrong += 1
    raise ValueError(
        f"more than {MOST_SAMPLES} samples would have to be looked at: let good_rate={plan.good_rate} and "
        f"bad_rate={plan.bad_rate} lie further apart"
    )


Decision = Literal["accept", "reject", "continue"]


def decide(plan: Acceptance, judged: Sequence[Judged]) -> Decision:
    """What the first samples of the random stratum, in its order, say so far; as soon as nothing can change it."""
    first = judged[: plan.samples]
    wrong = sum(one.wrong for one in first)
    if wrong > plan.wrong:
        return "reject"
    return "accept" if wrong + plan.samples - len(first) <= plan.wrong else "continue"


# --- Those who judge --------------------------------------------------------------------------------------------------


def cohen_kappa(one: Sequence[str], other: Sequence[str]) -> float | None:
    """Agreement of two auditors on the same samples beyond chance (Cohen, 1960); None where chance alone agrees.

    Raises `ValueError` for sequences of different length.
    """
    pairs = list(zip(one, other, strict=True))
    if not pairs:
        return None
    total = len(pairs)
    agreed = sum(a == b for a, b in pairs) / total
    first, second = Counter(one), Counter(other)
    chance = sum(first[label] * second[label] for label in first) / total**2
    return None if chance == 1 else (agreed - chance) / (1 - chance)


def fleiss_kappa(labels: Sequence[Sequence[str]]) -> float | None:
    """Agreement of any number of auditors: for each sample, what those said who judged it (Fleiss, 1971).

    Samples that one auditor alone has judged are left out; where samples were judged by different numbers, each
    counts once. None where chance alone agrees, or nothing was judged twice.
    """
    several = [list(one) for one in labels if len(one) > 1]
    if not several:
        return None
    names = sorted({label for one in several for label in one})
    counts = np.array([[one.count(name) for name in names] for one in several], float)
    raters = counts.sum(axis=1)
    agreed = float((((counts**2).sum(axis=1) - raters) / (raters * (raters - 1))).mean())
    shares = counts.sum(axis=0) / counts.sum()
    chance = float((shares**2).sum())
    return None if np.isclose(chance, 1) else (agreed - chance) / (1 - chance)


class AuditorNumbers(Record):
    """What one auditor has done."""

    auditor: str
    accepted: int
    rejected: int
    unsure: int
    repaired: int


class Agreement(Record):
    """How far two auditors agree on what both have judged."""

    one: str
    other: str
    samples: int
    kappa: float | None


class AuditNumbers(Record):
    """All that the events say of a dataset."""

    samples: int
    judged: int
    """Samples that anybody has said something of, honeypots left out."""
    plan: Acceptance
    plan_settings: SamplingPlan
    decision: Decision
    estimate: Estimate | None
    unsure: int
    """Samples of the judged random stratum that count as wrong because nobody was sure, or as many said so as not."""
    auditors: tuple[AuditorNumbers, ...]
    recalls: tuple[Recall, ...]
    agreements: tuple[Agreement, ...]
    fleiss: float | None


class Drawn(NamedTuple):
    """A sample by its place in the random order."""

    key: str
    source_id: str


def audit_numbers(drawn: Sequence[Drawn], states: States, settings: AuditSettings) -> AuditNumbers:
    """The numbers of an audit. `drawn` are all samples of the dataset in the order of their random ranks.

    The random stratum reaches from the first sample to the last before one that nobody has looked at: skipping would
    choose. A sample counts as wrong when no more auditors find it right than wrong; repairing it says that it was.
    """
    keys = [one.key for one in drawn]
    planted = {honeypot_key(settings.seed, key) for key in keys}
    real = {place: state for place, state in states.items() if state.key not in planted}
    samples = by_sample(real)
    judged, unsure = _judged(drawn, samples)
    plan = acceptance_plan(settings.plan)
    return AuditNumbers(
        samples=len(drawn),
        judged=len(samples.keys() & set(keys)),
        plan=plan,
        plan_settings=settings.plan,
        decision=decide(plan, judged),
        estimate=estimate(judged, settings.plan.confidence),
        unsure=unsure,
        auditors=_auditors(real.values()),
        recalls=recalls(states.values(), keys, settings.seed),
        agreements=_agreements(samples),
        fleiss=fleiss_kappa([[_label(state) for state in group] for group in samples.values()]),
    )


def _judged(drawn: Iterable[Drawn], samples: Mapping[str, Sequence[SampleState]]) -> tuple[list[Judged], int]:
    judged: list[Judged] = []
    unsure = 0
    for one in drawn:
        if one.key not in samples:
            break
        labels = Counter(_label(state) for state in samples[one.key])
        unsure += labels["right"] <= labels["wrong"] and labels["wrong"] <= labels["right"]
        judged.append(Judged(one.source_id, labels["right"] <= labels["wrong"]))
    return judged, unsure


def _label(state: SampleState) -> str:
    return state.says or "unsure"


def _auditors(states: Iterable[SampleState]) -> tuple[AuditorNumbers, ...]:
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for state in states:
        if state.events:
            counts[state.auditor][state.verdict or "none"] += 1
            counts[state.auditor]["repaired"] += bool(state.repairs)
    return tuple(
        AuditorNumbers(
            auditor=name,
            accepted=count["accept"],
            rejected=count["reject"],
            unsure=count["unsure"],
            repaired=count["repaired"],
        )
        for name, count in sorted(counts.items())
    )


def _agreements(samples: Mapping[str, Sequence[SampleState]]) -> tuple[Agreement, ...]:
    labels: dict[tuple[str, str], tuple[list[str], list[str]]] = defaultdict(lambda: ([], []))
    for group in samples.values():
        for one, other in combinations(group, 2):
            ours, theirs = labels[one.auditor, other.auditor]
            ours.append(_label(one))
            theirs.append(_label(other))
    return tuple(
        Agreement(one=one, other=other, samples=len(ours), kappa=cohen_kappa(ours, theirs))
        for (one, other), (ours, theirs) in sorted(labels.items())
    )
