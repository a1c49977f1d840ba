"""Honeypots: samples with a planted fault, shown among the others, that measure how many faults an auditor finds.

A fault is planted into the record alone, by a pure function of sample and seed; nothing of it is ever written into a
shard. A honeypot has a key of its own that looks like any other, so its verdicts lie in the log like all the rest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from itertools import combinations
from random import Random
from typing import NamedTuple

from dataengine.audit.repairs import Repaired, changed
from dataengine.audit.state import SampleState
from dataengine.records import Pair, Record, Reference, Relation, Subject


class Honeypot(NamedTuple):
    """A planted sample: the key under which it is shown, and the sample it is made of."""

    key: str
    of: str


def honeypot_key(seed: int, key: str) -> str:
    """The key under which the planted copy of a sample is shown."""
    return hashlib.sha256(f"honeypot {seed} {key}".encode()).hexdigest()[:24]


def honeypots(keys: Iterable[str], seed: int, share: float) -> tuple[Honeypot, ...]:
    """The planted copies among a queue of `keys`: about `share` of them, always the same for one seed."""
    limit = round(share * 2**64)
    return tuple(
        Honeypot(honeypot_key(seed, key), key)
        for key in keys
        if int.from_bytes(hashlib.sha256(f"planted {seed} {key}".encode()).digest()[:8], "big") < limit
    )


def plant(pair: Pair, seed: int) -> Repaired | None:
    """The sample with two attributes exchanged, under its honeypot's key; None for one that has no two to exchange.

    Attributes of two subjects are exchanged where there are any, pictures and words together, as a wrong vote would
    have it; else the words of two attributes of one subject. What the witnesses say follows the fault, or the score
    matrix would give it away. `origins` says from which entity each picture comes.
    """
    random = Random(f"{seed} {pair.key}")
    attributes = [(s.index, a) for s in pair.subjects for a in s.attributes]
    choices = list(combinations(attributes, 2))
    between = [(a, b) for a, b in choices if a[0] != b[0]]
    if not choices:
        return None
    (owner, one), (rival, other) = random.choice(between or choices)
    key = honeypot_key(seed, pair.key)
    origins = {r.entity: r.entity for r in pair.references}
    if owner == rival:
        words = {one.entity: changed(one, phrase=other.phrase), other.entity: changed(other, phrase=one.phrase)}
        return Repaired(changed(_exchange(pair, words), key=key), origins, {})
    there = {one.entity: _named(other, one), other.entity: _named(one, other)}
    names, columns = {one.entity: other.entity, other.entity: one.entity}, {owner: rival, rival: owner}
    pair = _exchange(pair, there)
    relations = tuple(_followed(relation, names, columns) for relation in pair.relations)
    return Repaired(changed(pair, key=key, relations=relations), origins | names, {})


def _exchange(pair: Pair, there: dict[str, Reference]) -> Pair:
    def attributes(subject: Subject) -> Subject:
        return changed(subject, attributes=tuple(there.get(a.entity, a) for a in subject.attributes))

    return changed(pair, subjects=tuple(attributes(subject) for subject in pair.subjects))


def _named(reference: Reference, place: Reference) -> Reference:
    """A reference under the names of the one whose place it takes."""
    return changed(reference, entity=place.entity, member=place.member, mask_member=place.mask_member)


def _followed(relation: Relation, names: dict[str, str], columns: dict[int, int]) -> Relation:
    """What the witnesses said of an exchanged attribute, as if they had been wrong as well."""
    if relation.attribute not in names:
        return relation
    return changed(
        relation, attribute=names[relation.attribute], subject=columns.get(relation.subject, relation.subject)
    )


class Recall(Record):
    """How many planted faults an auditor has found."""

    auditor: str
    seen: int
    found: int

    @property
    def share(self) -> float | None:
        return self.found / self.seen if self.seen else None


def recalls(states: Iterable[SampleState], keys: Sequence[str], seed: int) -> tuple[Recall, ...]:
    """Each auditor's recall on the honeypots of a dataset with these `keys`. To be unsure is not to have found it."""
    planted = {honeypot_key(seed, key) for key in keys}
    seen: dict[str, list[bool]] = {}
    for state in states:
        if state.key in planted and state.events and (state.verdict is not None or state.repairs):
            seen.setdefault(state.auditor, []).append(state.says == "wrong")
    return tuple(Recall(auditor=name, seen=len(all_), found=sum(all_)) for name, all_ in sorted(seen.items()))
