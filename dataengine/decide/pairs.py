"""From what was measured on a clip to its training pair, or to the rule that refuses it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from operator import mul

from dataengine import masks, phrases, spans
from dataengine.config import DecideSettings, FilterRules
from dataengine.decide import gates, ownership, references
from dataengine.decide.references import Candidate
from dataengine.decide.splits import split_of
from dataengine.records import (
    Background,
    Box,
    Caption,
    Clip,
    Decision,
    Dropped,
    EncodedClip,
    EntityMask,
    Grounding,
    Kind,
    Mention,
    Pair,
    PairQuality,
    People,
    Person,
    PersonMention,
    Phrase,
    Provenance,
    Quality,
    Reason,
    Reference,
    Rejected,
    Relation,
    Segmentation,
    Sighting,
    Span,
    Stills,
    Subject,
    Vote,
)


@dataclass(frozen=True)
class Measured:
    """All that is known of a clip. Media inside the records are not looked at and may be empty bytes."""

    clip: Clip
    source_names: tuple[str, ...]
    stills: Stills
    people: People
    caption: Caption
    grounding: Grounding
    segmentation: Segmentation
    background: Background
    encoded: EncodedClip
    quality: Quality | None = None


def decide_pair(measured: Measured, provenance: Provenance, rules: DecideSettings, seed: int) -> Decision:
    """The clip's pair, or its `Rejected`, and everything that the pair goes without.

    Entities keep the numbers of the measurements: a pair may have `s1` without `s0`, or `s0.a1` without `s0.a0`.
    Raises `ValueError` when the stills and the encoded clip differ in size: boxes would not fit the clip.
    """
    stills, encoded, caption = measured.stills, measured.encoded, measured.caption
    if (stills.width, stills.height) != (encoded.width, encoded.height):
        raise ValueError(
            f"clip {measured.clip.clip_id}: its stills are {stills.width}x{stills.height} and its encoded frames "
            f"{encoded.width}x{encoded.height}: measure frames and encode again with the same code"
        )
    reason = gates.gate_faces(measured.people, rules.filters)
    if reason is not None:
        return _rejected(measured.clip, reason)
    draft = _Draft(measured, rules, seed)
    subjects = draft.subjects()
    if not subjects:
        first = draft.dropped[0] if draft.dropped else Reason("caption", "the caption names no person")
        return _rejected(measured.clip, Reason(first.rule, f"no subject is left: {first.detail}"), draft.dropped)
    objects, background = draft.objects(), draft.background()
    pair = Pair(
        key=measured.clip.clip_id,
        split=split_of(measured.clip.source_id, rules.pairs.val_share),
        pairing="in_clip",
        clip=measured.clip,
        source_names=measured.source_names,
        width=encoded.width,
        height=encoded.height,
        fps=encoded.fps,
        frames=encoded.frames,
        caption=caption.text,
        subjects=subjects,
        objects=objects,
        background=background,
        relations=draft.relations(subjects),
        quality=pair_quality(measured.quality),
        provenance=provenance,
    )
    return Decision(outcome=pair, dropped=tuple(draft.dropped))


def pair_quality(measured: Quality | None) -> PairQuality:
    """What a pair keeps of its clip's quality: the worst still's values."""
    if measured is None:
        return PairQuality()
    return PairQuality(
        sharpness=min(measured.sharpness),
        brightness=sum(measured.brightness) / len(measured.brightness),
        clipped=max(measured.clipped),
        motion=measured.motion,
        overlay_share=measured.overlay_share,
        aesthetic=measured.aesthetic,
        hashes=measured.hashes,
    )


def likeness(person: Person) -> float | None:
    """Least cosine between the embeddings of a person's sightings; None with fewer than two."""
    known = [s.embedding for s in person.sightings if s.embedding]
    return min((sum(map(mul, a, b)) for a, b in combinations(known, 2)), default=None)


def _rejected(clip: Clip, reason: Reason, dropped: Sequence[Dropped] = ()) -> Decision:
    return Decision(outcome=Rejected(clip=clip, rule=reason.rule, detail=reason.detail), dropped=tuple(dropped))


@dataclass(frozen=True, slots=True)
class _Named:
    """A subject of the caption whose words and person are certain, and whose face is good enough."""

    index: int
    mention: PersonMention
    noun: Phrase
    vote: Vote
    person: Person
    sightings: tuple[Sighting, ...]


@dataclass
class _Draft:
    """A pair in the making: which characters of the caption are taken, and what was left out.

    Words are claimed in the order of the calls: subjects with their attributes, then objects, then the background.
    """

    measured: Measured
    rules: DecideSettings
    seed: int
    taken: list[Span] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)
    named: list[_Named] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._masks: dict[str, list[EntityMask]] = {}
        for found in self.measured.segmentation.masks:
            self._masks.setdefault(found.entity, []).append(found)
        self._people = {person.index: person for person in self.measured.people.people}
        self._grounded = {place: found.score for place, found in self.measured.grounding.best.items()}

    @property
    def _filters(self) -> FilterRules:
        return self.rules.filters

    # --- Subjects

    def subjects(self) -> tuple[Subject, ...]:
        """Everyone the caption names who has a face, with what is certainly theirs."""
        # All nouns claim their words before any attribute does: a subject is worth more than a phrase of another one.
        self.named = self._named()
        return tuple(self._subject(named) for named in self.named)

    def _named(self) -> list[_Named]:
        caption, named = self.measured.caption, []
        votes = ownership.name_subjects(caption, self._filters)
        for index, (mention, vote) in enumerate(zip(caption.people, votes, strict=True)):
            sightings = vote if isinstance(vote, Reason) else self._usable(vote.person)
            noun = sightings if isinstance(sightings, Reason) else self._claim(mention.noun.phrase)
            if isinstance(vote, Vote) and not isinstance(sightings, Reason) and isinstance(noun, Phrase):
                named.append(_Named(index, mention, noun, vote, self._people[vote.person], sightings))
            elif isinstance(noun, Reason):
                self._drop(f"s{index}", mention.noun.phrase, noun)
        return named

    def _usable(self, person: int) -> tuple[Sighting, ...] | Reason:
        if person not in self._people:
            return Reason("owner_unseen", f"the caption speaks of person {person}, whom no still shows")
        return gates.usable_sightings(self._people[person], self._filters)

    def _subject(self, named: _Named) -> Subject:
        stills = self.measured.stills
        faces = [references.of_face(s, stills.width, stills.height) for s in named.sightings]
        face = self._reference(f"s{named.index}.face", "face", named.noun, faces)
        seen = next(s for s in named.sightings if s.still == face.still)
        measured = {"sharpness": seen.sharpness, "frontal": seen.frontal, "visible": seen.visible}
        return Subject(
            index=named.index,
            noun=named.noun,
            face=face.model_copy(update=measured),
            attributes=self._attributes(named),
            body=self._body(named),
            owner_share=named.vote.share,
            likeness=likeness(named.person),
        )

    def _attributes(self, named: _Named) -> tuple[Reference, ...]:
        """At most `max_attributes`, in the caption's order."""
        kept: list[Reference] = []
        for number, mention in enumerate(named.mention.attributes):
            entity = f"s{named.index}.a{number}"
            if len(kept) < self._filters.max_attributes:
                worn = self._attribute(entity, mention, named)
            else:
                worn = Reason("max_attributes", f"the subject has {len(kept)} attributes already")
            if isinstance(worn, Reason):
                self._drop(entity, mention.phrase, worn)
            else:
                kept.append(worn)
        return tuple(kept)

    def _attribute(self, entity: str, mention: Mention, named: _Named) -> Reference | Reason:
        strange = phrases.unfit(mention.phrase.text) or ownership.check_votes(mention, named.vote.person, self._filters)
        if strange is not None:
            return strange
        candidates = self._worn(entity, named)
        if isinstance(candidates, Reason):
            return candidates
        phrase = self._claim(mention.phrase)
        if isinstance(phrase, Reason):
            return phrase
        return self._reference(entity, "attribute", phrase, candidates)

    def _body(self, named: _Named) -> Reference | None:
        """The whole person under the subject's own noun; nothing is missing where no stage measures bodies."""
        entity = f"s{named.index}.body"
        if entity not in self._masks:
            return None
        candidates = self._worn(entity, named)
        if isinstance(candidates, Reason):
            self._drop(entity, named.noun, candidates)
            return None
        return self._reference(entity, "body", named.noun, candidates)

    def _worn(self, entity: str, named: _Named) -> list[Candidate] | Reason:
        """The stills in which an entity's pixels are good and its owner's.

        Nobody measures how sharp a garment is: its owner's face in the same still stands for it.
        """
        sharpness = {s.still: s.sharpness for s in named.sightings}
        judged: list[Candidate | Reason] = []
        for found in self._masks.get(entity, []):
            candidate = self._judge(found, sharpness.get(found.still, 0.0))
            if isinstance(candidate, Candidate):
                strange = ownership.check_mask(found, named.vote.person, self.measured.people, self._filters)
                candidate = strange or candidate
            judged.append(candidate)
        return _good(judged)

    def relations(self, subjects: Sequence[Subject]) -> tuple[Relation, ...]:
        """What each witness says of every attribute and every subject: who else could have been the owner."""
        return tuple(
            self._relation(attribute, mention, rival)
            for subject, owner in zip(subjects, self.named, strict=True)
            for attribute in subject.attributes
            for mention in [owner.mention.attributes[int(attribute.entity.rpartition("a")[2])]]
            for rival in self.named
        )

    def _relation(self, attribute: Reference, mention: Mention, rival: _Named) -> Relation:
        votes = {vote.person: vote.share for vote in mention.votes}
        found = next(m for m in self._masks[attribute.entity] if m.still == attribute.still)
        body = next((s.body for s in rival.person.sightings if s.still == attribute.still), None)
        return Relation(
            attribute=attribute.entity,
            subject=rival.index,
            votes=votes.get(rival.vote.person, 0.0) if votes else None,
            inside=None if body is None else masks.share_inside(found.mask, found.box, body),
        )

    # --- Objects and background

    def objects(self) -> tuple[Reference, ...]:
        """What the caption names beside people, where a mask shows it."""
        kept: list[Reference] = []
        for number, wanted in enumerate(self.measured.caption.objects):
            entity = f"o{number}"
            # Nothing says how sharp an object is: all its stills count the same, and the scores decide.
            candidates = _good([self._judge(found, 0.0) for found in self._masks.get(entity, [])])
            phrase = phrases.unfit(wanted.text) or (
                candidates if isinstance(candidates, Reason) else self._claim(wanted)
            )
            if isinstance(candidates, list) and isinstance(phrase, Phrase):
                kept.append(self._reference(entity, "object", phrase, candidates))
            elif isinstance(phrase, Reason):
                self._drop(entity, wanted, phrase)
        return tuple(kept)

    def background(self) -> Reference | None:
        """The scene, unless too much of it had to be invented."""
        wanted, scene = self.measured.caption.background, self.measured.background
        if wanted is None:
            return None
        limit = self._filters.background_max_filled
        phrase: Phrase | Reason
        if scene.filled_share > limit:
            phrase = Reason("background_max_filled", f"{scene.filled_share:.2f} of it is invented, at most {limit}")
        else:
            phrase = self._claim(wanted)
        if isinstance(phrase, Reason):
            self._drop("bg", wanted, phrase)
            return None
        # It is made from all of the clip; the middle still stands for its time, and what was seen of it for its score.
        stills = self.measured.stills
        frame = Box(0, 0, stills.width, stills.height)
        middle = Candidate(len(stills.stills) // 2, frame, 1.0, 1.0 - scene.filled_share, 0.0)
        return self._reference("bg", "background", phrase, [middle])

    # --- Shared by all

    def _judge(self, found: EntityMask, sharpness: float) -> Candidate | Reason:
        """A mask as a candidate, if it is good enough for a reference, whoever it belongs to."""
        size = (self.measured.stills.width, self.measured.stills.height)
        if (found.mask.width, found.mask.height) != size:
            raise ValueError(
                f"clip {self.measured.clip.clip_id}: the mask of {found.entity} in still {found.still} is "
                f"{found.mask.width}x{found.mask.height}, the still {size[0]}x{size[1]}: measure segment again"
            )
        least_score, least_area = self._filters.mask_min_score, self._filters.attribute_min_area
        # A body is not grounded by a phrase but comes with its face.
        grounded = self._grounded.get((found.entity, found.still), 1.0)
        if grounded < self._filters.box_min_score:
            return Reason("box_min_score", f"the box scores {grounded:.2f} of {self._filters.box_min_score}")
        if found.score < least_score:
            return Reason("mask_min_score", f"the mask scores {found.score:.2f} of {least_score}")
        least_stability = self._filters.mask_min_stability
        if found.stability is not None and found.stability < least_stability:
            return Reason("mask_min_stability", f"the mask's stability is {found.stability:.2f} of {least_stability}")
        candidate = references.of_mask(found, grounded, sharpness)
        if candidate.area_share < least_area or candidate.area_share == 0:
            return Reason("attribute_min_area", f"{candidate.area_share:.4f} of the frame, at least {least_area}")
        return candidate

    def _claim(self, phrase: Phrase) -> Phrase | Reason:
        """The phrase as the caption writes it, its characters now taken."""
        span = spans.resolve(self.measured.caption.text, phrase, self.taken)
        if isinstance(span, Reason):
            return span
        self.taken.append(span)
        return Phrase(text=span.of(self.measured.caption.text), span=span)

    def _drop(self, entity: str, phrase: Phrase, reason: Reason) -> None:
        self.dropped.append(Dropped(entity=entity, phrase=phrase.text, rule=reason.rule, detail=reason.detail))

    def _reference(self, entity: str, kind: Kind, phrase: Phrase, candidates: Sequence[Candidate]) -> Reference:
        clip, masked = self.measured.clip, kind not in ("face", "background")
        best = references.choose(candidates, self.rules.pairs.still, self.seed, clip.clip_id, entity)
        return Reference(
            entity=entity,
            kind=kind,
            phrase=phrase,
            member=f"{entity}.png",
            mask_member=f"{entity}.mask.png" if masked else None,
            still=best.still,
            time_s=round(max(0.0, self.measured.stills.stills[best.still].time_s - clip.start_s), 6),
            box=best.box,
            area_share=best.area_share,
            score=best.score,
        )


def _good(judged: Sequence[Candidate | Reason]) -> list[Candidate] | Reason:
    """The candidates among the judged; without any, why the first is none."""
    good = [candidate for candidate in judged if isinstance(candidate, Candidate)]
    refused = (reason for reason in judged if isinstance(reason, Reason))
    return good or next(refused, Reason("mask_missing", "no still has a mask of it"))
