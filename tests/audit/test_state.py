"""Folding events: what is in force for one auditor, and what all of them make of a sample."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit_samples import sample
from dataengine.audit.events import Event, Undo, Verdict
from dataengine.audit.repairs import DeleteEntity, MoveAttribute, Relabel, repaired
from dataengine.audit.state import SampleState, by_sample, fold, settle
from dataengine.records import Pair

AT = datetime(2026, 11, 27, tzinfo=UTC)
ACCEPT, REJECT, UNSURE = (Verdict(verdict=v) for v in ("accept", "reject", "unsure"))
RENAME = Relabel(entity="s0.a0", text="tie")


def events(*done: tuple[str, object], key: str = "k") -> list[Event]:
    return [Event(id=i, at=AT, auditor=who, key=key, action=what) for i, (who, what) in enumerate(done, 1)]


@pytest.fixture(scope="module")
def pair() -> Pair:
    return sample(1, 2).pair


def test_the_last_verdict_in_force_counts() -> None:
    done = events(("a", ACCEPT), ("a", Verdict(verdict="reject", reasons=("swap",))), ("b", UNSURE))
    states = fold(done)
    assert (states["k", "a"].verdict, states["k", "a"].reasons) == ("reject", ("swap",))
    assert states["k", "b"].verdict == "unsure"
    undone = states["k", "a"].after(Event(id=4, at=AT, auditor="a", key="k", action=Undo(event=2)))
    assert (undone.verdict, undone.reasons) == ("accept", ())


def test_repairs_in_force_keep_their_order() -> None:
    drop = DeleteEntity(entity="bg")
    state = fold(events(("a", RENAME), ("a", drop), ("a", ACCEPT), ("a", Undo(event=1))))["k", "a"]
    assert state.repairs == (drop,)
    assert state.says == "wrong"
    assert fold(events(("a", RENAME), ("a", Undo(event=1))))["k", "a"].says is None


def test_an_event_of_somebody_else_is_refused() -> None:
    with pytest.raises(ValueError, match="b's on k"):
        SampleState(key="k", auditor="a").after(events(("b", ACCEPT))[0])


@given(st.lists(st.sampled_from([ACCEPT, REJECT, RENAME, DeleteEntity(entity="bg")]), min_size=1), st.data())
def test_undoing_gives_back_the_state_before(actions: list[object], data: st.DataObject) -> None:
    done = events(*(("a", action) for action in actions))
    before = fold(done)["k", "a"]
    more = data.draw(st.lists(st.sampled_from([ACCEPT, UNSURE, RENAME]), max_size=4))
    added = [Event(id=100 + i, at=AT, auditor="a", key="k", action=action) for i, action in enumerate(more)]
    undone = [Event(id=200 + i, at=AT, auditor="a", key="k", action=Undo(event=e.id)) for i, e in enumerate(added)]
    assert fold([*done, *added, *undone])["k", "a"] == before
    # One of them taken back is as if it had never been.
    gone = data.draw(st.sampled_from(done))
    without = fold([e for e in done if e != gone]).get(("k", "a"), SampleState(key="k", auditor="a"))
    undo = Event(id=300, at=AT, auditor="a", key="k", action=Undo(event=gone.id))
    assert before.after(undo) == without


def outcome(pair: Pair, *done: tuple[str, object]):
    return settle(pair, by_sample(fold(events(*done))).get("k", ()))


def test_one_auditor_decides(pair: Pair) -> None:
    assert outcome(pair).fate == "undecided"
    assert outcome(pair, ("a", UNSURE)).fate == "undecided"
    kept = outcome(pair, ("a", ACCEPT))
    assert (kept.fate, kept.pair, kept.events) == ("kept", pair, (1,))
    gone = outcome(pair, ("a", Verdict(verdict="reject", reasons=("swap",))))
    assert (gone.fate, gone.pair, gone.reason) == ("rejected", None, "a: reject, swap")
    mended = outcome(pair, ("a", RENAME))
    assert (mended.fate, mended.pair, mended.repairs) == ("repaired", repaired(pair, [RENAME]), (RENAME,))
    assert outcome(pair, ("a", RENAME), ("a", REJECT)).fate == "rejected"


def test_the_most_votes_win_and_a_tie_leaves_the_sample_out(pair: Pair) -> None:
    assert outcome(pair, ("a", ACCEPT), ("b", REJECT)).fate == "disputed"
    assert outcome(pair, ("a", ACCEPT), ("b", REJECT), ("c", UNSURE)).fate == "disputed"
    assert outcome(pair, ("a", ACCEPT), ("b", REJECT), ("c", REJECT)).fate == "rejected"
    assert outcome(pair, ("a", ACCEPT), ("b", REJECT), ("c", ACCEPT)).fate == "kept"
    # To accept and to repair are not the same, and two repairs agree when they lead to the same pair.
    assert outcome(pair, ("a", ACCEPT), ("b", RENAME)).fate == "disputed"
    other = Relabel(entity="s0.a0", text="bow")
    mended = outcome(pair, ("a", RENAME), ("b", other), ("b", RENAME), ("c", ACCEPT))
    assert (mended.fate, mended.events) == ("repaired", (1, 2, 3))


def test_repairs_that_build_on_an_undone_one_leave_the_sample_out(pair: Pair) -> None:
    two = next(s.pair for s in (sample(n, 2) for n in range(9)) if len(s.pair.subjects[1].attributes) < 3)
    number = len(two.subjects[1].attributes)
    done = (
        ("a", MoveAttribute(entity="s0.a0", subject=1)),
        ("a", Relabel(entity=f"s1.a{number}", text="tie")),
        ("a", Undo(event=1)),
    )
    found = outcome(two, *done)
    assert (found.fate, found.pair) == ("unappliable", None)
    assert f"s1.a{number}" in found.reason
