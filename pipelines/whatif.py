"""What rules would change: every stored clip is judged again by them, and nothing is written but missing facts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from dataengine import config
from dataengine.config import BuildSettings, ConfigError, FilterRules
from dataengine.decide.draft import Draft
from dataengine.decide.duplicates import surplus
from dataengine.engine.measurements import Ledger, Measurements, ledgers
from dataengine.engine.sources import Each
from dataengine.records import Rejected
from dataengine.store import Store
from pipelines.cache import last_run, settings_of_run
from pipelines.decide import stopped
from pipelines.facts import FactStore, Group, Known, grouped
from pipelines.inventory import read_forgotten, read_inventory
from pipelines.stages import Decisions, compose
from pipelines.verdicts import KEPT, QUARANTINED

EXAMPLE = "filters.face_min_px=96"
WAITS = "not measured"
"""The verdict on a clip that a rule now lets on to stages that never looked at it."""


@dataclass(frozen=True)
class Outlook:
    """What becomes of the clips under some rules, in their order."""

    verdicts: tuple[str, ...]
    subjects: int
    attributes: int

    @property
    def kept(self) -> int:
        return self.verdicts.count(KEPT)


@dataclass(frozen=True)
class Change:
    """What one change of the rules (or all together) does to the samples."""

    what: str
    removed: int
    restored: int
    kept: int
    subjects: int
    attributes: int
    refused_by: dict[str, int]
    """The samples that it removes, by the rule that now refuses them."""
    waiting: int
    """Clips that it would let on to stages that never measured them."""


@dataclass(frozen=True)
class WhatIf:
    """Today's rules, and what each change makes of them."""

    clips: int
    kept: int
    subjects: int
    attributes: int
    changes: tuple[Change, ...]


def what_if(output: str, changes: Sequence[str], tasks: Each = map) -> WhatIf:
    """Judge all stored clips by the last build's rules, by each of `changes` (`filters.face_min_px=96`), and by all.

    Raises `ConfigError` for a key that is no rule, `StoreError` when there is no dataset.
    """
    store = Store.at(output)
    run = last_run(store)
    settings = settings_of_run(run)
    variants = [settings, *(changed(settings, [change]) for change in changes)]
    if len(changes) > 1:
        variants.append(changed(settings, changes))
    forgotten = read_forgotten(store)
    decided = [Decisions.of(variant, forgotten) for variant in variants]
    pipeline = compose(settings, decided[0])
    facts = FactStore(store, pipeline, decided[0])
    stored = ledgers(Measurements(store.child("measurements")), pipeline.fingerprints)
    groups = grouped(read_inventory(store).videos)
    judged = list(tasks(partial(_judge, facts, stored, tuple(decided)), groups))
    outlooks = [_outlook([group[n] for group in judged], v.decide.filters) for n, v in enumerate(variants)]
    base, *others = outlooks
    names = [*changes, "all together"]
    return WhatIf(
        clips=len(base.verdicts),
        kept=base.kept,
        subjects=base.subjects,
        attributes=base.attributes,
        changes=tuple(_change(name, base, other) for name, other in zip(names, others, strict=False)),
    )


def changed(settings: BuildSettings, changes: Sequence[str]) -> BuildSettings:
    """The settings with changes of rules, whose prefix `decide.` may be left out. Raises `ConfigError`."""
    keys = [change if change.startswith("decide.") else f"decide.{change}" for change in changes]
    for key in keys:
        if not key.startswith(("decide.filters.", "decide.block.")):
            raise ConfigError(f"{key}: what-if judges by decide.filters.* and decide.block.*, for instance {EXAMPLE}")
    return config.changed(settings, keys)


@dataclass(frozen=True)
class _Judged:
    """The verdicts on a group's clips under one set of rules."""

    verdicts: tuple[str, ...]
    subjects: int
    attributes: int
    hashes: Mapping[int, tuple[str, tuple[str, ...]]]
    """Of kept clips, where duplicates are asked for: id and hashes, by place."""


def _judge(
    facts: FactStore, stored: Mapping[str, Ledger], variants: Sequence[Decisions], group: Group
) -> list[_Judged]:
    """A group under every set of rules: its facts are read once."""
    blocked = any(decisions.block.faces is not None for decisions in variants)
    known = [one for one in facts.known(group, stored, vectors=blocked) if one.clip is not None]
    return [_under(decisions, known) for decisions in variants]


def _under(decisions: Decisions, known: Sequence[Known]) -> _Judged:
    rules = decisions.settings.decide.filters
    verdicts: list[str] = []
    subjects = attributes = 0
    hashes: dict[int, tuple[str, tuple[str, ...]]] = {}
    for at, one in enumerate(known):
        verdict = _verdict(one, decisions)
        verdicts.append(verdict if isinstance(verdict, str) else KEPT)
        if isinstance(verdict, str):
            continue
        subjects += len(verdict.subjects)
        attributes += sum(len(somebody.attributes) for somebody in verdict.subjects)
        if rules.clip_duplicate_bits is not None and one.clip and one.pictures and one.pictures.hashes:
            hashes[at] = (one.clip.clip_id, one.pictures.hashes)
    return _Judged(tuple(verdicts), subjects, attributes, hashes)


def _verdict(known: Known, decisions: Decisions) -> Draft | str:
    """The draft of what is kept, or the rule."""
    stage, fate = stopped(known, decisions)
    if isinstance(fate, Rejected):
        return fate.rule
    if fate is not None:
        return QUARANTINED
    if stage is not None or known.pictures is None or known.facts is None:
        return WAITS
    # The gate has let it in already.
    made = Draft(known.pictures, known.facts, decisions.settings.decide.filters)
    return made if made.refusal is None else made.refusal.rule


def _outlook(judged: Sequence[_Judged], rules: FilterRules) -> Outlook:
    verdicts = [verdict for group in judged for verdict in group.verdicts]
    if rules.clip_duplicate_bits is not None:
        starts = np.cumsum([0, *(len(group.verdicts) for group in judged)])
        places = {
            clip_id: int(start) + at
            for start, group in zip(starts[:-1], judged, strict=True)
            for at, (clip_id, _) in group.hashes.items()
        }
        hashes = {clip_id: seen for group in judged for clip_id, seen in group.hashes.values()}
        for clip_id in surplus(hashes, rules.clip_duplicate_bits):
            verdicts[places[clip_id]] = "clip_duplicate_bits"
    return Outlook(
        verdicts=tuple(verdicts),
        subjects=sum(group.subjects for group in judged),
        attributes=sum(group.attributes for group in judged),
    )


def _change(what: str, base: Outlook, other: Outlook) -> Change:
    pairs = list(zip(base.verdicts, other.verdicts, strict=True))
    removed = Counter(now for was, now in pairs if was == KEPT and now != KEPT)
    return Change(
        what=what,
        removed=removed.total(),
        restored=sum(was != KEPT and now == KEPT for was, now in pairs),
        kept=other.kept,
        subjects=other.subjects,
        attributes=other.attributes,
        refused_by=dict(sorted(removed.items())),
        waiting=sum(was != WAITS and now == WAITS for was, now in pairs),
    )
