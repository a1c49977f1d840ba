"""One number a sample, by which the queue is ranked: about how likely it is that a person finds the sample wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from dataengine.audit.checks import READABLE, Finding
from dataengine.config import RiskWeights


class Risk(NamedTuple):
    """0…1, and the failed checks, the heaviest first."""

    risk: float
    failed: tuple[str, ...]


def risk_of(findings: Sequence[Finding], weights: RiskWeights) -> Risk:
    """1 − Π (1 − weight) over all failed checks: each is an independent reason to doubt.

    A check that failed on several entities counts once more for half of its weight, whatever their number. Among
    samples of the same failed checks nothing is ranked. A sample that cannot be read has the risk 1.
    """
    times: dict[str, int] = {}
    for finding in findings:
        if not finding.passed:
            times[finding.check] = times.get(finding.check, 0) + 1
    ranked = sorted(times, key=lambda check: (-weight_of(check, weights), check))
    innocent = 1.0
    for check in ranked:
        weight = weight_of(check, weights)
        innocent *= (1 - weight) * (1 - weight / 2 if times[check] > 1 else 1)
    return Risk(round(1 - innocent, 6), tuple(ranked))


def weight_of(check: str, weights: RiskWeights) -> float:
    """What a failed check weighs."""
    return 1.0 if check == READABLE else float(getattr(weights, check, weights.other))
