"""Qwen2.5-VL as annotator: what does the clip show, whom and what does that name, and whose is it?

Three questions instead of one (LumosX, section "data", asks for all at once): a caption that is written without having
to be parsed reads better, phrases that are copied from it can be checked letter by letter, and ownership is decided on
pictures with numbered people instead of on the words that came first. It is a forced choice, asked again with other
numbers on the same people: a model that prefers "1" then votes for everybody once, and the votes show it.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from dataengine.config import QwenSettings
from dataengine.models import answers, numbered
from dataengine.models.answers import Weak
from dataengine.models.interfaces import Image, Question, Scene, VisionLanguageModel
from dataengine.models.prompts import FOLDER, Prompts
from dataengine.phrases import unfit
from dataengine.records import (
    Caption,
    CaptionAnswer,
    EntitiesAnswer,
    Mention,
    OwnershipAnswer,
    Person,
    PersonMention,
    PersonWords,
    Phrase,
    Reason,
    Record,
    RepairAnswer,
    Span,
    Vote,
)
from dataengine.spans import resolve_all
from dataengine.stage import BadInput

TRIES = 2
"""A weak answer is asked for once again, with another seed."""
LANGUAGES = {"en": "English", "zh": "Chinese"}
_NAMES = {CaptionAnswer: "caption", EntitiesAnswer: "entities", RepairAnswer: "repair", OwnershipAnswer: "ownership"}

R = TypeVar("R", bound=Record)


class QwenAnnotator:
    """Implements `Annotator` on any `VisionLanguageModel`. All questions of all scenes are under way at once."""

    def __init__(self, model: VisionLanguageModel, settings: QwenSettings) -> None:
        self._model = model
        self._settings = settings
        self._prompts = Prompts.read(Path(settings.prompts) if settings.prompts else FOLDER)
        self.name, self.needs = model.name, model.needs
        self.prompt, self.frames = self._prompts.all, settings.frames
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def revision(self) -> str:
        return self._model.revision

    def load(self) -> None:
        self._model.load()
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True, name="questions").start()

    def annotate(self, scenes: Sequence[Scene]) -> list[Caption | BadInput]:
        """Thread-safe, so that one model serves several batches at once. Raises what the model raises."""
        assert self._loop is not None, "load() comes first"
        return asyncio.run_coroutine_threadsafe(self._all(scenes), self._loop).result()

    async def _all(self, scenes: Sequence[Scene]) -> list[Caption | BadInput]:
        return list(await asyncio.gather(*(self._one(scene) for scene in scenes)))

    async def _one(self, scene: Scene) -> Caption | BadInput:
        talk = _Talk(self._model, scene.clip_id)
        try:
            return await self._annotate(scene, talk)
        except Weak as weak:
            return BadInput(str(weak), talk.said)

    async def _annotate(self, scene: Scene, talk: _Talk) -> Caption:
        """The chain of questions about one scene, without the first where its caption came with it.

        Raises `Weak` where an answer stays unusable.
        """
        ask, count = self._prompts.ask, len(scene.frames)
        language = LANGUAGES[self._settings.language]
        if scene.given is not None:
            text = scene.given
        else:
            told = await talk.ask(
                CaptionAnswer,
                (*scene.frames, ask("caption", frames=count, language=language)),
                check=lambda answer: answers.check_caption(answer, self._settings.language),
            )
            text = " ".join(told.caption.split())
        named = await talk.ask(
            EntitiesAnswer,
            (*scene.frames, ask("entities", frames=count, caption=text)),
            check=lambda answer: answers.check_entities(answer, len(scene.people.people)),
        )
        entities = _Entities.of(named, text)
        if problems := entities.problems:
            with suppress(Weak):  # the phrases then stay as they are
                repaired = await talk.ask(
                    RepairAnswer,
                    (ask("repair", caption=text, count=len(problems), problems=problem_list(problems)),),
                    schema=_exactly(RepairAnswer, "phrases", len(problems)),
                )
                entities = entities.repaired(repaired.phrases)
        answers.check_copied(entities.reasons)
        votes = await self._votes(scene, talk, text, entities)
        return entities.caption(votes, tuple(talk.said))

    async def _votes(self, scene: Scene, talk: _Talk, text: str, entities: _Entities) -> Mapping[int, tuple[Vote, ...]]:
        """By phrase, the share of the rounds that gave it to each person. Phrases without a place are not asked about.

        Where no choice has more than half of the rounds, as many rounds more are asked about these phrases alone, nouns
        apart from attributes: it must be another question, or a model at temperature 0 says the same again.
        """
        asked, people = entities.owned, [person.index for person in scene.people.people]
        if not asked or not people:
            return {}
        # Other numbers on one person are the same question again.
        rounds = min(self._settings.rounds, len(people))
        turns = list(enumerate(numberings(scene.clip_id, people, 2 * rounds)))
        given = await self._ballot(scene, talk, text, entities, asked, turns[:rounds])
        undecided = [i for i in asked if max(Counter(given[i]).values()) <= rounds / 2]
        nouns = [i for i in undecided if i in entities.nouns]
        for part in (nouns, [i for i in undecided if i not in nouns]):
            if part and part != asked:
                with suppress(Weak):  # the phrases then stay undecided
                    for i, choices in (await self._ballot(scene, talk, text, entities, part, turns[rounds:])).items():
                        given[i] += choices
        votes: dict[int, tuple[Vote, ...]] = {}
        for i, choices in given.items():
            poll = Counter(person for person in choices if person is not None)
            votes[i] = tuple(Vote(person=p, share=round(n / len(choices), 4)) for p, n in sorted(poll.items()))
        return votes

    async def _ballot(
        self,
        scene: Scene,
        talk: _Talk,
        text: str,
        entities: _Entities,
        asked: Sequence[int],
        turns: Sequence[tuple[int, Mapping[int, int]]],
    ) -> dict[int, list[int | None]]:
        """By phrase that is asked about, the person, or nobody, that it is given to under each turn's numbers."""
        phrases = [entities.phrases[i].text for i in asked]
        shown = marked(text, [span for i in asked if (span := entities.phrases[i].span)])
        prompt = self._prompts.ask("ownership", caption=shown, phrases=numbered_list(phrases))
        schema = _choices(phrases, len(scene.people.people))
        answered = await asyncio.gather(
            *(
                talk.ask(OwnershipAnswer, (*pictures(scene, numbers), prompt), schema=schema, turn=turn)
                for turn, numbers in turns
            ),
            return_exceptions=True,  # nothing is still being asked when one fails
        )
        given: dict[int, list[int | None]] = {i: [] for i in asked}
        for (_, numbers), answer in zip(turns, answered, strict=True):
            if isinstance(answer, BaseException):
                raise answer
            person_of = {number: person for person, number in numbers.items()}
            for i, choice in zip(asked, answer.choices, strict=True):
                given[i].append(person_of.get(choice.person))
        return given


def numberings(clip_id: str, people: Sequence[int], rounds: int) -> list[dict[int, int]]:
    """Numbers 1…N for the people, another for each in every round (as far as N allows), drawn from the clip's id."""
    draw = sorted(people, key=lambda person: hashlib.sha256(f"{clip_id}:{person}".encode()).digest())
    return [{person: (place + turn) % len(draw) + 1 for place, person in enumerate(draw)} for turn in range(rounds)]


@dataclass
class _Talk:
    """The questions and answers about one clip."""

    model: VisionLanguageModel
    clip_id: str
    said: list[str] = field(default_factory=list)

    async def ask(
        self,
        kind: type[R],
        parts: tuple[str | Image, ...],
        check: Callable[[R], None] = lambda answer: None,
        schema: Mapping[str, Any] | None = None,
        turn: int = 0,
    ) -> R:
        """The answer as a record; asked once more where it is weak. Raises `Weak`, naming the question."""
        name = _NAMES[kind]
        for attempt in range(TRIES):
            seed = seed_of(self.clip_id, name, turn, attempt)
            answer = await self.model.answer(Question(parts, schema or kind.model_json_schema(), seed))
            self.said.append(f"{name}: {answer.text}")
            try:
                record = answers.parse(kind, answer)
                check(record)
                return record
            except Weak as error:
                weak = error
        raise Weak(f"{name}: {weak} ({TRIES} answers)")


def seed_of(*parts: object) -> int:
    """31 bits that depend on the clip and the question, not on what was asked before."""
    return int.from_bytes(hashlib.sha256(":".join(map(str, parts)).encode()).digest()[:4], "big") >> 1


@dataclass(frozen=True)
class _Entities:
    """The phrases of a caption in the order of `answers.phrases_of`, with their places in it."""

    text: str
    people: tuple[PersonWords, ...]
    objects: int
    background: bool
    phrases: tuple[Phrase, ...]
    reasons: tuple[Reason | None, ...]
    """Why a phrase cannot be used as it is."""

    @classmethod
    def of(cls, answer: EntitiesAnswer, text: str) -> _Entities:
        empty = cls(text, answer.people, len(answer.objects), bool(answer.background), (), ())
        return empty._with(answers.phrases_of(answer))

    def _with(self, phrases: Sequence[str]) -> _Entities:
        """The same entities by these words."""
        nouns, last = set(self.nouns), len(phrases) - self.background
        unusable = [None if i in nouns or i == last else unfit(words) for i, words in enumerate(phrases)]
        wanted = ["" if bad else words for words, bad in zip(phrases, unusable, strict=True)]
        places = resolve_all(self.text, wanted, self._under)
        found, reasons = [], []
        for words, place, bad in zip(phrases, places, unusable, strict=True):
            reasons.append(bad or (place if isinstance(place, Reason) else None))
            found.append(
                Phrase(text=place.of(self.text), span=place)
                if isinstance(place, Span)
                else Phrase(text=words, span=None)
            )
        return _Entities(self.text, self.people, self.objects, self.background, tuple(found), tuple(reasons))

    @property
    def problems(self) -> list[tuple[str, str]]:
        """Phrases that cannot be used, and why."""
        pairs = zip(self.phrases, self.reasons, strict=True)
        return [(phrase.text, reason.detail) for phrase, reason in pairs if reason]

    def repaired(self, words: Sequence[str]) -> _Entities:
        """With other words for the problems, where there are any: a phrase that has none keeps its own."""
        better = iter(words)
        texts = [
            (next(better, "").strip() or phrase.text) if reason else phrase.text
            for phrase, reason in zip(self.phrases, self.reasons, strict=True)
        ]
        return self._with(texts)

    @property
    def nouns(self) -> list[int]:
        """Where each person's noun stands among the phrases."""
        places, place = [], 0
        for person in self.people:
            places.append(place)
            place += 1 + len(person.attributes)
        return places

    @property
    def _under(self) -> list[int | None]:
        """For each phrase the place of the noun that it is listed under; a noun's own."""
        sizes = [1 + len(person.attributes) for person in self.people]
        listed = [noun for noun, size in zip(self.nouns, sizes, strict=True) for _ in range(size)]
        return [*listed, *[None] * (self.objects + self.background)]

    @property
    def owned(self) -> list[int]:
        """The phrases that can be somebody's: nouns and attributes that have their place in the caption."""
        last = sum(1 + len(person.attributes) for person in self.people)
        return [i for i in range(last) if self.phrases[i].span is not None]

    def caption(self, votes: Mapping[int, tuple[Vote, ...]], said: tuple[str, ...]) -> Caption:
        mentions = [Mention(phrase=phrase, votes=votes.get(i, ())) for i, phrase in enumerate(self.phrases)]
        rest = iter(mentions)
        people = tuple(
            PersonMention(noun=next(rest), attributes=tuple(next(rest) for _ in person.attributes))
            for person in self.people
        )
        objects = tuple(next(rest).phrase for _ in range(self.objects))
        background = next(rest).phrase if self.background else None
        return Caption(text=self.text, people=people, objects=objects, background=background, answers=said)


def pictures(scene: Scene, numbers: Mapping[int, int]) -> list[str | Image]:
    """The stills with numbered boxes, then each person alone, in the order of the numbers."""
    parts: list[str | Image] = []
    for still, image in enumerate(scene.images):
        bodies = {numbers[p.index]: s.body for p in scene.people.people for s in p.sightings if s.still == still}
        parts.append(numbered.boxed(image, bodies))
    person: Person
    for person in sorted(scene.people.people, key=lambda p: numbers[p.index]):
        still = numbered.best_still(person)
        body = next(s.body for s in person.sightings if s.still == still)
        parts += [f"Person {numbers[person.index]}:", numbered.crop(scene.images[still], body)]
    return parts


def marked(text: str, spans: Sequence[Span]) -> str:
    """The caption with `[1: man] … [2: black hat]` where the spans are: equal words are told apart by their place."""
    for number, span in sorted(enumerate(spans, 1), key=lambda pair: -pair[1].start):
        text = f"{text[: span.start]}[{number}: {span.of(text)}]{text[span.end :]}"
    return text


def problem_list(problems: Sequence[tuple[str, str]]) -> str:
    return "\n".join(f"{i}. {words} ({why})" for i, (words, why) in enumerate(problems, 1))


def numbered_list(phrases: Sequence[str]) -> str:
    return "\n".join(f"{i}. {words}" for i, words in enumerate(phrases, 1))


def _exactly(kind: type[Record], name: str, count: int) -> dict[str, Any]:
    """The record's schema with a list of exactly so many items."""
    schema = kind.model_json_schema()
    schema["properties"][name] |= {"minItems": count, "maxItems": count}
    return schema


def _choices(phrases: Sequence[str], people: int) -> dict[str, Any]:
    """`OwnershipAnswer` for these phrases in this order, and so many people: a forced choice."""
    schema = OwnershipAnswer.model_json_schema()
    choice = schema["$defs"].pop("Choice")
    each = [
        choice
        | {"properties": {"phrase": {"const": words}, "person": {"type": "integer", "enum": list(range(people + 1))}}}
        for words in phrases
    ]
    schema["properties"]["choices"] = {"type": "array", "prefixItems": each, "items": False} | {
        "minItems": len(each),
        "maxItems": len(each),
    }
    return schema
