"""One sample against the truth of its video: what is right of it, counted."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dataengine import masks
from dataengine.records import Box, EntityMask, Pair, Reference, Subject
from dataengine.shards.reader import Sample
from dataengine.spans import occurrences
from dataengine.world import drawing
from dataengine.world.cast import Noun
from dataengine.world.drawing import FrameTruth
from dataengine.world.make import ShotTruth, VideoTruth
from dataengine.world.things import draw_place
from dataengine.world.wording import SIDES

SAME_FACE = 0.3
"""IoU with a true face from which a subject's face is that person's."""
SAME_THING = 0.5
"""IoU with the true box from which an entity is found."""
VISIBLE = 200
"""Pixels of a frame of 280 × 168 that an entity needs to be asked for."""
LEFT_OVER = 40
"""Difference of a channel, of 255, from the true background at which a pixel still shows who stood there."""


class Score(NamedTuple):
    """A part of a metric: how much was right, of how much that was said, of how much that is true."""

    right: float
    said: float
    true: float


class Thing(NamedTuple):
    """What a caption names and a frame shows: what was found of it, and what is true; boxes in the truth's pixels."""

    reference: Reference | None
    found: Box | None
    true: EntityMask


class Judged(NamedTuple):
    """What is right of one sample, by metric; what it showed; whether a tie, a face or a noun of it is wrong."""

    scores: Mapping[str, Score]
    subjects: int
    hard: tuple[str, ...]
    wrong: bool
    seen: frozenset[str]
    """Identities of its subjects."""


def judge(sample: Sample, truth: VideoTruth) -> Judged | None:
    """Compare a sample with what is true; None when its clip does not lie in one shot of the truth."""
    pair = sample.pair
    middle = (pair.clip.start_s + pair.clip.end_s) / 2
    found = [i for i, s in enumerate(truth.shots) if s.start_s - 0.1 <= middle <= s.end_s + 0.1]
    if not found:
        return None
    shot, number = truth.shots[found[0]], found[0]
    people = {subject.index: _who(pair, subject, shot, truth) for subject in pair.subjects}
    ties = _ties(pair, people, shot)
    things = tuple(_things(pair, people, shot, truth))
    scores = {
        "who wears what": ties,
        "spans": _spans(pair),
        "boxes": _boxes(pair, things),
        "masks": _masks(sample, things, truth),
        "identity": _identity(pair, people, shot, truth),
        "background": _background(sample, truth, number),
    }
    named = [who for who in people.values() if who is not None]
    nouns = [(subject.noun.text, people[subject.index]) for subject in pair.subjects]
    misnamed = any(who is None or not names(noun, who, shot) for noun, who in nouns)
    wrong = ties.right < ties.said or misnamed or len(set(named)) < len(named)
    seen = frozenset(shot.people[who].identity for who in named)
    return Judged(scores, len(shot.people), shot.hard, wrong, seen)


def names(noun: str, who: int, shot: ShotTruth) -> bool:
    """Whether a noun can be a person's: it says nothing else of man or woman, and of the side where the person stands.

    "person" can be anybody's.
    """
    words = set(said(noun).split())
    sides = SIDES.get(len(shot.people), ())
    true = {shot.people[who].noun, sides[shot.caption.order[who]] if sides else ""}
    return words & {*get_args(Noun), *SIDES[max(SIDES)]} <= true


def said(text: str) -> str:
    """A phrase as it is compared: an article, case and double spaces do not matter."""
    words = text.lower().split()
    return " ".join(words[1:] if words[:1] and words[0] in ("a", "an", "the") else words)


def iou(one: Box, other: Box) -> float:
    common = one.intersection(other).area
    union = one.area + other.area - common
    return common / union if union else 0.0


def _who(pair: Pair, subject: Subject, shot: ShotTruth, truth: VideoTruth) -> int | None:
    """The number, in the shot's caption, of the person whose face a subject's reference shows."""
    seen = _frame(pair, subject.face, truth)
    if seen is None:
        return None
    faces = {i: _mask_of(seen, f"s{i}.face") for i in range(len(shot.people))}
    overlaps = {i: iou(face.box, _scaled(subject.face.box, pair, truth)) for i, face in faces.items() if face}
    best = max(overlaps, key=lambda i: overlaps[i], default=None)
    return best if best is not None and overlaps[best] >= SAME_FACE else None


def _ties(pair: Pair, people: Mapping[int, int | None], shot: ShotTruth) -> Score:
    """Phrases on the person who wears it. True are those that the pair's own caption names and somebody wears."""
    right = count = 0
    for subject in pair.subjects:
        who = people[subject.index]
        worn = {said(phrase) for phrase in shot.people[who].wears} if who is not None else set()
        right += len(worn & {said(attribute.phrase.text) for attribute in subject.attributes})
        count += len(subject.attributes)
    wearers = Counter(said(phrase) for person in shot.people for phrase in person.wears)
    true = sum(min(times, len(occurrences(pair.caption, phrase))) for phrase, times in wearers.items())
    return Score(right, count, true)


def _spans(pair: Pair) -> Score:
    """Phrases that stand in the caption where their span says, and share no word with another entity's."""
    taken: Counter[int] = Counter()
    bound = [r for r in pair.references if r.kind not in ("face", "body")]
    nouns = [subject.noun for subject in pair.subjects]
    phrases = [*(r.phrase for r in bound), *nouns]
    for phrase in phrases:
        if phrase.span is not None:
            taken.update(range(*phrase.span))
    right = sum(
        phrase.span is not None
        and phrase.span.of(pair.caption) == phrase.text
        and all(taken[at] == 1 for at in range(*phrase.span))
        for phrase in phrases
    )
    return Score(right, len(phrases), len(phrases))


def _boxes(pair: Pair, things: Sequence[Thing]) -> Score:
    """True boxes that a reference has: of all that the caption names and that is seen well enough."""
    seen = [thing for thing in things if masks.area(thing.true.mask) >= VISIBLE]
    right = sum(t.found is not None and iou(t.true.box, t.found) >= SAME_THING for t in seen)
    return Score(right, len(seen), len(seen))


def _masks(sample: Sample, things: Sequence[Thing], truth: VideoTruth) -> Score:
    """Mean IoU with the true mask, of those that have a reference."""
    total, count = 0.0, 0
    for thing in things:
        pixels = sample.mask(thing.reference) if thing.reference is not None else None
        if pixels is None or masks.area(thing.true.mask) < VISIBLE:
            continue
        size = (truth.width, truth.height)
        mask = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST))
        drawn = masks.decode(thing.true.mask)
        total += (mask & drawn).sum() / max(1, (mask | drawn).sum())
        count += 1
    return Score(total, count, count)


def _identity(pair: Pair, people: Mapping[int, int | None], shot: ShotTruth, truth: VideoTruth) -> Score:
    """References of a subject that lie on that person, though they come from different frames."""
    right = count = 0
    for subject in pair.subjects:
        who = people[subject.index]
        for reference in (*subject.attributes, *((subject.body,) if subject.body else ())):
            seen = _frame(pair, reference, truth)
            if who is None or seen is None:
                continue
            box = _scaled(reference.box, pair, truth)
            inside = {i: _inside(_mask_of(seen, f"s{i}.body"), box) for i in range(len(shot.people))}
            count += 1
            right += max(inside, key=lambda i: inside[i]) == who and inside[who] > 0
    return Score(right, count, count)


def _background(sample: Sample, truth: VideoTruth, number: int) -> Score:
    """Pixels where people and things stood that show what is behind them."""
    background = sample.pair.background
    if background is None:
        return Score(0, 0, 0)
    shot, made = truth.script.shots[number], truth.script
    with Image.open(io.BytesIO(sample.members[background.member]), formats=("PNG",)) as image:
        shown = np.asarray(image.convert("RGB").resize((made.width, made.height), Image.Resampling.BILINEAR))
    clean = draw_place(shot.place, made.width, made.height, shot.place_seed)
    stood = np.zeros((made.height, made.width), bool)
    for time in (truth.shots[number].start_s, sum(_span(truth.shots[number])) / 2, truth.shots[number].end_s - 0.05):
        seen = truth.at(time)
        for mask in seen.masks if seen else ():
            stood |= masks.decode(mask.mask)
    if not stood.any():
        return Score(0, 0, 0)
    left = _differs(shown, clean)[stood].mean()
    return Score(1 - float(left), 1, 1)


def _differs(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> NDArray[np.bool_]:
    return np.abs(one.astype(np.int16) - other).max(axis=2) > LEFT_OVER


def _things(pair: Pair, people: Mapping[int, int | None], shot: ShotTruth, truth: VideoTruth) -> Iterator[Thing]:
    """All that the pair's caption names of its subjects and objects, where it is seen.

    What has no reference is looked for where its subject's face was cut, an object where the first subject's was. Of
    what more people wear than the caption says, nobody without a reference is meant for sure.
    """
    wearers = Counter(said(phrase) for person in shot.people for phrase in person.wears)
    for subject in pair.subjects:
        who = people[subject.index]
        references = {said(attribute.phrase.text): attribute for attribute in subject.attributes}
        for phrase in shot.people[who].wears if who is not None else ():
            reference = references.get(said(phrase))
            if reference is not None or len(occurrences(pair.caption, phrase)) >= wearers[said(phrase)]:
                number = _number(pair, reference or subject.face, truth)
                true = drawing.worn(truth.script, number, who or 0, phrase) if number is not None else None
                yield from _thing(pair, reference, true, truth)
    found = {said(reference.phrase.text): reference for reference in pair.objects}
    for index, phrase in enumerate(shot.objects):
        if shot.objects.count(phrase) == len(occurrences(pair.caption, phrase)) == 1:
            reference = found.get(said(phrase))
            seen = _frame(pair, reference or pair.subjects[0].face, truth)
            yield from _thing(pair, reference, _mask_of(seen, f"o{index}") if seen else None, truth)


def _thing(pair: Pair, reference: Reference | None, true: EntityMask | None, truth: VideoTruth) -> Iterator[Thing]:
    if true is not None and (reference is None or reference.origin is None):
        yield Thing(reference, _scaled(reference.box, pair, truth) if reference else None, true)


def _number(pair: Pair, reference: Reference, truth: VideoTruth) -> int | None:
    """The frame where a reference was cut; None for one from another clip, and in dissolves."""
    seen = _frame(pair, reference, truth)
    return None if seen is None else seen.frame


def _frame(pair: Pair, reference: Reference, truth: VideoTruth) -> FrameTruth | None:
    """What is true where a reference was cut; None for one from another clip."""
    return truth.at(pair.clip.start_s + reference.time_s) if reference.origin is None else None


def _mask_of(seen: FrameTruth, entity: str) -> EntityMask | None:
    return next((mask for mask in seen.masks if mask.entity == entity), None)


def _inside(mask: EntityMask | None, box: Box) -> float:
    """The share of a box that a mask's own box covers."""
    return 0.0 if mask is None or not box.area else mask.box.intersection(box).area / box.area


def _scaled(box: Box, pair: Pair, truth: VideoTruth) -> Box:
    """A box of the pair in the truth's pixels."""
    x, y = truth.width / pair.width, truth.height / pair.height
    return Box(box.x0 * x, box.y0 * y, box.x1 * x, box.y1 * y)


def _span(shot: ShotTruth) -> tuple[float, float]:
    return shot.start_s, shot.end_s
