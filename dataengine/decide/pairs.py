"""From what was measured on a clip to its training pair, or to the rule that refuses it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dataengine.config import DecideSettings
from dataengine.decide import references
from dataengine.decide.draft import Draft, Left, Somebody, Tie, draft
from dataengine.decide.facts import Facts, Measured, PictureFacts, facts_of, pictures_of
from dataengine.decide.references import Candidate
from dataengine.decide.splits import split_of
from dataengine.records import (
    Clip,
    Decision,
    Dropped,
    Kind,
    Pair,
    Phrase,
    Provenance,
    Reason,
    Reference,
    Rejected,
    Relation,
    Subject,
)


@dataclass(frozen=True)
class Case:
    """A clip that a decision is made on."""

    clip: Clip
    source_names: tuple[str, ...]
    pictures: PictureFacts
    facts: Facts
    licence: str | None = None


def decide_pair(measured: Measured, provenance: Provenance, rules: DecideSettings, seed: int) -> Decision:
    """The clip's pair, or its `Rejected`, and everything that the pair goes without; from measurements.

    Raises `ValueError` when the stills, masks and the encoded clip differ in size.
    """
    pictures = pictures_of(measured.clip, measured.people, measured.quality)
    case = Case(measured.clip, measured.source_names, pictures, facts_of(measured))
    return decide(case, provenance, rules, seed)


def decide(case: Case, provenance: Provenance, rules: DecideSettings, seed: int) -> Decision:
    """The same from facts.

    Entities keep the numbers of the measurements: a pair may have `s1` without `s0`, or `s0.a1` without `s0.a0`.
    """
    made = draft(case.pictures, case.facts, rules.filters)
    if isinstance(made, Reason):
        return _decision(Rejected(clip=case.clip, rule=made.rule, detail=made.detail), ())
    if made.refusal is not None:
        refused = Rejected(clip=case.clip, rule=made.refusal.rule, detail=made.refusal.detail)
        return _decision(refused, made.left)
    return _decision(_Writer(case, made, rules, seed).pair(provenance), made.left)


def _decision(outcome: Pair | Rejected, left: Sequence[Left]) -> Decision:
    dropped = tuple(
        Dropped(entity=entity, phrase=phrase, rule=reason.rule, detail=reason.detail, witnesses=witnesses)
        for entity, phrase, reason, witnesses in left
    )
    # Not validated again: a pair's own check of its spans is a third of what deciding costs.
    return Decision.model_construct(outcome=outcome, dropped=dropped)


class _Writer:
    """Writes a draft down as the record that goes into a shard."""

    def __init__(self, case: Case, made: Draft, rules: DecideSettings, seed: int) -> None:
        self._case, self._draft, self._rules, self._seed = case, made, rules, seed

    def pair(self, provenance: Provenance) -> Pair:
        clip, facts, draft = self._case.clip, self._case.facts, self._draft
        subjects = tuple(self._subject(somebody) for somebody in draft.subjects)
        return Pair(
            key=clip.clip_id,
            split=split_of(clip.source_id, self._rules.pairs.val_share),
            pairing="in_clip",
            clip=clip,
            source_names=self._case.source_names,
            width=facts.width,
            height=facts.height,
            fps=facts.fps,
            frames=facts.frames,
            caption=facts.caption,
            subjects=subjects,
            objects=tuple(self._reference(tie, "object") for tie in draft.objects),
            background=None if draft.background is None else self._reference(draft.background, "background"),
            relations=self._relations(subjects),
            quality=self._case.pictures.quality,
            licence=self._case.licence,
            provenance=provenance,
        )

    def _subject(self, somebody: Somebody) -> Subject:
        return Subject(
            index=somebody.index,
            noun=self._phrase(somebody.face),
            face=self._reference(somebody.face, "face"),
            attributes=tuple(self._reference(tie, "attribute") for tie in somebody.attributes),
            body=None if somebody.body is None else self._reference(somebody.body, "body"),
            owner_share=somebody.owner.share,
            likeness=somebody.person.likeness,
        )

    def _relations(self, subjects: Sequence[Subject]) -> tuple[Relation, ...]:
        """What each witness says of every attribute and every subject: who else could have been the owner."""
        return tuple(
            self._relation(tie, reference.still, rival)
            for somebody, subject in zip(self._draft.subjects, subjects, strict=True)
            for tie, reference in zip(somebody.attributes, subject.attributes, strict=True)
            for rival in self._draft.subjects
        )

    def _relation(self, tie: Tie, still: int, rival: Somebody) -> Relation:
        mask = next(mask for mask in self._case.facts.masks[tie.entity] if mask.still == still)
        votes, person = tie.words.votes, rival.owner.person
        return Relation(
            attribute=tie.entity,
            subject=rival.index,
            votes=votes.get(person, 0.0) if votes else None,
            inside=mask.inside.get(person),
        )

    def _phrase(self, tie: Tie) -> Phrase:
        return Phrase(text=tie.span.of(self._case.facts.caption), span=tie.span)

    def _reference(self, tie: Tie, kind: Kind) -> Reference:
        how, clip_id = self._rules.pairs.still, self._case.clip.clip_id
        best = references.choose(tie.candidates, how, self._seed, clip_id, tie.entity)
        face: Candidate | None = best if kind == "face" else None
        return Reference(
            entity=tie.entity,
            kind=kind,
            phrase=self._phrase(tie),
            member=f"{tie.entity}.png",
            mask_member=None if kind in ("face", "background") else f"{tie.entity}.mask.png",
            still=best.still,
            time_s=self._case.facts.still_times_s[best.still],
            box=best.box,
            area_share=best.area_share,
            score=best.score,
            sharpness=face and face.sharpness,
            frontal=face and face.frontal,
            visible=face and face.visible,
        )
