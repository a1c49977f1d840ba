"""How good a tiny Qwen2.5-VL is on shots that no training saw: the annotator as a build runs it, on vLLM."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dataengine.config import QwenSettings, VllmSettings
from dataengine.models.interfaces import Scene
from dataengine.models.qwen_annotator import QwenAnnotator
from dataengine.models.qwen_vllm import VllmQwen
from dataengine.records import STILL_POSITIONS, Caption, People, Person
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


def settings(folder: Path) -> QwenSettings:
    """What the tiny checkpoint is run with: one frame for the caption, three stills and crops for owners."""
    vllm = VllmSettings(max_model_len=2048, max_num_seqs=16, eager=True)
    return QwenSettings(weights=str(folder), frames=1, rounds=2, max_tokens=384, temperature=0.0, vllm=vllm)


def case(index: int, given: bool = False) -> Case:
    """The held-out shot of this index; `given`: the world's own caption comes with it."""
    draw = np.random.default_rng((25, index))
    made = script(HELD_OUT, index)
    at = int(draw.integers(len(made.shots)))
    shot = made.shots[at]
    numbers = [moment(made, at, share) for share in STILL_POSITIONS]
    stills = tuple(coded(made, number, draw) for number in numbers)
    sightings = {}
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


def held_out(folder: Path, scenes: int = SCENES) -> tuple[Figure, ...]:
    """Figures of the checkpoint in `folder`. Raises what the model raises."""
    chosen = settings(folder)
    annotator = QwenAnnotator(VllmQwen(chosen), chosen)
    annotator.load()
    figures: list[Figure] = []
    written = [case(index) for index in range(scenes)]
    answers = annotator.annotate([one.scene for one in written])
    figures.append(_valid("captions", answers))
    figures += _scored(
        "attributes in captions", [(c, a, _in_captions(c, a)) for c, a in _good(written, answers)], written
    )
    figures += _scored("who wears what", [(c, a, _tied(c, a)) for c, a in _good(written, answers)], written)
    given = [case(index, given=True) for index in range(scenes)]
    answers = annotator.annotate([one.scene for one in given])
    figures.append(_valid("given captions", answers))
    named = [_named(c, a) for c, a in _good(given, answers)]
    figures.append(Figure(name="entities of given captions exact", value=float(np.mean(named)), of=len(named)))
    owned = [right for c, a in _good(given, answers) for right in _owned(c, a)]
    figures.append(Figure(name="owners of given captions' phrases", value=float(np.mean(owned)), of=len(owned)))
    return tuple(figures)


def _good(cases: Sequence[Case], answers: Sequence[Caption | BadInput]) -> list[tuple[Case, Caption]]:
    return [(c, a) for c, a in zip(cases, answers, strict=True) if isinstance(a, Caption)]


def _valid(name: str, answers: Sequence[Caption | BadInput]) -> Figure:
    return Figure(
        name=f"usable {name}", value=float(np.mean([isinstance(a, Caption) for a in answers])), of=len(answers)
    )


def _in_captions(one: Case, answer: Caption) -> tuple[int, int]:
    """Attributes that the person named in that place wears, and all."""
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
    """Of each phrase of a given caption, whether it went to whom the world says."""
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


def _scored(name: str, scores: Sequence[tuple[Case, Caption, tuple[int, int]]], cases: Sequence[Case]) -> list[Figure]:
    """F1 over all and by the number of people; true is what the usual caption names."""
    right, said, true = Counter[int](), Counter[int](), Counter[int]()
    for one in cases:
        count = sum(len(person.attributes) for person in usual(one.shot).people)
        for key in (0, len(one.shot.actors)):
            true[key] += count
    for one, _, (r, s) in scores:
        for key in (0, len(one.shot.actors)):
            right[key] += r
            said[key] += s
    labels = {0: "", 1: ", 1 person", 2: ", 2 people", 3: ", 3 people"}
    return [
        Figure(name=f"{name}, F1{labels[key]}", value=2 * right[key] / (said[key] + true[key]), of=true[key])
        for key in sorted(true)
    ]
