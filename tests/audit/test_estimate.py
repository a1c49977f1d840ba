"""Statistics of an audit, against scipy, scikit-learn and brute force."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import cohen_kappa_score

from dataengine.audit.estimate import (
    Acceptance,
    Drawn,
    Judged,
    acceptance_plan,
    audit_numbers,
    clopper_pearson,
    cohen_kappa,
    decide,
    effective_size,
    estimate,
    fleiss_kappa,
)
from dataengine.audit.events import Event, Verdict
from dataengine.audit.honeypots import honeypot_key
from dataengine.audit.repairs import Relabel
from dataengine.audit.state import fold
from dataengine.config import AuditSettings, SamplingPlan


@given(st.integers(1, 400), st.data(), st.sampled_from([0.9, 0.95, 0.99]))
def test_the_interval_is_scipys(judged: int, data: st.DataObject, confidence: float) -> None:
    wrong = data.draw(st.integers(0, judged))
    expected = stats.binomtest(wrong, judged).proportion_ci(confidence, "exact")
    assert clopper_pearson(wrong, judged, confidence) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_no_error_in_299_is_under_one_percent() -> None:
    low, high = clopper_pearson(0, 299, 0.90)  # two-sided 90 %: one-sided 95 %
    assert (low, high) == (0.0, pytest.approx(0.01, abs=1e-4))
    for wrong, judged in ((-1, 5), (6, 5), (0, 0)):
        with pytest.raises(ValueError, match="no share"):
            clopper_pearson(wrong, judged, 0.95)


def test_the_interval_covers_as_often_as_it_says() -> None:
    """By the binomial's own probabilities, without sampling."""
    for judged, rate in product((20, 60), (0.02, 0.1, 0.5)):
        chance = stats.binom.pmf(np.arange(judged + 1), judged, rate)
        inside = [low <= rate <= high for low, high in (clopper_pearson(k, judged, 0.95) for k in range(judged + 1))]
        assert chance @ np.array(inside) >= 0.95


def samples_of(rng: np.random.Generator, sources: int, each: int, rate: float, alike: float) -> list[Judged]:
    """Sources whose samples are, with probability `alike`, all as the source is, else each on its own."""
    found = []
    for source in range(sources):
        common = rng.random() < rate
        for _ in range(each):
            found.append(Judged(str(source), bool(common if rng.random() < alike else rng.random() < rate)))
    return found


def test_one_sample_a_source_is_the_plain_interval() -> None:
    judged = [Judged(str(i), i < 7) for i in range(100)]
    found = estimate(judged, 0.95)
    assert found is not None
    assert (found.judged, found.wrong, found.sources, found.effective, found.rate) == (100, 7, 100, 100.0, 0.07)
    assert (found.low, found.high) == pytest.approx(clopper_pearson(7, 100, 0.95))
    assert estimate([], 0.95) is None


@pytest.mark.parametrize("alike", [0.0, 0.6, 1.0])
def test_samples_of_one_source_count_as_fewer(alike: float) -> None:
    """The interval covers the truth as often as it says, where a plain one would not."""
    rng = np.random.default_rng(5)
    rate, inside, plain, sizes = 0.15, 0, 0, []
    for _ in range(200):
        judged = samples_of(rng, 40, 5, rate, alike)
        found = estimate(judged, 0.95)
        assert found is not None
        inside += found.low <= rate <= found.high
        low, high = clopper_pearson(found.wrong, found.judged, 0.95)
        plain += low <= rate <= high
        sizes.append(found.effective)
    assert inside / 200 >= 0.94
    if alike == 1:
        assert plain / 200 < 0.75  # what the correction is for
        assert np.median(sizes) == pytest.approx(40, rel=0.2)
    if alike == 0:
        assert np.median(sizes) > 150


def test_where_all_are_alike_a_source_is_one_sample() -> None:
    judged = [Judged(str(i // 4), False) for i in range(40)]
    assert effective_size(judged, 0.95) == 10
    assert effective_size([Judged("only", True), Judged("only", False)], 0.95) == 1


# --- Acceptance -------------------------------------------------------------------------------------------------------


def brute_plan(plan: SamplingPlan) -> Acceptance:
    for n in range(1, 3000):
        for c in range(40):
            good = stats.binom.cdf(c, n, plan.good_rate) >= plan.accept_good
            if good and stats.binom.cdf(c, n, plan.bad_rate) <= plan.accept_bad:
                return Acceptance(n, c)
    raise AssertionError


def test_the_known_plan() -> None:
    assert acceptance_plan(SamplingPlan()) == Acceptance(132, 3)
    assert stats.binom.cdf(3, 132, 0.01) >= 0.95
    assert stats.binom.cdf(3, 132, 0.05) <= 0.10


@pytest.mark.parametrize(("good", "bad"), [(0.02, 0.1), (0.05, 0.2), (0.01, 0.3)])
def test_plans_are_the_smallest(good: float, bad: float) -> None:
    plan = SamplingPlan(good_rate=good, bad_rate=bad)
    assert acceptance_plan(plan) == brute_plan(plan)


def test_rates_too_near_are_refused() -> None:
    with pytest.raises(ValueError, match="further apart"):
        acceptance_plan(SamplingPlan(good_rate=0.01, bad_rate=0.0102))
    with pytest.raises(ValueError, match="lie under"):
        SamplingPlan(good_rate=0.1, bad_rate=0.05)


@settings(max_examples=60)
@given(st.lists(st.booleans(), max_size=30))
def test_decisions_never_change_later(wrong: list[bool]) -> None:
    plan = Acceptance(20, 2)
    judged = [Judged(str(i), bad) for i, bad in enumerate(wrong)]
    so_far = [decide(plan, judged[:n]) for n in range(len(judged) + 1)]
    final = [d for d in so_far if d != "continue"]
    assert len(set(final)) <= 1
    if len(judged) >= 20:
        assert so_far[-1] == ("accept" if sum(wrong[:20]) <= 2 else "reject")


def test_the_plan_keeps_its_risks() -> None:
    """The operating characteristic by simulation of whole audits."""
    rng = np.random.default_rng(3)
    plan = acceptance_plan(SamplingPlan())
    for rate, least, most in ((0.01, 0.93, 1.0), (0.05, 0.0, 0.13)):
        audits = [[Judged(str(i), bool(b)) for i, b in enumerate(rng.random(132) < rate)] for _ in range(500)]
        accepted = sum(decide(plan, audit) == "accept" for audit in audits) / 500
        assert least <= accepted <= most


# --- Agreement --------------------------------------------------------------------------------------------------------

LABELS = st.sampled_from(["right", "wrong", "unsure"])


@given(st.lists(st.tuples(LABELS, LABELS), min_size=2, max_size=60))
def test_cohen_is_scikit_learns(pairs: list[tuple[str, str]]) -> None:
    one, other = zip(*pairs, strict=True)
    ours = cohen_kappa(one, other)
    if ours is None:
        assert len({*one, *other}) == 1
    else:
        assert ours == pytest.approx(cohen_kappa_score(one, other))


def test_fleiss_gives_the_published_example() -> None:
    """Fleiss (1971): ten subjects, fourteen raters, five categories."""
    counts = [
        (0, 0, 0, 0, 14), (0, 2, 6, 4, 2), (0, 0, 3, 5, 6), (0, 3, 9, 2, 0), (2, 2, 8, 1, 1),
        (7, 7, 0, 0, 0), (3, 2, 6, 3, 0), (2, 5, 3, 2, 2), (6, 5, 2, 1, 0), (0, 2, 2, 3, 7),
    ]  # fmt: skip
    labels = [[str(c) for c, n in enumerate(row) for _ in range(n)] for row in counts]
    assert fleiss_kappa(labels) == pytest.approx(0.210, abs=5e-4)
    assert fleiss_kappa([["right"], ["wrong"]]) is None
    assert fleiss_kappa([["right", "right"]] * 3) is None


# --- From events ------------------------------------------------------------------------------------------------------

AT = datetime(2026, 11, 27, tzinfo=UTC)


def numbers_of(done: list[tuple[str, str, object]], total: int = 200):
    drawn = [Drawn(f"k{i}", f"source{i // 2}") for i in range(total)]
    events = [Event(id=i, at=AT, auditor=who, key=key, action=what) for i, (who, key, what) in enumerate(done, 1)]
    return audit_numbers(drawn, fold(events), AuditSettings())


GOOD, BAD, MAYBE = (Verdict(verdict=v) for v in ("accept", "reject", "unsure"))


def test_only_the_random_stratum_is_estimated_from() -> None:
    """Faults from the risk-ranked queue, beyond the first that nobody looked at, change nothing."""
    stratum = [("a", f"k{i}", BAD if i == 4 else GOOD) for i in range(50)]
    queue = [("a", f"k{i}", BAD) for i in range(100, 150)]
    found = numbers_of(stratum + queue)
    assert found.estimate is not None
    assert (found.estimate.judged, found.estimate.wrong, found.estimate.sources) == (50, 1, 25)
    assert (found.judged, found.decision) == (100, "continue")
    assert found.auditors[0].rejected == 51
    assert numbers_of(queue).estimate is None


def test_unsure_disputed_and_repaired_count_as_wrong() -> None:
    mend = Relabel(entity="s0.a0", text="tie")
    done = [("a", "k0", GOOD), ("a", "k1", MAYBE), ("a", "k2", mend), ("a", "k3", GOOD), ("b", "k3", BAD)]
    done += [("a", "k4", GOOD), ("b", "k4", GOOD), ("c", "k4", BAD)]
    found = numbers_of(done)
    assert found.estimate is not None
    assert (found.estimate.judged, found.estimate.wrong, found.unsure) == (5, 3, 2)


def test_verdict_on_a_dataset() -> None:
    clean = [("a", f"k{i}", GOOD) for i in range(132)]
    assert numbers_of(clean).decision == "accept"
    assert numbers_of(clean[:128]).decision == "continue"
    assert numbers_of(clean[:129]).decision == "accept"  # the last three could all be wrong
    assert numbers_of([("a", f"k{i}", BAD) for i in range(4)]).decision == "reject"


def test_honeypots_measure_recall_and_stay_out_of_the_rest() -> None:
    planted = [honeypot_key(0, f"k{i}") for i in range(4)]
    done = [("a", planted[0], BAD), ("a", planted[1], GOOD), ("a", planted[2], MAYBE), ("a", planted[3], Relabel(
        entity="s0.a0", text="tie")), ("a", "k0", GOOD)]  # fmt: skip
    found = numbers_of(done)
    assert [(r.auditor, r.seen, r.found, r.share) for r in found.recalls] == [("a", 4, 2, 0.5)]
    assert found.judged == 1
    assert found.estimate is not None
    assert found.estimate.wrong == 0


def test_agreement_between_auditors() -> None:
    said = {"a": [GOOD, BAD, GOOD, BAD, GOOD], "b": [GOOD, BAD, GOOD, GOOD, GOOD], "c": [BAD, BAD]}
    found = numbers_of([(who, f"k{i}", what) for who, all_ in said.items() for i, what in enumerate(all_)])
    agreed = {(a.one, a.other): (a.samples, a.kappa) for a in found.agreements}
    assert agreed["a", "b"] == (5, pytest.approx(cohen_kappa_score([0, 1, 0, 1, 0], [0, 1, 0, 0, 0])))
    assert agreed["b", "c"][0] == 2
    assert found.fleiss is not None
