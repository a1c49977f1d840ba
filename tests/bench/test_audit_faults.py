"""The planted-fault bench in small, with floors."""

from __future__ import annotations

import pytest

from audit_faults_cpu import FAULTS, Measured, measure


@pytest.fixture(scope="module")
def measured() -> Measured:
    return measure(len(FAULTS), seed=500, clean=8)


def test_faults_are_found_and_clean_samples_pass(measured: Measured) -> None:
    total = sum(measured.planted.values())
    assert sum(measured.caught.values()) / total >= 0.9
    alarms = sum(risk > 0 for risk, kind, _ in measured.risks if not kind) / measured.clean
    assert alarms <= 0.25  # two of eight


@pytest.mark.parametrize(
    ("kind", "check"),
    [
        ("swapped_attributes", "swap_alarm"), ("swapped_with_votes", "swap_alarm"), ("moved_attribute", "swap_alarm"),
        ("shifted_mask", "mask_inside_box"), ("stale_span", "phrase_at_span"),
        ("other_identity", "reference_from_clip"), ("pasted_face", "subjects_differ"),
        ("person_in_background", "background_empty"),
    ],
)  # fmt: skip
def test_each_kind_is_found_by_its_check(measured: Measured, kind: str, check: str) -> None:
    assert measured.found[kind][check] == measured.planted[kind]
    assert measured.alarms(check) <= 0.13  # one of eight


def test_the_risk_puts_faults_first(measured: Measured) -> None:
    assert measured.top(0.3) >= 0.95
    assert measured.top(0.6) >= 0.85
