"""A sample's references as people look at them: a column for each subject, then what surrounds them."""

from __future__ import annotations

from dataclasses import dataclass

from dataengine.audit import palette
from dataengine.audit.palette import Colour, colour_of
from dataengine.audit.wording import visible
from dataengine.records import Pair, Reference


@dataclass(frozen=True)
class Group:
    """References that belong together, each with the words to put under it; all words are safe to show."""

    title: str
    colour: Colour
    references: tuple[tuple[str, Reference], ...]


def subjects(pair: Pair) -> list[Group]:
    """Each subject's face, attributes and body."""
    groups = []
    for subject in pair.subjects:
        members = [("face", subject.face), *((visible(a.phrase.text), a) for a in subject.attributes)]
        if subject.body is not None:
            members.append(("whole body", subject.body))
        groups.append(Group(visible(subject.noun.text), colour_of(subject.face.entity), tuple(members)))
    return groups


def surroundings(pair: Pair) -> list[Group]:
    """The background and the objects, where there are any."""
    groups = []
    if pair.background is not None:
        members = ((visible(pair.background.phrase.text), pair.background),)
        groups.append(Group("background", palette.BACKGROUND, members))
    if pair.objects:
        groups.append(Group("objects", palette.OBJECT, tuple((visible(o.phrase.text), o) for o in pair.objects)))
    return groups
