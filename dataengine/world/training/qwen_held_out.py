"""How good a tiny Qwen2.5-VL is on shots that no training saw: the annotator as a build runs it, on vLLM."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from dataengine.config import QwenSettings, VllmSettings
from dataengine.models.interfaces import Scene
from dataengine.models.qwen_annotator import QwenAnnotator
from dataengine.models.qwen_transformers import TransformersQwen
from dataengine.models.qwen_vllm import VllmQwen
from dataengine.records import STILL_POSITIONS, Caption, People, Person, Sighting
from dataengine.stage import BadInput
from dataengine.world import drawing
from dataengine.world.script import Shot, script
from dataengine.world.training.examples import HELD_OUT
from dataengine.world.training.log import Figure
from dataengine.world.training.qwen_lessons import coded, found, moment, usual
from dataengine.world.wording import attributes

SCENES = 200


@dataclass(frozen=True)
class Case:
    """A shot as the annotator is shown it, and who is who: positions of `scene.people`, by their index."""

    shot: Shot
    scene: Scene
    position: dict[int, int]


def settings(folder: Path, backend: Literal["vllm", "transformers"] = "vllm") -> QwenSettings:
    """What the tiny checkpoint is run with: one frame for the caption, three stills and crops for owners."""
    vllm = VllmSettings(max_model_len=2048, max_num_seqs=16, eager=True)
    return QwenSettings(
        weights=str(folder),
        backend=backend,
        frames=1,
        rounds=2,
        max_tokens=384,
        temperature=0.0,
        device="cpu",
        vllm=vllm,
    )


def case(index: int, given: bool = False) -> Case:
    """The held-out shot of this index; `given`: the world's own caption comes with it."""
    draw = np.random.default_rng((25, index))
    made = script(HELD_OUT, index)
    at = int(draw.integers(len(made.shots)))
    shot = made.shots[at]
    numbers = [moment(made, at, share) for share in STILL_POSITIONS]
    stills = tuple(coded(made, number, draw) for number in numbers)
    sightings: dict[int, list[Sighting]] = {}
    for still, number in enumerate(numbers):
        people, positions = found(drawing.labels(made, number), shot, draw, missing=False)
        for person in people:
            seen = person.sightings[0].model_copy(update={"still": still})
            sightings.setdefault(positions[person.index], []).append(seen)
    order = sorted(sightings)
    everybody = tuple(Person(index=i, sightings=tuple(sightings[position])) for i, position in enumerate(order))
    frames = (coded(made, moment(made, at, 0.5), draw),)
    text = shot.caption.text if given else None
    return Case(
        shot, Scene(f"held out {index}", stills, People(people=everybody), frames, text), dict(enumerate(order))
    )


def held_out(
    folder: Path, scenes: int = SCENES, backend: Literal["vllm", "transformers"] = "vllm"
) -> tuple[Figure, ...]:
    """Figures of the checkpoint in `folder`. Raises what the model raises."""
    chosen = settings(folder, backend)
    annotator = QwenAnnotator(VllmQwen(chosen) if backend == "vllm" else TransformersQwen(chosen), chosen)
    annotator.load()
    written, given = [case(index) for index in range(scenes)], [case(index, given=True) for index in range(scenes)]
    answers = annotator.annotate([one.scene for one in (*written, *given)])
    return (*_figures(written, answers[:scenes]), *_figures_given(given, answers[scenes:]))


def _figures(cases: Sequence[Case], answers: Sequence[Caption | BadInput]) -> list[Figure]:
    good = _good(cases, answers)
    return [
        _valid("captions", answers),
        *_scored("attributes in captions", [(c, _in_captions(c, a)) for c, a in good], cases),
        *_scored("who wears what", [(c, _tied(c, a)) for c, a in good], cases),
    ]


def _figures_given(cases: Sequence[Case], answers: Sequence[Caption | BadInput]) -> list[Figure]:
    good = _good(cases, answers)
    named = [_named(c, a) for c, a in good]
    owned = [right for c, a in good for right in _owned(c, a)]
    return [
        _valid("given captions", answers),
        _share("entities of given captions exact", named),
        _share("owners of given captions' phrases", owned),
    ]


def _good(cases: Sequence[Case], answers: Sequence[Caption | BadInput]) -> list[tuple[Case, Caption]]:
    return [(c, a) for c, a in zip(cases, answers, strict=True) if isinstance(a, Caption)]


def _valid(name: str, answers: Sequence[Caption | BadInput]) -> Figure:
    return _share(f"usable {name}", [isinstance(answer, Caption) for answer in answers])


def _share(name: str, rights: Sequence[bool]) -> Figure:
    return Figure(name=name, value=round(sum(rights) / max(1, len(rights)), 4), of=len(rights))


def _in_captions(one: Case, answer: Caption) -> tuple[int, int]:
    """Attributes that the person named in that place wears, and all. An answer may name too few people, or too many."""
    actors = [actor.person for actor in one.shot.actors]
    right = sum(
        mention.phrase.text in attributes(actor)
        for actor, person in zip(actors, answer.people, strict=False)
        for mention in person.attributes
    )
    return right, sum(len(person.attributes) for person in answer.people)


def _tied(one: Case, answer: Caption) -> tuple[int, int]:
    """Attributes on the person who wears them, and all that go to the person whose the noun is."""
    right = said = 0
    for person in answer.people:
        named = person.noun.owner
        for mention in person.attributes:
            owner = mention.owner
            if named is not None and owner is not None and owner.person == named.person:
                said += 1
                right += mention.phrase.text in attributes(one.shot.actors[one.position[owner.person]].person)
    return right, said


def _owned(one: Case, answer: Caption) -> list[bool]:
    """Of each phrase that an answer found in a given caption, whether it went to whom the world says."""
    rights = []
    for position, person in zip(one.shot.caption.order, answer.people, strict=False):
        for mention in (person.noun, *person.attributes):
            owner = mention.owner
            rights.append(owner is not None and one.position.get(owner.person) == position)
    return rights


def _named(one: Case, answer: Caption) -> bool:
    told = one.shot.caption
    people = [(p.noun, *p.attributes) for p in told.people]
    found = [(p.noun.phrase, *(m.phrase for m in p.attributes)) for p in answer.people]
    return people == found and told.objects == answer.objects and told.background == answer.background


def _scored(name: str, scores: Sequence[tuple[Case, tuple[int, int]]], cases: Sequence[Case]) -> list[Figure]:
    """F1 over all and by the number of people; true is what the usual caption names."""
    right, said, true = Counter[int](), Counter[int](), Counter[int]()
    for one in cases:
        for key in (0, len(one.shot.actors)):
            true[key] += sum(len(person.attributes) for person in usual(one.shot).people)
    for one, (good, every) in scores:
        for key in (0, len(one.shot.actors)):
            right[key] += good
            said[key] += every
    of = {0: "", 1: ", 1 person", 2: ", 2 people", 3: ", 3 people"}
    return [
        Figure(name=f"{name}, F1{of[key]}", value=round(2 * right[key] / (said[key] + true[key]), 4), of=true[key])
        for key in sorted(true)
    ]
