"""ColourBaseline: an annotator without a language model, for machines without a GPU.

It looks at what GrabCut takes for a person's hair and upper-body clothes, names the colours by a standard vocabulary
and writes one plain sentence. It knows no garments ("top"), no gender ("person"), no objects and no actions, and says
nothing of what it cannot see well: a phrase that is missing costs less than one that is wrong.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from dataengine.models import colour_names, given_caption, grabcut
from dataengine.models.face_regions import centre_x, face_coordinates, face_unit
from dataengine.models.interfaces import Image, Pixels, Scene
from dataengine.records import Caption, Mention, Person, PersonMention, Phrase, Sighting, Vote
from dataengine.spans import Writer
from dataengine.stage import BadInput
from dataengine.weights import Needs

ITERATIONS = 3
"""Of GrabCut: colours need no fine outline."""
FACE_SCORE = 0.5
"""A person is mentioned when the best of its faces scores this."""
HAIR_COLOURS = {
    "black": "black",
    "brown": "brown",
    "grey": "grey",
    "white": "white",
    "yellow": "blond",
    "red": "red",
    "orange": "red",
}
"""Basic terms that hair can have, and what such hair is called. Other colours are hats."""
TOP_DOMINANT = 0.4
"""A colour names a top when surfaces of it cover this share."""
HAIR_DOMINANT = 0.5
"""A colour names hair, which is one surface, when this share of the pixels has it."""
HAIR_AREA, TOP_AREA = 0.2, 0.6
"""Least visible area, in squared face units."""
HAIR_BESIDE = 0.02
"""Least area of hair beside the eyes, in squared face units, in the still that shows most: a hat leaves none there."""
HAIR_FROM_SKIN = 10.0
"""Least CIELAB distance of the median colours of hair and face; less is a bald head."""
TOP_BELOW_CHIN = 0.45
"""The image must go on this many face heights below the chin: less shows a collar at most."""
COLLAR = 0.4
"""Within this many face units of the middle, close below the chin, collars and ties are seen, not the garment."""
MIN_FACE_PX = 16
"""Under this width of the face no colours are told."""
BACKGROUND_COLOUR = 0.25
"""The background has the one or two commonest colours that cover this share of it."""
PLAIN, BUSY = 0.02, 0.10
"""Share of edge pixels under which a background is plain and above which it is busy."""


@dataclass(frozen=True)
class Described:
    """A person and the attribute phrases it is given, each with the share of its sightings that show it."""

    person: int
    seen: float
    """Share of the stills that show the person."""
    x: float
    """Where it stands, as a share of the image's width."""
    hair: tuple[str, float] | None
    top: tuple[str, float] | None


class ColourBaseline:
    """Implements `Annotator` by rules; `answers` stays empty."""

    name = "colour-baseline"
    needs = Needs()
    prompt = ""
    frames = 0
    revision = f"1, opencv {cv2.__version__}"

    def load(self) -> None:
        """There are no weights."""

    def annotate(self, scenes: Sequence[Scene]) -> list[Caption | BadInput]:
        return [self._annotate(scene) for scene in scenes]

    def _annotate(self, scene: Scene) -> Caption:
        cuts = {
            (person.index, sighting.still): _parts(scene, person, sighting)
            for person in scene.people.people
            for sighting in person.sightings
        }
        sure = [
            (person, [cuts[person.index, s.still] for s in person.sightings])
            for person in scene.people.people
            if max(s.face_score for s in person.sightings) >= FACE_SCORE
        ]
        if scene.given is not None:
            return given_caption.annotate(scene.given, [_seen(scene, person, parts) for person, parts in sure])
        described = [_describe(scene, person, parts) for person, parts in sure]
        return compose(described, _background(scene, cuts))


def compose(people: Sequence[Described], background: str) -> Caption:
    """One sentence on the people, left to right, and the background.

    Every phrase is written once and its span noted as it is written, so spans are unique and never overlap, whatever
    words two people share.
    """
    writer = Writer()
    mentions = []
    for i, person in enumerate(people):
        writer.add("A " if i == 0 else ", and a " if i == len(people) - 1 else ", a ")
        position = position_of(i, len(people), person.x)
        if len(people) == 1:
            noun = writer.phrase("person")
            writer.add(f" {position}")
        else:
            noun = writer.phrase(f"person {position}")
        attributes = []
        for number, (words, share) in enumerate(filter(None, (person.hair, person.top))):
            writer.add(" with " if number == 0 else " and ")
            writer.add("" if words.endswith("hair") else f"{article(words)} ")
            attributes.append(_mention(writer.phrase(words), person.person, share))
        mentions.append(PersonMention(noun=_mention(noun, person.person, person.seen), attributes=tuple(attributes)))
    writer.add(f", in front of {article(background)} " if people else f"{article(background).capitalize()} ")
    phrase = writer.phrase(background)
    writer.add("." if people else " without people.")
    return Caption(text=writer.text, people=tuple(mentions), objects=(), background=phrase, answers=())


def position_of(index: int, count: int, x: float) -> str:
    """Where the `index`-th of `count` people from the left is; one alone is placed by `x`, a share of the width."""
    if count == 1:
        return "on the left" if x < 0.4 else "on the right" if x > 0.6 else "in the middle"
    if index == 0 or (index == count - 1 and count <= 3):
        return "on the left" if index == 0 else "on the right"
    return "in the middle" if count == 3 else f"number {index + 1} from the left"


def article(phrase: str) -> str:
    return "an" if phrase[0] in "aeio" else "a"


def _mention(phrase: Phrase, person: int, share: float) -> Mention:
    return Mention(phrase=phrase, votes=(Vote(person=person, share=round(share, 4)),))


def _parts(scene: Scene, person: Person, sighting: Sighting) -> grabcut.Parts:
    others = [s for p in scene.people.people if p is not person for s in p.sightings if s.still == sighting.still]
    return grabcut.cut_person(scene.images[sighting.still], sighting, others, ITERATIONS)


def _looks(scene: Scene, person: Person, cuts: Sequence[grabcut.Parts]) -> list[_Look]:
    return [_Look.of(scene.images[s.still], s, parts) for s, parts in zip(person.sightings, cuts, strict=True)]


def _seen(scene: Scene, person: Person, cuts: Sequence[grabcut.Parts]) -> given_caption.Seen:
    """A person as a given caption is compared with it: colours on average over the stills that show them."""
    looks = _looks(scene, person, cuts)
    return given_caption.Seen(
        person.index,
        _mean([look.hair for look in looks if look.hair]),
        _mean([look.top for look in looks if look.top]),
        _place(scene, person),
    )


def _mean(shares: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: sum(each.get(name, 0.0) for each in shares) / len(shares) for each in shares for name in each}


def _place(scene: Scene, person: Person) -> float:
    """Where a person stands, as a share of the image's width."""
    return float(np.mean([centre_x(s.face) for s in person.sightings])) / scene.images[0].shape[1]


def _describe(scene: Scene, person: Person, cuts: Sequence[grabcut.Parts]) -> Described:
    looks = _looks(scene, person, cuts)
    count = len(person.sightings)
    hair = top = None
    told = [look.hair for look in looks if look.hair]
    if told and max(look.beside for look in looks) >= HAIR_BESIDE:
        colour, share = _commonest(told)
        if share >= HAIR_DOMINANT and colour in HAIR_COLOURS.values():
            hair = (f"{colour} hair", len(told) / count)
    told = [look.top for look in looks if look.top]
    if told:
        colour, share = _commonest(told)
        if share >= TOP_DOMINANT:
            top = (f"{colour} top", len(told) / count)
    return Described(
        person=person.index,
        seen=count / len(scene.images),
        x=_place(scene, person),
        hair=hair,
        top=top,
    )


@dataclass(frozen=True)
class _Look:
    """The colours seen in one still; empty where the region is not seen well enough to say."""

    hair: Mapping[str, float]
    top: Mapping[str, float]
    beside: float
    """Area of hair beside the eyes, in squared face units."""

    @classmethod
    def of(cls, image: Image, sighting: Sighting, parts: grabcut.Parts) -> _Look:
        face, unit = sighting.face, face_unit(sighting.face)
        if unit < MIN_FACE_PX:
            return cls({}, {}, 0.0)
        y, x = np.mgrid[: image.shape[0], : image.shape[1]] + 0.5
        dx, dy = face_coordinates(face, x, y)
        aside = np.abs(dx)
        beside = float((parts.hair & (aside > 0.42) & (dy > -0.25) & (dy < 0.2)).sum()) / unit**2

        hair: dict[str, float] = {}
        cheeks = (aside < 0.3) & (np.abs(dy - 0.05) < 0.3)
        if parts.hair.sum() >= HAIR_AREA * unit**2 and _apart(image, parts.hair, cheeks) >= HAIR_FROM_SKIN:
            for term, share in colour_names.shares(image[parts.hair]).items():
                name = HAIR_COLOURS.get(term, term)
                hair[name] = hair.get(name, 0) + share

        garment = parts.top & ((aside > COLLAR) | (dy > 1.1))
        visible = (image.shape[0] - face.y1) / face.height
        seen = visible >= TOP_BELOW_CHIN and garment.sum() >= TOP_AREA * unit**2
        return cls(hair, colour_names.surface_shares(image[garment]) if seen else {}, beside)


def _commonest(shares: Sequence[Mapping[str, float]]) -> tuple[str, float]:
    """The colour with the largest share on average; the first in alphabet of equal ones."""
    total: Counter[str] = Counter()
    for each in shares:
        total.update(each)
    colour = min(total, key=lambda name: (-total[name], name))
    return colour, total[colour] / len(shares)


def _apart(image: Image, a: Pixels, b: Pixels) -> float:
    """CIELAB distance of two regions' median colours; 0, which decides nothing, when one is empty."""
    if not a.any() or not b.any():
        return 0.0
    medians = [np.median(colour_names.lab(image[where]), axis=0) for where in (a, b)]
    return float(np.linalg.norm(medians[0] - medians[1]))


def _background(scene: Scene, cuts: Mapping[tuple[int, int], grabcut.Parts]) -> str:
    """What is behind the people: how much goes on in it, and its one or two commonest colours."""
    edges, colours = [], []
    for still, image in enumerate(scene.images):
        people = np.zeros(image.shape[:2], np.uint8)
        for (_, at), parts in cuts.items():
            if at == still:
                people |= parts.body.astype(np.uint8)
        reach = max(3, image.shape[0] // 30)
        free = cv2.dilate(people, np.ones((2 * reach + 1,) * 2, np.uint8)) == 0
        if free.any():
            grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
            edges.append(float((cv2.Canny(cv2.GaussianBlur(grey, (5, 5), 0), 40, 100)[free] > 0).mean()))
            colours.append(colour_names.shares(image[free]))
    if not colours:
        return "hidden background"
    total: Counter[str] = Counter()
    for each in colours:
        total.update(each)
    ranked = sorted(total, key=lambda name: (-total[name], name))
    named = [name for name in ranked[:2] if total[name] / len(colours) >= BACKGROUND_COLOUR]
    activity = float(np.mean(edges))
    words = ["plain"] if activity < PLAIN else ["busy"] if activity > BUSY else []
    return " ".join([*words, " and ".join(named) if named else "colourful", "background"])
