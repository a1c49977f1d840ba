"""Whether those who were taken for one person are one: over the stills of a clip, and over all clips."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from dataengine.records import Box
from dataengine.world.judge import SAME_FACE, Score, iou
from dataengine.world.make import VideoTruth


class Recognised(NamedTuple):
    """Somebody who was followed through a clip.

    Attributes:
        video: file name.
        seen: whose face each sighting outside of dissolves really shows, one at least; None where it shows nobody's.
        group: the person of the corpus that it was taken for; None without embeddings.
    """

    video: str
    seen: tuple[str | None, ...]
    group: int | None

    @property
    def identity(self) -> str | None:
        """Who it is by most sightings."""
        return Counter(self.seen).most_common(1)[0][0]


def whose_face(truth: VideoTruth, time_s: float, face: Box) -> str | None:
    """The identity whose face a box shows at a time of the video; None for nobody's, and inside a dissolve."""
    seen = truth.at(time_s)
    if seen is None:
        return None
    people = truth.shots[seen.shot].people
    boxes = {mask.entity: mask.box for mask in seen.masks}
    overlaps = [iou(boxes[f"s{i}.face"], face) if f"s{i}.face" in boxes else 0.0 for i in range(len(people))]
    best = max(range(len(people)), key=lambda i: overlaps[i])
    return people[best].identity if overlaps[best] >= SAME_FACE else None


def purity(people: Sequence[Recognised]) -> Iterator[tuple[str, str, Score]]:
    """Metric, video and score of everybody.

    "people over stills": sightings that show the one whom most of that person's sightings show. "people over clips":
    people who are who most of their group are. "people known again": people who are in the group that most of those
    who are the same are in.
    """
    for person in people:
        right = sum(who == person.identity for who in person.seen) if person.identity else 0
        yield "people over stills", person.video, Score(right, len(person.seen), len(person.seen))
    grouped = [person for person in people if person.group is not None]
    groups: dict[int | None, Counter[str | None]] = defaultdict(Counter)
    identities: dict[str | None, Counter[int | None]] = defaultdict(Counter)
    for person in grouped:
        groups[person.group][person.identity] += 1
        identities[person.identity][person.group] += 1
    for person in grouped:
        if person.identity is None:
            yield "people over clips", person.video, Score(0, 1, 1)
            continue
        most = groups[person.group].most_common(1)[0][0]
        usual = identities[person.identity].most_common(1)[0][0]
        yield "people over clips", person.video, Score(int(person.identity == most), 1, 1)
        yield "people known again", person.video, Score(int(person.group == usual), 1, 1)
