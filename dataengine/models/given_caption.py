"""Who and what a given caption names, and whose it is, by rules: `ColourBaseline`'s way with captions it did not write.

People are found by their nouns, what they wear by a colour in front of hair or an upper garment; which person of the
clip a noun means is told by the colours that were seen on each and by "on the left". Anything else of a caption is not
understood and left alone, and where colours do not tell two people apart their votes tie: `decide` then refuses them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, permutations

from dataengine.models.face_regions import HAIR, TOPS
from dataengine.records import Caption, Mention, PersonMention, Phrase, Span, Vote

MOST_PEOPLE = 6
PEOPLE = tuple(
    """actor actress boy bride businessman businesswoman chef child doctor gentleman girl groom guy host individual kid
    lady man musician nurse person player reporter singer speaker teenager toddler woman worker""".split()  # noqa: SIM905
)
COLOURS = {
    **{term: term for term in ("black", "white", "grey", "red", "green", "yellow", "blue", "brown", "purple", "pink")},
    "orange": "orange",
    "gray": "grey",
    "silver": "grey",
    "navy": "blue",
    "blond": "yellow",
    "blonde": "yellow",
    "golden": "yellow",
    "tan": "brown",
    "beige": "brown",
    "maroon": "red",
    "crimson": "red",
    "violet": "purple",
}
"""Words for colours, and the basic term that pixels of it are counted under."""
HAIR_TERMS = {"yellow": "blond", "orange": "red"}
"""What hair of that colour is counted under."""
SIDES = {"left": 0.0, "middle": 0.5, "center": 0.5, "centre": 0.5, "right": 1.0}

_NOUN = re.compile(rf"\b({'|'.join(PEOPLE)})\b", re.IGNORECASE)
_WORN = re.compile(
    rf"\b(?:(?:light|dark|bright|pale|deep)[ -])?({'|'.join(COLOURS)})"
    rf"(?:[ -](?!(?:and|or|with|in|on|at|of)\b)[\w-]+){{0,2}}?[ ](?:t-)?({'|'.join((*HAIR, *TOPS))})\b",
    re.IGNORECASE,
)
_SIDE = re.compile(rf"\b(?:on|to|in|at) the (?:far )?({'|'.join(SIDES)})\b", re.IGNORECASE)
_DEFINITE = re.compile(r"\b(?:the|this|that)\s+(?:\w+\s+)?$", re.IGNORECASE)
_SCENE = re.compile(
    r"\b(?:in front of|against) (?:a|an|the) ((?:[\w-]+ ){0,4}?(?:background|backdrop|wall|curtain))\b", re.IGNORECASE
)


@dataclass(frozen=True)
class Seen:
    """A person of the clip: the shares of colours on hair and top (empty where not seen), and where it stands, 0…1."""

    person: int
    hair: Mapping[str, float]
    top: Mapping[str, float]
    x: float


@dataclass(frozen=True)
class _Worn:
    phrase: Phrase
    colour: str
    is_hair: bool

    def share(self, seen: Seen) -> float:
        """How surely what the person wears there is called so: 1 for its commonest colour, less for others."""
        shares = seen.hair if self.is_hair else seen.top
        term = HAIR_TERMS.get(self.colour, self.colour) if self.is_hair else self.colour
        return (shares.get(term, 0.0) / max(shares.values())) ** 2 if shares else 0.0


@dataclass(frozen=True)
class _Named:
    noun: Phrase
    worn: tuple[_Worn, ...]
    side: float | None

    def evidence(self, seen: Seen) -> float:
        colours = [worn.share(seen) for worn in self.worn]
        told = sum(colours) / len(colours) if colours else 0.0
        return told + (max(0.0, 1 - 2 * abs(seen.x - self.side)) if self.side is not None else 0.0)


def annotate(text: str, people: Sequence[Seen]) -> Caption:
    """The caption as it was given, with what is understood of it. Spans are unique and never overlap."""
    named = _named(text)
    means = _assigned(named, people)
    scene = _SCENE.search(text)
    return Caption(
        text=text,
        people=tuple(
            PersonMention(
                noun=Mention(phrase=one.noun, votes=votes),
                attributes=tuple(Mention(phrase=worn.phrase, votes=_votes(worn, people)) for worn in one.worn),
            )
            for one, votes in zip(named, means, strict=True)
        ),
        objects=(),
        background=None if scene is None else _phrase(text, scene.span(1)),
        answers=(),
    )


def _named(text: str) -> list[_Named]:
    """The people, each with what is said up to the next person. "The man" after "a man" is the same one."""
    mentions = []
    known: set[str] = set()
    for match in _NOUN.finditer(text):
        noun = match[1].lower()
        again = noun in known and _DEFINITE.search(text[: match.start()])
        # "The man on the left" after "the man on the right" is another one.
        if not again or _SIDE.match(text, match.end() + 1):
            mentions.append(match)
        known.add(noun)
    found = []
    starts = [match.start() for match in mentions]
    for match, (_, after) in zip(mentions, pairwise((*starts, len(text))), strict=True):
        worn = [
            _Worn(_phrase(text, w.span()), COLOURS[w[1].lower()], w[2].lower() in HAIR)
            for w in _WORN.finditer(text, match.end(), after)
        ]
        side = _SIDE.search(text, match.end(), after)
        place = None if side is None else SIDES[side[1].lower()]
        found.append(_Named(_phrase(text, match.span(1)), tuple(worn[:3]), place))
    return found[:MOST_PEOPLE]


def _assigned(named: Sequence[_Named], people: Sequence[Seen]) -> list[tuple[Vote, ...]]:
    """For each noun its votes: by evidence; one noun and one person are each other's."""
    if len(named) == len(people) == 1:
        return [(Vote(person=people[0].person, share=1.0),)]
    votes: list[tuple[Vote, ...]] = [() for _ in named]
    if not named or not people or len(people) > MOST_PEOPLE:
        return votes
    evidence = [[one.evidence(seen) for seen in people] for one in named]
    short, long = sorted((len(named), len(people)))
    best = max(
        permutations(range(long), short),
        key=lambda chosen: sum(
            evidence[i][j] if len(named) <= len(people) else evidence[j][i] for i, j in enumerate(chosen)
        ),
    )
    pairs = enumerate(best) if len(named) <= len(people) else ((j, i) for i, j in enumerate(best))
    for i, j in pairs:
        # The chosen person against all others for this noun, and against all other nouns for this person.
        row, column = sum(evidence[i]), sum(line[j] for line in evidence)
        if evidence[i][j] > 0:
            votes[i] = (Vote(person=people[j].person, share=round(evidence[i][j] / max(row, column), 4)),)
    return votes


def _votes(worn: _Worn, people: Sequence[Seen]) -> tuple[Vote, ...]:
    shares = [worn.share(seen) for seen in people]
    total = max(1.0, sum(shares))
    return tuple(Vote(person=s.person, share=round(c / total, 4)) for s, c in zip(people, shares, strict=True) if c > 0)


def _phrase(text: str, span: tuple[int, int]) -> Phrase:
    return Phrase(text=text[slice(*span)], span=Span(*span))
