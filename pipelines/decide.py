"""Decides on every clip from stored facts alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray

from dataengine.config import DecideSettings
from dataengine.decide import ownership
from dataengine.decide.ownership import Elected
from dataengine.engine.cargo import Cargo, Fate, quarantined
from dataengine.engine.measurements import Ledger
from dataengine.engine.run import each
from dataengine.engine.survey import CUT, Census, StageStanding, Standing
from dataengine.records import Clip, Pair, Rejected, SourceVideo
from dataengine.stage import Row
from pipelines import verdicts
from pipelines.facts import FactStore, Group, Known
from pipelines.stages import GATED, Decisions


@dataclass(frozen=True)
class Reached:
    """What stored measurements allowed to say of a group."""

    stages: dict[str, StageStanding]
    waiting: tuple[SourceVideo, ...]
    clips: int
    """That wait."""


@dataclass(frozen=True)
class Decider:
    """Decides on one group; sent to Ray's workers."""

    facts: FactStore
    ledgers: tuple[ray.ObjectRef, ...]

    def __call__(self, group: Group) -> Reached:
        return decide_group(self.facts, ray.get(self.ledgers[0]), group)


def decide_group(facts: FactStore, ledgers: Mapping[str, Ledger], group: Group) -> Reached:
    """Write the verdicts of one group."""
    census = Census(facts.pipeline)
    waiting: dict[str, SourceVideo] = {}
    clips = 0
    stages = [step.stage.name for step in facts.pipeline.steps]

    def rows() -> Iterator[dict[str, Any]]:
        nonlocal clips
        for known in facts.known(group, ledgers, vectors=facts.decisions.block.faces is not None):
            standing = standing_of(known, facts.decisions, stages)
            census.add(standing)
            if standing.waits:
                waiting[known.source.source_id] = known.source
                clips += 1
            else:
                yield _verdict(known, standing, facts.decisions)

    verdicts.write(facts.store, group.number, rows(), folder_of(facts.decisions))
    return Reached(census.stages, tuple(waiting.values()), clips)


def decide(facts: FactStore, ledgers: Mapping[str, Ledger], groups: Sequence[Group]) -> dict[int, Reached]:
    """Write the verdicts of these groups; returns what each lacks, by its number."""
    decider = Decider(facts, (ray.put(dict(ledgers)),))
    return {group.number: reached for group, reached in zip(groups, each(decider, groups), strict=True)}


def folder_of(decisions: Decisions) -> str:
    """Where verdicts on single clips go: they are the last word unless the corpus as a whole is to be looked at."""
    return verdicts.ALONE if looks_at_the_corpus(decisions.settings.decide) else verdicts.DECIDED


def looks_at_the_corpus(rules: DecideSettings) -> bool:
    return rules.filters.clip_duplicate_bits is not None or knows_people(rules)


def knows_people(rules: DecideSettings) -> bool:
    return rules.pairs.split_by == "identity" or rules.pairs.cross_clip_share > 0


def stopped(known: Known, decisions: Decisions) -> tuple[str | None, Fate | None]:
    """At which stage a row stands under these rules, and what stops it there."""
    if known.pictures is not None and known.clip is not None:
        refusal = decisions.refusal(known.source, known.clip, known.pictures, known.faces())
        return (GATED, refusal) if refusal else (known.stage, known.fate)
    reason = decisions.block.check_source(known.source)
    if reason is None:
        return known.stage, known.fate
    clip = known.clip or Clip.of(known.source.source_id, 0.0, 0.0)
    return known.stage, Rejected(clip=clip, rule=reason.rule, detail=reason.detail)


def standing_of(known: Known, decisions: Decisions, stages: Sequence[str]) -> Standing:
    """The row as a survey with today's gates would find it."""
    stage, fate = stopped(known, decisions)
    ahead: frozenset[str] = frozenset()
    if stage is not None and fate is None and stage != CUT:
        behind = range(stages.index(stage) + 1, len(stages))
        ahead = frozenset(stages[number] for number in behind if known.stored >> number & 1)
    return Standing(Cargo(Row(known.source, known.clip), fate), stage, ahead)


def _verdict(known: Known, standing: Standing, decisions: Decisions) -> dict[str, Any]:
    row, fate = standing.cargo.row, standing.cargo.fate
    if fate is not None:
        return verdicts.row_of(fate)
    assert known.clip is not None and known.pictures is not None and known.facts is not None
    try:
        decision = decisions.decide(known.source, known.clip, known.pictures, known.facts)
    except Exception as error:
        return verdicts.row_of(quarantined(row, "decide", error))
    outcome = decision.outcome
    persons: list[int] = []
    if isinstance(outcome, Pair):
        owners = ownership.name_subjects(known.facts.subjects, decisions.settings.decide.filters)
        persons = [owner.person for s in outcome.subjects if isinstance(owner := owners[s.index], Elected)]
    return verdicts.row_of(outcome, decision.dropped, persons)
