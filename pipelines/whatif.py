"""What rules would change: every stored clip is judged again by them, and nothing is written but missing facts."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain, compress
from multiprocessing import get_context

import numpy as np

from dataengine import config
from dataengine.config import BuildSettings, ConfigError, FilterRules
from dataengine.decide.draft import Draft
from dataengine.decide.duplicates import surplus
from dataengine.engine.measurements import Measurements, ledgers
from dataengine.engine.sources import Each
from dataengine.records import Rejected
from dataengine.store import Store
from pipelines.cache import last_run, settings_of_run
from pipelines.decide import stopped
from pipelines.facts import FactStore, Group, Known, grouped
from pipelines.inventory import read_forgotten, read_inventory
from pipelines.stages import Decisions, compose
from pipelines.verdicts import KEPT, QUARANTINED

LARGE = 20_000
"""Clips from which on several processes are quicker than one: each needs seconds to start."""

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


def what_if(output: str, changes: Sequence[str]) -> WhatIf:
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
    for group in groups:
        facts.prepare(group, stored)
    with _tasks(run.clips) as tasks:
        judged = list(tasks(partial(_judge, facts, tuple(decided)), groups))
    outlooks = [_outlook([group[n] for group in judged], v.decide.filters) for n, v in enumerate(variants)]
    base, *others = outlooks
    names = [*changes, *(["all together"] if len(changes) > 1 else [])]
    return WhatIf(
        clips=len(base.verdicts),
        kept=base.kept,
        subjects=base.subjects,
        attributes=base.attributes,
        changes=tuple(_change(name, base, other) for name, other in zip(names, others, strict=True)),
    )


def changed(settings: BuildSettings, changes: Sequence[str]) -> BuildSettings:
    """The settings with changes of rules, whose prefix `decide.` may be left out. Raises `ConfigError`."""
    keys = [change if change.startswith("decide.") else f"decide.{change}" for change in changes]
    for key in keys:
        if not key.startswith(("decide.filters.", "decide.block.")):
            raise ConfigError(f"{key}: what-if judges by decide.filters.* and decide.block.*, for instance {EXAMPLE}")
    return config.changed(settings, keys)


@contextmanager
def _tasks(clips: int) -> Iterator[Each]:
    """What maps over groups: this process alone, or one a core where that is worth starting them."""
    workers = os.cpu_count() or 1
    if clips < LARGE or workers < 2:
        yield map
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield pool.map


@dataclass(frozen=True)
class _Judged:
    """The verdicts on a group's clips under one set of rules."""

    verdicts: list[str]
    subjects: list[int]
    attributes: list[int]
    hashes: dict[int, tuple[str, tuple[str, ...]]]
    """Of kept clips, where duplicates are asked for: id and hashes, by place."""

    def add(self, known: Known, verdict: Draft | str, rules: FilterRules) -> None:
        subjects = [] if isinstance(verdict, str) else verdict.subjects
        if subjects and rules.clip_duplicate_bits is not None and known.clip and known.pictures:
            self.hashes[len(self.verdicts)] = (known.clip.clip_id, known.pictures.hashes or ())
        self.verdicts.append(verdict if isinstance(verdict, str) else KEPT)
        self.subjects.append(len(subjects))
        self.attributes.append(sum(len(somebody.attributes) for somebody in subjects))


def _judge(facts: FactStore, variants: Sequence[Decisions], group: Group) -> list[_Judged]:
    """A group under every set of rules: its facts are read once, and drafted once where drafts cannot differ."""
    blocked = any(decisions.block.faces is not None for decisions in variants)
    judged = [_Judged([], [], [], {}) for _ in variants]
    drafted_by = [_drafted_by(decisions.settings.decide.filters) for decisions in variants]
    for known in facts.read(group, vectors=blocked):
        if known.clip is None:
            continue
        drafts: dict[str, Draft | str] = {}
        for one, decisions, key in zip(judged, variants, drafted_by, strict=True):
            verdict: Draft | str | None = _refused(known, decisions)
            if verdict is None:
                if key not in drafts:
                    drafts[key] = _drafted(known, decisions)
                verdict = drafts[key]
            one.add(known, verdict, decisions.settings.decide.filters)
    return judged


def _drafted_by(rules: FilterRules) -> str:
    """The rules that drafts depend on: all but those on pictures."""
    return repr([(name, value) for name, value in rules if not name.startswith("clip_")])


def _refused(known: Known, decisions: Decisions) -> str | None:
    """The rule that stops a clip before it is drafted."""
    stage, fate = stopped(known, decisions)
    if isinstance(fate, Rejected):
        return fate.rule
    if fate is not None:
        return QUARANTINED
    return WAITS if stage is not None or known.facts is None else None


def _drafted(known: Known, decisions: Decisions) -> Draft | str:
    assert known.pictures is not None and known.facts is not None
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
    kept = [verdict == KEPT for verdict in verdicts]
    return Outlook(
        verdicts=tuple(verdicts),
        subjects=sum(compress(chain.from_iterable(group.subjects for group in judged), kept)),
        attributes=sum(compress(chain.from_iterable(group.attributes for group in judged), kept)),
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
