"""Who is in a clip and what is certainly theirs: the half of a decision that can refuse.

It makes no records, so that asking "what would this rule remove?" of a hundred thousand clips takes seconds;
`decide/pairs.py` turns a draft into the pair.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from dataengine.config import FilterRules
from dataengine.decide import gates, ownership, references
from dataengine.decide.facts import Face, Facts, MaskFacts, PersonFacts, PictureFacts, SubjectWords, Words, meeting
from dataengine.decide.ownership import Elected
from dataengine.decide.references import Candidate
from dataengine.records import Box, Reason, Span, Witness


class Tie(NamedTuple):
    """Something that is certainly in the clip: its words, now taken, and the stills that can show it."""

    entity: str
    words: Words
    candidates: list[Candidate]

    @property
    def span(self) -> Span:
        assert self.words.span is not None
        return self.words.span


class Left(NamedTuple):
    """What a draft goes without, and why."""

    entity: str
    phrase: str
    reason: Reason
    witnesses: tuple[Witness, ...]


@dataclass(slots=True)
class Somebody:
    """A subject of the caption whose words and person are certain, and whose face is good enough."""

    index: int
    mention: SubjectWords
    owner: Elected
    person: PersonFacts
    face: Tie
    attributes: list[Tie] = field(default_factory=list)
    body: Tie | None = None


def draft(pictures: PictureFacts, facts: Facts, rules: FilterRules) -> Draft | Reason:
    """The clip's draft, or the rule that refuses it by its pictures or faces alone."""
    reason = gates.gate(pictures, rules)
    return Draft(pictures, facts, rules) if reason is None else reason


class Draft:
    """A pair in the making: which characters of the caption are taken, and what was left out.

    Words are claimed in order: everybody's nouns, their attributes, then objects, then the background.
    """

    def __init__(self, pictures: PictureFacts, facts: Facts, rules: FilterRules) -> None:
        self.facts = facts
        self.left: list[Left] = []
        self._rules = rules
        self._taken: list[Span] = []
        self._people = {person.index: person for person in pictures.people}
        self._seen: dict[int, dict[int, Face]] = {}
        """By still, those whose faces are sure there."""
        for person in pictures.people:
            for face in person.faces:
                if face.score >= rules.face_score:
                    self._seen.setdefault(face.still, {})[person.index] = face
        # All nouns claim their words before any attribute does: a subject is worth more than a phrase of another one.
        self.subjects = self._named()
        for somebody in self.subjects:
            somebody.attributes = self._attributes(somebody)
            somebody.body = self._body(somebody)
        if self.subjects:
            self.objects = self._objects()
            self.background = self._background()

    @property
    def refusal(self) -> Reason | None:
        """Why there is no pair."""
        if self.subjects:
            return None
        if not self.left:
            return Reason("caption", "no subject is left: the caption names no person")
        first = self.left[0].reason
        return Reason(first.rule, f"no subject is left: {first.detail}")

    def _named(self) -> list[Somebody]:
        named = []
        owners = ownership.name_subjects(self.facts.subjects, self._rules)
        for index, (mention, owner) in enumerate(zip(self.facts.subjects, owners, strict=True)):
            untied = mention.noun.untied
            found = untied or (owner if isinstance(owner, Reason) else self._somebody(index, mention, owner))
            if isinstance(found, Reason):
                self._leave(f"s{index}", mention.noun, found, [])
            else:
                named.append(found)
        return named

    def _somebody(self, index: int, mention: SubjectWords, owner: Elected) -> Somebody | Reason:
        person = self._people.get(owner.person)
        if person is None:
            return Reason("owner_unseen", f"the caption speaks of person {owner.person}, whom no still shows")
        faces = gates.usable_faces(person, self._rules)
        if isinstance(faces, Reason):
            return faces
        reason = self._claim(mention.noun)
        if reason is not None:
            return reason
        size = (self.facts.width, self.facts.height)
        candidates = [references.of_face(face, *size) for face in faces]
        return Somebody(index, mention, owner, person, Tie(f"s{index}.face", mention.noun, candidates))

    def _attributes(self, somebody: Somebody) -> list[Tie]:
        """At most `max_attributes`, in the caption's order."""
        kept: list[Tie] = []
        for number, words in enumerate(somebody.mention.attributes):
            entity = f"s{somebody.index}.a{number}"
            if len(kept) >= self._rules.max_attributes:
                worn: list[Candidate] | Reason = Reason(
                    "max_attributes", f"the subject has {len(kept)} attributes already"
                )
            else:
                worn = self._attribute(entity, words, somebody)
            if isinstance(worn, Reason):
                self._leave(entity, words, worn, self.facts.masks.get(entity, ()))
            else:
                kept.append(Tie(entity, words, worn))
        return kept

    def _attribute(self, entity: str, words: Words, somebody: Somebody) -> list[Candidate] | Reason:
        # Whose something is was asked only where it has a place in the caption.
        reason = words.unfit or words.untied
        if reason is not None:
            return reason
        disputed = ownership.check_votes(words.votes, somebody.owner.person, self._rules)
        if disputed is not None and not self._rules.owner_settled_by_pixels:
            return disputed
        candidates = self._worn(entity, somebody, self._rules.owner_min_stills if disputed is None else 1.0)
        if isinstance(candidates, Reason):
            return disputed or candidates
        return self._claim(words) or candidates

    def _body(self, somebody: Somebody) -> Tie | None:
        """The whole person under the subject's own noun; nothing is missing where no stage measures bodies."""
        entity = f"s{somebody.index}.body"
        if entity not in self.facts.masks:
            return None
        candidates = self._worn(entity, somebody, self._rules.owner_min_stills)
        if isinstance(candidates, Reason):
            self._leave(entity, somebody.mention.noun, candidates, self.facts.masks[entity])
            return None
        return Tie(entity, somebody.mention.noun, candidates)

    def _worn(self, entity: str, somebody: Somebody, least: float) -> list[Candidate] | Reason:
        """The stills in which an entity's pixels are good and its owner's, or why there is none.

        `least`: share of the stills with good pixels in which they must be the owner's.
        A still in which the owner was in dispute came further than one that shows it too poorly: its reason is told.
        """
        person, found = somebody.owner.person, self.facts.masks.get(entity, ())
        good: list[Candidate] = []
        elsewhere: list[tuple[MaskFacts, dict[int, Face]]] = []
        poor: Reason | None = None
        disputed: Reason | None = None
        for mask in found:
            seen = self._seen.get(mask.still, {})
            if (reason := self._judge(mask)) is not None:
                poor = poor or reason
            elif (reason := ownership.check_mask(mask, person, seen, self._rules)) is not None:
                disputed = disputed or reason
                elsewhere.append((mask, seen))
            else:
                good.append(references.of_mask(mask, seen[person]))
        if not good:
            return disputed or poor or Reason("mask_missing", "no still has a mask of it")
        return ownership.check_track(person, len(good), elsewhere, least) or good

    def _objects(self) -> list[Tie]:
        """What the caption names beside people, where a mask shows it."""
        kept: list[Tie] = []
        for number, words in enumerate(self.facts.objects):
            entity = f"o{number}"
            judged = [(mask, self._judge(mask)) for mask in self.facts.masks.get(entity, ())]
            # Nothing says how sharp an object is: all its stills count the same, and the scores decide.
            good = [references.of_mask(mask, None) for mask, reason in judged if reason is None]
            missing = Reason("mask_missing", "no still has a mask of it")
            reason = words.unfit
            if reason is None and not good:
                reason = next((r for _, r in judged if r is not None), missing)
            reason = reason or self._claim(words)
            if reason is None:
                kept.append(Tie(entity, words, good))
            else:
                self._leave(entity, words, reason, [])
        return kept

    def _background(self) -> Tie | None:
        """The scene, unless too much of it had to be invented."""
        words, filled = self.facts.background, self.facts.background_filled
        if words is None:
            return None
        limit = self._rules.background_max_filled
        if filled > limit:
            reason: Reason | None = Reason("background_max_filled", f"{filled:.2f} of it is invented, at most {limit}")
        else:
            reason = self._claim(words)
        if reason is not None:
            self._leave("bg", words, reason, [])
            return None
        # It is made from all of the clip; the middle still stands for its time, and what was seen of it for its score.
        frame = Box(0, 0, self.facts.width, self.facts.height)
        return Tie("bg", words, [Candidate(len(self.facts.still_times_s) // 2, frame, 1.0, 1.0 - filled, 0.0)])

    def _judge(self, found: MaskFacts) -> Reason | None:
        """Why a mask is not good enough for a reference, whoever it belongs to."""
        rules = self._rules
        if found.grounded < rules.box_min_score:
            return Reason("box_min_score", f"the box scores {found.grounded:.2f} of {rules.box_min_score}")
        if found.score < rules.mask_min_score:
            return Reason("mask_min_score", f"the mask scores {found.score:.2f} of {rules.mask_min_score}")
        if found.stability is not None and found.stability < rules.mask_min_stability:
            saw = f"the mask's stability is {found.stability:.2f} of {rules.mask_min_stability}"
            return Reason("mask_min_stability", saw)
        if found.area_share < rules.attribute_min_area or found.area_share == 0:
            saw = f"{found.area_share:.4f} of the frame, at least {rules.attribute_min_area}"
            return Reason("attribute_min_area", saw)
        return None

    def _claim(self, words: Words) -> Reason | None:
        """Take the phrase's characters of the caption, or say why they cannot be had."""
        if words.span is None:
            return words.untied
        other = meeting(words.span, self._taken)
        if other is not None:
            return Reason("span_overlapping", f"{words.text!r} shares words with {other.of(self.facts.caption)!r}")
        self._taken.append(words.span)
        return None

    def _leave(self, entity: str, words: Words, reason: Reason, found: Sequence[MaskFacts]) -> None:
        heard = ownership.witnesses(words.votes, found) if reason.rule in ownership.DISPUTES else ()
        self.left.append(Left(entity, words.text, reason, heard))
