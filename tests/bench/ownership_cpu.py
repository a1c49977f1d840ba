"""What the annotator's and the decisions' own logic loses where networks err: `python tests/bench/ownership_cpu.py`.

The real annotator asks its real questions, and the real decisions judge what comes of them. The networks are played
from the truth of the world, and err at a rate: each answer, copied phrase or box is wrong by chance. A network that is
asked the same again says the same again, as at temperature 0. One kind of error at a time, then all together; the ratio
is to F1 without errors, the bound.

    votes     each choice of an answer about owners by itself
    swaps     two people exchanged through an answer, where they have these numbers
    sights    a thing or person taken to be somebody else's, whatever the numbers
    guesses   a thing or person that is not seen: it is number 1's, whoever has it
    copies    phrases that are not the caption's, one by one or all of an answer, and repairs of them; attributes that
              are listed under another person, or under both
    faces     people who are not found
    boxes     things that are not found in a still

In a tenth of the cases in which the grounder is asked for what a person does not wear, it finds something else there.
`wrong` are samples with a face, or an attribute, that is not whom the caption means.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from dataengine.config import DecideSettings, FilterRules, PairRules, QwenSettings
from dataengine.decide.facts import Measured
from dataengine.decide.pairs import decide_pair
from dataengine.models.interfaces import Answer, Image, Question, Scene
from dataengine.models.numbered import best_still, crop
from dataengine.models.qwen_annotator import QwenAnnotator
from dataengine.records import (
    STILL_POSITIONS,
    Background,
    Box,
    Caption,
    Decision,
    EncodedClip,
    EntityMask,
    GroundedBox,
    Grounding,
    Pair,
    People,
    Person,
    Provenance,
    Segmentation,
    Sighting,
    Still,
    Stills,
    Subject,
)
from dataengine.weights import Needs
from dataengine.world import drawing
from dataengine.world.judge import said
from dataengine.world.make import VideoTruth, scripts
from dataengine.world.pairs import window
from dataengine.world.wording import Caption as Told

KINDS = ("votes", "swaps", "sights", "guesses", "copies", "faces", "boxes")
FALSE_POSITIVES = 0.1
RATES = (0.02, 0.05, 0.1)
RULES = DecideSettings(
    filters=FilterRules(face_min_px=16, box_min_score=0.3, mask_min_score=0.5), pairs=PairRules(val_share=0)
)
"""Of `conf/profiles/world.yaml`."""
_MARK = re.compile(r"\[\d+: ([^\]]*)\]")


@dataclass(frozen=True)
class Shown:
    """A shot of the world, and what is seen of it in three stills. A person of the clip has its actor's number."""

    truth: VideoTruth
    number: int
    missed: frozenset[int] = frozenset()
    """People whom the face detector does not find."""
    drawn: dict[Any, Any] = field(default_factory=dict)
    """What was drawn of it, whoever is missed."""

    @cached_property
    def at(self) -> tuple[int, ...]:
        _, first, count = window(self.truth, self.number, None)
        return tuple(first + min(int(share * count), count - 1) for share in STILL_POSITIONS)

    @property
    def told(self) -> Told:
        return self.truth.shots[self.number].caption

    @property
    def listed(self) -> list[tuple[int, str, tuple[str, ...]]]:
        """Whom the caption names: the person, the noun, the attributes."""
        return [
            (who, named.noun.text, tuple(a.text for a in named.attributes))
            for who, named in zip(self.told.order, self.told.people, strict=True)
        ]

    @property
    def masks(self) -> list[dict[str, EntityMask]]:
        """By still and entity."""
        if "masks" not in self.drawn:
            seen = [drawing.truth(self.truth.script, n) for n in self.at]
            self.drawn["masks"] = [{m.entity: m for m in one.masks} if one else {} for one in seen]
        return self.drawn["masks"]

    @cached_property
    def people(self) -> People:
        found = []
        for named, who in sorted(enumerate(self.told.order), key=lambda pair: pair[1]):
            sightings = tuple(
                Sighting(
                    still=still, face=seen[f"s{named}.face"].box, face_score=1, landmarks=(),
                    body=seen[f"s{named}.body"].box, body_score=1, sharpness=1,
                )
                for still, seen in enumerate(self.masks)
                if f"s{named}.face" in seen
            )  # fmt: skip
            if sightings and who not in self.missed:
                found.append(Person(index=who, sightings=sightings))
        return People(people=tuple(found))

    def wears(self, who: int) -> tuple[str, ...]:
        return self.truth.shots[self.number].people[self.told.order.index(who)].wears

    def mask(self, who: int, phrase: str, still: int) -> EntityMask | None:
        """What a person wears, in a still."""
        if (who, phrase, still) not in self.drawn:
            seen = drawing.worn(self.truth.script, self.at[still], self.told.order.index(who), phrase)
            self.drawn[who, phrase, still] = seen
        return self.drawn[who, phrase, still]

    @cached_property
    def scene(self) -> Scene:
        """Pictures that say of every pixel where it is: so the network that is played sees whom a crop shows."""
        rows, columns = np.indices((self.truth.height, self.truth.width))
        image = np.stack([columns % 256, rows, columns // 256], axis=-1).astype(np.uint8)
        return Scene(f"{self.truth.name}-{self.number}", (image,) * 3, self.people, (), self.told.text)

    def who(self, picture: Image) -> int:
        """The person that a crop shows."""
        return next(
            person.index
            for person in self.people.people
            if np.array_equal(picture, crop(self.scene.images[0], _body(person)))
        )


def _body(person: Person) -> Box:
    still = best_still(person)
    return next(s.body for s in person.sightings if s.still == still)


@dataclass(frozen=True)
class Chance:
    """Whether something goes wrong: drawn from what it is, so the same whenever it is asked."""

    rates: Mapping[str, float]

    def draw(self, *what: object) -> float:
        return int.from_bytes(hashlib.sha256(repr(what).encode()).digest()[:6], "big") / 2**48

    def errs(self, kind: str, *what: object) -> bool:
        return self.draw(kind, *what) < self.rates.get(kind, 0.0)

    def pick(self, choices: Sequence[Any], *what: object) -> Any:
        return choices[int(self.draw("pick", *what) * len(choices))]


class Erring:
    """The vision-language model: answers with the truth, and errs."""

    name, revision, needs = "erring", "1", Needs()

    def __init__(self, shots: Sequence[Shown], chance: Chance) -> None:
        self._shots = {shown.told.text: shown for shown in shots}
        self._chance = chance
        self.asked: Counter[str] = Counter()

    def load(self) -> None:
        pass

    async def answer(self, question: Question) -> Answer:
        text = next(part for part in reversed(question.parts) if isinstance(part, str))
        plain = _MARK.sub(r"\1", text)
        shown = next(shown for caption, shown in self._shots.items() if caption in plain)
        wanted = question.schema["properties"]
        kind = next(k for k in ("people", "phrases", "choices") if k in wanted)
        self.asked[kind] += 1
        said: dict[str, Any] = {
            "people": lambda: self._entities(shown),
            "phrases": lambda: {"phrases": self._repairs(shown, text)},
            "choices": lambda: {"choices": self._choices(shown, question, text)},
        }[kind]()
        return Answer(json.dumps(said), complete=True)

    def _copies(self, shown: Shown) -> list[tuple[str, list[tuple[str, str]]]]:
        """By noun, as it is said: what each phrase is, and how it is said."""
        errs, told = self._chance.errs, shown.told.text
        all_of_it = errs("copies", told)
        people = []
        for who, noun, attributes in shown.listed:
            copied = [(a, _garbled(a) if all_of_it or errs("copies", told, who, a) else a) for a in attributes]
            people.append((_garbled(noun) if all_of_it or errs("copies", told, who, noun) else noun, copied))
        for number, (who, _, attributes) in enumerate(shown.listed):
            for phrase in attributes if len(people) > 1 else ():
                if errs("copies", told, "listed", who, phrase):
                    mine = people[number][1]
                    one = next(pair for pair in mine if pair[0] == phrase)
                    others = [other for i, (_, other) in enumerate(people) if i != number and len(other) < 3]
                    if others and one not in (theirs := self._chance.pick(others, told, who, phrase)):
                        theirs.append(one)
                        if self._chance.draw("also", told, who, phrase) < 0.5:
                            mine.remove(one)
        return people

    def _entities(self, shown: Shown) -> dict[str, Any]:
        people = [{"noun": noun, "attributes": [said for _, said in worn]} for noun, worn in self._copies(shown)]
        objects = [thing.text for thing in shown.told.objects]
        return {"people": people, "objects": objects, "background": shown.told.background.text}

    def _repairs(self, shown: Shown, text: str) -> list[str]:
        meant = {_garbled(words): words for _, noun, worn in shown.listed for words in (noun, *worn)}
        asked = re.findall(r"^\d+\. (.+) \(.*\)$", text, re.MULTILINE)
        return ["" if self._chance.errs("copies", text, words) else meant.get(words, "") for words in asked]

    def _choices(self, shown: Shown, question: Question, text: str) -> list[dict[str, Any]]:
        parts, errs, pick = question.parts, self._chance.errs, self._chance.pick
        crops = [parts[i + 1] for i, part in enumerate(parts) if isinstance(part, str) and part.startswith("Person ")]
        number_of = {shown.who(image): n for n, image in enumerate(crops, 1) if not isinstance(image, str)}
        order = tuple(number_of)
        swap = {}
        if len(order) > 1 and errs("swaps", text, order):
            one = pick(order, "swaps", text, order)
            other = pick([who for who in order if who != one], "swapped", text, order)
            swap = {one: other, other: one}
        choices = []
        for place, words in enumerate(re.findall(r"^\d+\. (.+)$", text, re.MULTILINE), 1):
            start = re.search(rf"\[{place}: ", text)
            assert start is not None
            where = len(_MARK.sub(r"\1", text[: start.start()])) - _MARK.sub(r"\1", text).index(shown.told.text)
            who = self._owner(shown, where)
            if errs("sights", shown.told.text, words, where):
                who = pick([o for o in (None, *sorted(order)) if o != who] or [None], "sights", words, shown.told.text)
            number = number_of.get(swap.get(who, who), 0)
            if errs("guesses", shown.told.text, words, where):
                number = 1
            if errs("votes", text, order, place):
                number = pick([n for n in range(len(order) + 1) if n != number], "votes", text, order, place)
            choices.append({"phrase": words, "person": number})
        return choices

    def _owner(self, shown: Shown, where: int) -> int | None:
        """Whose the words at a place of the caption are."""
        for who, named in zip(shown.told.order, shown.told.people, strict=True):
            for phrase in (named.noun, *named.attributes):
                if phrase.span is not None and phrase.span.start <= where < phrase.span.end:
                    return who
        return None


def _garbled(words: str) -> str:
    """Nearly the words, so that they do not stand in the caption."""
    first, *rest = words.split()
    return " ".join([f"{first}-like", *rest])


def measured(shown: Shown, caption: Caption, chance: Chance) -> Measured:
    """What grounding and segmenting give for a caption. As in their stages, an attribute is looked for on its owner."""
    boxes: list[GroundedBox] = []
    masks: list[EntityMask] = []

    def found(entity: str, still: int, mask: EntityMask | None) -> None:
        if mask is not None:
            masks.append(mask.model_copy(update={"entity": entity, "still": still}))
            boxes.append(GroundedBox(entity=entity, still=still, box=mask.box, score=1.0))

    seen_in = {person.index: [s.still for s in person.sightings] for person in shown.people.people}
    for i, mention in enumerate(caption.people):
        if noun := mention.noun.owner:
            for still in seen_in[noun.person]:
                body = shown.masks[still][f"s{shown.told.order.index(noun.person)}.body"]
                masks.append(body.model_copy(update={"entity": f"s{i}.body", "still": still}))
        for j, attribute in enumerate(mention.attributes):
            if owner := attribute.owner:
                for still in seen_in[owner.person]:
                    words = attribute.phrase.text
                    found(f"s{i}.a{j}", still, _boxed(shown, owner.person, words, still, chance))
    clip, _, count = window(shown.truth, shown.number, None)
    width, height, fps = shown.truth.width, shown.truth.height, shown.truth.fps
    return Measured(
        clip=clip,
        source_names=(f"{shown.truth.name}.mp4",),
        stills=Stills(
            width=width, height=height, stills=tuple(Still(time_s=n / fps, image=b"") for n in shown.at)
        ),
        people=shown.people,
        caption=caption,
        grounding=Grounding(boxes=tuple(boxes)),
        segmentation=Segmentation(masks=tuple(masks)),
        background=Background(image=b"", seen_share=1.0, filled_share=0.0),
        encoded=EncodedClip(mp4=b"", width=width, height=height, fps=fps, frames=count),
    )  # fmt: skip


def _boxed(shown: Shown, who: int, phrase: str, still: int, chance: Chance) -> EntityMask | None:
    """What is found for a phrase on a person: if he does not wear it, at times something else that he wears."""
    where = (shown.told.text, who, phrase)
    if phrase in shown.wears(who):
        return None if chance.errs("boxes", *where, still) else shown.mask(who, phrase, still)
    instead = chance.draw("instead", *where) < FALSE_POSITIVES
    return shown.mask(who, chance.pick(shown.wears(who), *where), still) if instead else None


@dataclass
class Figures:
    """Counts over all shots."""

    shots: int = 0
    kept: int = 0
    wrong: int = 0
    people: int = 0
    subjects: int = 0
    right: int = 0
    said: int = 0
    true_of_kept: int = 0
    true: int = 0
    questions: int = 0

    def add(self, shown: Shown, outcome: Decision | None) -> None:
        named = [worn for _, _, attributes in shown.listed for worn in attributes]
        self.shots += 1
        self.true += len(named)
        self.people += len(shown.told.order)
        pair = outcome.outcome if outcome else None
        if not isinstance(pair, Pair):
            return
        self.kept += 1
        self.true_of_kept += len(named)
        wrong = False
        for subject in pair.subjects:
            who = _face_of(shown, subject)
            meant = shown.told.order[subject.index]
            wrong |= who != meant
            self.subjects += who == meant
            worn = {said(phrase) for phrase in shown.wears(who)}
            right = len(worn & {said(a.phrase.text) for a in subject.attributes})
            self.right += right
            self.said += len(subject.attributes)
            wrong |= right < len(subject.attributes)
        self.wrong += wrong

    @property
    def f1_kept(self) -> float:
        return 2 * self.right / max(1, self.said + self.true_of_kept)

    @property
    def f1(self) -> float:
        return 2 * self.right / max(1, self.said + self.true)


def _face_of(shown: Shown, subject: Subject) -> int:
    """The person whose face a subject's reference is."""
    reference = subject.face
    return next(
        p.index
        for p in shown.people.people
        for s in p.sightings
        if s.still == reference.still and s.face.intersection(reference.box).area >= 0.99 * s.face.area
    )


def run(every: Sequence[Shown], rates: Mapping[str, float]) -> tuple[Figures, Counter[str]]:
    chance = Chance(rates)
    shots = [
        replace(one, missed=frozenset(who for who in one.told.order if chance.errs("faces", one.told.text, who)))
        for one in every
    ]
    model = Erring(shots, chance)
    annotator = QwenAnnotator(model, QwenSettings())
    annotator.load()
    figures, rules = Figures(), Counter[str]()
    captions = annotator.annotate([shown.scene for shown in shots])
    for shown, caption in zip(shots, captions, strict=True):
        if not isinstance(caption, Caption):
            rules["unusable answers"] += 1
            figures.add(shown, None)
            continue
        decided = decide_pair(measured(shown, caption, chance), Provenance(stages=(), decided_by="bench"), RULES, 0)
        for one in decided.dropped:
            if not one.entity.startswith("o"):
                rules[f"{re.sub('[0-9.]', '', one.entity)}: {one.rule}"] += 1
        figures.add(shown, decided)
    figures.questions = sum(model.asked.values())
    return figures, rules


def shots_of(count: int, seed: int) -> Iterator[Shown]:
    """Shots with different captions, since the network that is played knows them by these."""
    known: set[str] = set()
    for made in scripts(2 * count, seed):
        truth = VideoTruth.of(made)
        for number, shot in enumerate(truth.shots):
            shown = Shown(truth, number)
            if len(known) < count and shot.caption.text not in known and shown.people.people:
                known.add(shot.caption.text)
                yield shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shots", type=int, default=150)
    parser.add_argument("--rules", action="store_true", help="also list by which rules something is left out")
    parser.add_argument("--rates", type=float, nargs="*", default=RATES[-1:], help="of each kind of error alone")
    wanted = parser.parse_args()
    shots = list(shots_of(wanted.shots, seed=5))
    cases: list[tuple[str, float, dict[str, float]]] = [("none", 0.0, {})]
    cases += [(kind, rate, {kind: rate}) for kind in KINDS for rate in wanted.rates]
    cases += [("all", rate, dict.fromkeys(KINDS, rate)) for rate in RATES]
    print(f"{'errors':8}{'rate':>6}{'F1 kept':>9}{'F1 all':>8}{'ratio':>7}{'subjects':>10}{'refused':>9}{'wrong':>7}"
          f"{'questions':>11}")  # fmt: skip
    bound = 0.0
    for name, rate, rates in cases:
        f, rules = run(shots, rates)
        bound = bound or f.f1
        print(
            f"{name:8}{rate:6.2f}{f.f1_kept:9.3f}{f.f1:8.3f}{f.f1 / bound:7.2f}{f.subjects / f.people:10.3f}"
            f"{1 - f.kept / f.shots:9.3f}{f.wrong:7d}{f.questions / f.shots:11.2f}",
            flush=True,
        )
        if wanted.rules:
            print("        ", ", ".join(f"{rule} {times}" for rule, times in rules.most_common()))


if __name__ == "__main__":
    main()
