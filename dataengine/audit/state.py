"""What is in force: events folded into what each auditor says of each sample, and what all of them say together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

from dataengine.audit.events import Event, ReasonCode, Undo, Verdict
from dataengine.audit.repairs import Cuts, Repair, RepairRefused, nothing_stored, repaired
from dataengine.records import Pair, Record


class SampleState(Record):
    """What one auditor says of one sample: the events that were not undone, in order."""

    key: str
    auditor: str
    events: tuple[Event, ...] = ()

    def after(self, event: Event) -> SampleState:
        """The state one event later. Raises `ValueError` for an event of somebody else or on another sample."""
        if (event.key, event.auditor) != (self.key, self.auditor):
            mine = f"{self.auditor}'s on {self.key}"
            raise ValueError(f"event {event.id} is {event.auditor}'s on {event.key}, not {mine}")
        if isinstance(event.action, Undo):
            kept = tuple(e for e in self.events if e.id != event.action.event)
        else:
            kept = (*self.events, event)
        return SampleState.model_construct(key=self.key, auditor=self.auditor, events=kept)

    @property
    def last_verdict(self) -> Verdict | None:
        return next((e.action for e in reversed(self.events) if isinstance(e.action, Verdict)), None)

    @property
    def verdict(self) -> Literal["accept", "reject", "unsure"] | None:
        return None if self.last_verdict is None else self.last_verdict.verdict

    @property
    def reasons(self) -> tuple[ReasonCode, ...]:
        return () if self.last_verdict is None else self.last_verdict.reasons

    @property
    def repairs(self) -> tuple[Repair, ...]:
        """The repairs in force, in the order they were made."""
        return tuple(e.action for e in self.events if not isinstance(e.action, (Verdict, Undo)))

    @property
    def says(self) -> Literal["right", "wrong"] | None:
        """Of the sample as it is: right when accepted without a repair, wrong when rejected or repaired; None else."""
        if self.verdict == "unsure" or (self.verdict is None and not self.repairs):
            return None
        return "right" if self.verdict == "accept" and not self.repairs else "wrong"


States = Mapping[tuple[str, str], SampleState]
"""By key and auditor."""


def fold(events: Iterable[Event]) -> dict[tuple[str, str], SampleState]:
    """The states after all events, which come in the order of their ids."""
    states: dict[tuple[str, str], SampleState] = {}
    for event in events:
        place = (event.key, event.auditor)
        states[place] = (states.get(place) or SampleState(key=event.key, auditor=event.auditor)).after(event)
    return states


def by_sample(states: States) -> dict[str, tuple[SampleState, ...]]:
    """All auditors' states of each sample that anybody has an event in force on."""
    found: dict[str, list[SampleState]] = {}
    for state in states.values():
        if state.events:
            found.setdefault(state.key, []).append(state)
    return {key: tuple(sorted(group, key=lambda state: state.auditor)) for key, group in found.items()}


class Outcome(NamedTuple):
    """What becomes of a sample, why, and which events decided it."""

    fate: Literal["kept", "repaired", "rejected", "disputed", "unappliable", "undecided"]
    pair: Pair | None
    """The sample as it goes on; None when it does not."""
    repairs: tuple[Repair, ...]
    events: tuple[int, ...]
    reason: str


def settle(pair: Pair, states: Sequence[SampleState], cuts: Cuts = nothing_stored) -> Outcome:
    """One sample's fate from what all auditors say of it.

    Everyone who judged the sample has one vote: to reject it, or for the sample as they repaired it (as it is, when
    they accepted it without a repair). Who is unsure, or has no event in force, has none. The most votes win; at a tie
    the sample is left out as disputed: a dataset without it is smaller, with it perhaps wrong. Repairs that no longer
    apply (something they build on was undone) leave it out as well.
    """
    votes: dict[str, list[SampleState]] = {}
    results: dict[str, Pair | None] = {}
    for state in states:
        if state.says is None:
            continue
        try:
            result = None if state.verdict == "reject" else repaired(pair, state.repairs, cuts)
        except RepairRefused as error:
            return Outcome("unappliable", None, (), _ids([state]), f"{state.auditor}: {error}")
        name = "reject" if result is None else result.to_json()
        votes.setdefault(name, []).append(state)
        results[name] = result
    if not votes:
        return Outcome("undecided", pair, (), (), "nobody has judged it")
    ranked = Counter({name: len(group) for name, group in votes.items()}).most_common()
    (name, most), others = ranked[0], ranked[1:]
    if others and others[0][1] == most:
        told = [f"{s.auditor}: {_told(s)}" for group in votes.values() for s in group]
        return Outcome("disputed", None, (), _ids(s for group in votes.values() for s in group), "; ".join(told))
    group, result = votes[name], results[name]
    reason = "; ".join(f"{state.auditor}: {_told(state)}" for state in group)
    if result is None:
        return Outcome("rejected", None, (), _ids(group), reason)
    if not group[0].repairs or result == pair:
        return Outcome("kept", result, (), _ids(group), reason)
    return Outcome("repaired", result, group[0].repairs, _ids(group), reason)


def _ids(states: Iterable[SampleState]) -> tuple[int, ...]:
    return tuple(sorted(event.id for state in states for event in state.events))


def _told(state: SampleState) -> str:
    return ", ".join((state.verdict or "repaired", *state.reasons, *(repair.type for repair in state.repairs)))
