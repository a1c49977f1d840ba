"""Decisions that look at more than one clip: near duplicates, who is who in the corpus, splits, cross-clip pairs.

They run after every clip was decided on by itself, and change those verdicts; nothing of it runs unless asked for.
Memory: two bytes a number of every embedding, and the index over them; verdicts are rewritten a file at a time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataengine.config import DecideSettings
from dataengine.decide.cross_clip import Appearance, Garment, Swap, find_swaps, swapped
from dataengine.decide.duplicates import surplus
from dataengine.decide.identities import cluster
from dataengine.decide.splits import components, split_of
from dataengine.engine.measurements import Ledger
from dataengine.records import Clip, Pair, Rejected
from pipelines import verdicts
from pipelines.decide import knows_people
from pipelines.facts import FactStore, Group, Vectors
from pipelines.verdicts import KEPT, Kept, Verdicts


@dataclass
class Revision:
    """How verdicts change, by clip id (splits: by source id)."""

    surplus: dict[str, str] = field(default_factory=dict)
    """Refused, for the clip that is kept in its place."""
    splits: dict[str, str] = field(default_factory=dict)
    swaps: dict[str, tuple[Swap, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class People:
    """Everybody with an embedding in a kept clip."""

    clips: tuple[str, ...]
    sources: tuple[str, ...]
    persons: tuple[int, ...]
    identities: NDArray[np.int64]

    def by_identity(self) -> dict[int, set[str]]:
        """The sources that show each."""
        shown: dict[int, set[str]] = defaultdict(set)
        for identity, source in zip(self.identities.tolist(), self.sources, strict=True):
            shown[identity].add(source)
        return shown


def revise(
    facts: FactStore, ledgers: Mapping[str, Ledger], groups: Sequence[Group], decided: Verdicts, final: Verdicts
) -> None:
    """Write as `final` what the rules say of the corpus as a whole; `decided` are the verdicts on each clip alone."""
    rules, seed = facts.decisions.settings.decide, facts.decisions.settings.seed
    revision = Revision()
    if rules.filters.clip_duplicate_bits is not None:
        revision.surplus = surplus(_hashes(decided), rules.filters.clip_duplicate_bits)
    if knows_people(rules):
        kept = {one.name.key: one for one in decided.kept() if one.name.key not in revision.surplus}
        people = _people(facts, ledgers, groups, kept, rules)
        if rules.pairs.split_by == "identity":
            sources = (source for file in range(decided.files) for source in _sources(decided, file))
            heads = components(sources, people.by_identity())
            revision.splits = {source: split_of(first, rules.pairs.val_share) for source, first in heads.items()}
        if rules.pairs.cross_clip_share > 0:
            shown = list(_appearances(facts, ledgers, groups, decided, people, revision))
            revision.swaps = find_swaps(shown, rules.pairs, seed)
    _rewrite(decided, final, revision)


def _hashes(decided: Verdicts) -> dict[str, Sequence[str]]:
    found: dict[str, Sequence[str]] = {}
    for file in range(decided.files):
        table = decided.columns(file, ["clip_id", "hashes"])
        pairs = zip(table["clip_id"].to_pylist(), table["hashes"].to_pylist(), strict=True)
        found.update((clip_id, hashes) for clip_id, hashes in pairs if hashes)
    return found


def _sources(decided: Verdicts, file: int) -> set[str]:
    return set(decided.columns(file, ["source_id"])["source_id"].to_pylist())


def _people(
    facts: FactStore,
    ledgers: Mapping[str, Ledger],
    groups: Sequence[Group],
    kept: Mapping[str, Kept],
    rules: DecideSettings,
) -> People:
    """Everybody in the kept clips whom an embedding describes, subject or not: a bystander is seen too."""
    clips: list[str] = []
    sources: list[str] = []
    persons: list[int] = []
    embeddings: list[NDArray[np.float16]] = []
    for group in groups:
        of_group: list[NDArray[np.float16]] = []
        for known in facts.known(group, ledgers):
            if known.clip is None or known.clip.clip_id not in kept:
                continue
            for person, values in sorted(known.vectors.faces.items()):
                clips.append(known.clip.clip_id)
                sources.append(known.source.source_id)
                persons.append(person)
                of_group.append(np.frombuffer(values, np.float16))
        if of_group:
            embeddings.append(np.stack(of_group))
    if not embeddings:
        return People((), (), (), np.empty(0, np.int64))
    limits = rules.identities
    labels = cluster(np.concatenate(embeddings), clips, limits.threshold, limits.neighbours)
    return People(tuple(clips), tuple(sources), tuple(persons), labels)


def _appearances(
    facts: FactStore,
    ledgers: Mapping[str, Ledger],
    groups: Sequence[Group],
    decided: Verdicts,
    people: People,
    revision: Revision,
) -> Iterator[Appearance]:
    """Every subject of every kept clip that has an embedding."""
    identity = {
        (clip, person): int(label)
        for clip, person, label in zip(people.clips, people.persons, people.identities, strict=True)
    }
    for group in groups:
        vectors: dict[str, Vectors] = {}
        for known in facts.known(group, ledgers):
            if known.clip is not None and known.vectors.faces:
                vectors[known.clip.clip_id] = known.vectors
        for row in decided.rows(group.number):
            if row["verdict"] != KEPT or row["clip_id"] in revision.surplus or row["clip_id"] not in vectors:
                continue
            pair, seen = Pair.from_json(row["json"]), vectors[row["clip_id"]]
            for subject, person in zip(pair.subjects, row["persons"], strict=True):
                face = seen.face(person)
                if face is None:
                    continue
                yield Appearance(
                    clip_id=pair.clip.clip_id,
                    source_id=pair.clip.source_id,
                    split=revision.splits.get(pair.clip.source_id, pair.split),
                    subject=subject.index,
                    identity=identity[pair.clip.clip_id, person],
                    face=face,
                    garments=tuple(
                        Garment(a.entity, a.phrase.text, seen.look(a.entity, a.still)) for a in subject.attributes
                    ),
                )


def _rewrite(alone: Verdicts, final: Verdicts, revision: Revision) -> None:
    """Write the verdicts as they are in the end. Partners are read as they were decided alone: a reference is always
    cut from the clip that shows it, and never passed on twice."""
    wanted = {swap.clip_id for swaps in revision.swaps.values() for swap in swaps}
    places = {one.name.key: one for one in alone.kept() if one.name.key in wanted}
    for file in range(alone.files):
        rows = list(alone.rows(file))
        keys = sorted({swap.clip_id for row in rows for swap in revision.swaps.get(row["clip_id"], ())})
        others = dict(zip(keys, alone.pairs([places[key] for key in keys]), strict=True))
        verdicts.write(final.store, file, (_revised(row, revision, others) for row in rows), final.folder)


def _revised(row: dict[str, Any], revision: Revision, others: Mapping[str, Pair]) -> dict[str, Any]:
    if row["verdict"] != KEPT:
        return row
    clip_id = row["clip_id"]
    if clip_id in revision.surplus:
        clip = Clip(**{name: row[name] for name in ("clip_id", "source_id", "start_s", "end_s")})
        told = f"its pictures are nearly those of clip {revision.surplus[clip_id]}"
        return verdicts.row_of(Rejected(clip=clip, rule="clip_duplicate_bits", detail=told))
    split = revision.splits.get(row["source_id"], row["split"])
    swaps = revision.swaps.get(clip_id, ())
    if split == row["split"] and not swaps:
        return row
    pair = Pair.from_json(row["json"]).model_copy(update={"split": split})
    pair, dropped = swapped(pair, swaps, others) if swaps else (pair, ())
    fresh = verdicts.row_of(pair, dropped, row["persons"])
    return fresh | {"dropped": row["dropped"] + fresh["dropped"], "disputes": row["disputes"]}
