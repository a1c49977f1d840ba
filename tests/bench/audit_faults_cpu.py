"""Planted faults: how many each check finds, how often it cries without one, and how the risk ranks them.

Clean samples, and others with one fault each of a known kind, by a seeded script; every check that a run has runs on
each. `python tests/bench/audit_faults_cpu.py [SAMPLES [SEED]]` prints the table.
"""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import cv2
import numpy as np
from numpy.random import Generator

from audit_samples import FPS, FRAMES, HEIGHT, WIDTH, png, sample, tight
from dataengine import video
from dataengine.audit.checks import Aids, CheckLimits, check_sample
from dataengine.audit.repairs import changed
from dataengine.audit.risk import risk_of
from dataengine.audit.scene import Scene
from dataengine.config import RiskWeights
from dataengine.records import Pair, Phrase, Reference, Relation, Span, Subject
from pipelines.audit import colour_scorer

AIDS = Aids(scorer=colour_scorer, frames=True)


# --- The faults: each takes a clean sample and gives it back with one thing wrong, or None where it cannot ------------


def swapped_attributes(scene: Scene, rng: Generator) -> Scene | None:
    """Two garments change their owners; the votes are right."""
    return _swapped(scene, rng, votes_too=False)


def swapped_with_votes(scene: Scene, rng: Generator) -> Scene | None:
    """Two garments change their owners because the votes were wrong: only the pixels tell."""
    return _swapped(scene, rng, votes_too=True)


def moved_attribute(scene: Scene, rng: Generator) -> Scene | None:
    """A garment is tied to somebody else, with the votes."""
    pair = scene.pair
    owners = [s for s in pair.subjects if s.attributes]
    if len(pair.subjects) < 2 or not owners:
        return None
    owner = owners[int(rng.integers(len(owners)))]
    others = [s for s in pair.subjects if s is not owner and len(s.attributes) < 3]
    if not others:
        return None
    to = others[int(rng.integers(len(others)))]
    gone = owner.attributes[int(rng.integers(len(owner.attributes)))]
    name = f"s{to.index}.a{1 + max((int(a.entity.split('.a')[1]) for a in to.attributes), default=-1)}"
    moved = changed(gone, entity=name, member=f"{name}.png", mask_member=f"{name}.mask.png")
    members = dict(scene.members)
    members[f"{name}.png"] = members.pop(gone.member)
    members[f"{name}.mask.png"] = members.pop(gone.mask_member)
    subjects = {owner.index: changed(owner, attributes=tuple(a for a in owner.attributes if a is not gone)),
                to.index: changed(to, attributes=(*to.attributes, moved))}  # fmt: skip
    relations = tuple(
        _voted(changed(r, attribute=name), to.index) if r.attribute == gone.entity else r for r in pair.relations
    )
    pair = changed(pair, subjects=tuple(subjects.get(s.index, s) for s in pair.subjects), relations=relations)
    return Scene(pair, members)


def swapped_words(scene: Scene, rng: Generator) -> Scene | None:
    """Two garments have each other's words."""
    found = _two(scene.pair, rng)
    if found is None:
        return None
    (_, one), (_, other) = found
    there = {one.entity: changed(one, phrase=other.phrase), other.entity: changed(other, phrase=one.phrase)}
    return Scene(_with(scene.pair, there), scene.members)


def shifted_mask(scene: Scene, rng: Generator) -> Scene | None:
    """A mask lies beside what its reference shows."""
    attribute = _any_attribute(scene.pair, rng)
    mask = _moved(scene.masks[attribute.entity], rng)
    return Scene(scene.pair, scene.members | {attribute.mask_member: png(mask)})


def shifted_cut(scene: Scene, rng: Generator) -> Scene | None:
    """A garment was cut beside its place: mask, box and picture agree with each other, and none with the garment."""
    attribute = _any_attribute(scene.pair, rng)
    mask = _moved(scene.masks[attribute.entity], rng)
    if mask.sum() < 200:
        return None
    box = tight(mask)
    x0, y0, x1, y1 = (int(v) for v in box)
    picture = np.where(mask[y0:y1, x0:x1, None], scene.stills[1][y0:y1, x0:x1], np.uint8(255))
    pair = _with(scene.pair, {attribute.entity: changed(attribute, box=box, area_share=float(mask.mean()))})
    return Scene(pair, scene.members | {attribute.mask_member: png(mask), attribute.member: png(picture)})


def wrong_span(scene: Scene, rng: Generator) -> Scene | None:
    """A garment is tied to other words of the caption that nothing takes, wherever they begin."""
    attribute = _any_attribute(scene.pair, rng)
    caption, length = scene.pair.caption, len(attribute.phrase.text)
    taken = [r.phrase.span for r in scene.pair.references if r.entity != attribute.entity]
    for _ in range(200):
        start = int(rng.integers(0, len(caption) - 2))
        span = Span(start, min(len(caption), start + int(rng.integers(3, length + 4))))
        if rng.random() < 0.9 and not (whole_word(caption, span.start) and whole_word(caption, span.end)):
            continue  # mostly whole words, as an annotator would be wrong
        free = all(max(span.start, t.start) >= min(span.end, t.end) for t in taken)
        if free and span != attribute.phrase.span:
            phrase = Phrase(text=span.of(caption), span=span)
            return Scene(_with(scene.pair, {attribute.entity: changed(attribute, phrase=phrase)}), scene.members)
    return None


def whole_word(text: str, position: int) -> bool:
    """Whether a phrase could begin or end here."""
    return position in (0, len(text)) or not (text[position - 1].isalnum() and text[position].isalnum())


def stale_span(scene: Scene, rng: Generator) -> Scene | None:
    """The caption was edited and the spans were not: what `from_json` would refuse, and other writers may leave."""
    pair = scene.pair
    at = int(rng.integers(0, 10))
    return Scene(pair.model_copy(update={"caption": pair.caption[:at] + "very " + pair.caption[at:]}), scene.members)


def other_identity(scene: Scene, rng: Generator) -> Scene | None:
    """The reference of a face is somebody else's, of another sample."""
    subject = scene.pair.subjects[int(rng.integers(len(scene.pair.subjects)))]
    stranger = sample(int(rng.integers(10_000, 20_000)), 1)
    face = stranger.image(stranger.pair.subjects[0].face).resize(scene.image(subject.face).size)
    return Scene(scene.pair, scene.members | {subject.face.member: png(np.asarray(face))})


def two_in_one(scene: Scene, rng: Generator) -> Scene | None:
    """Tracking took two people for one: their sightings are not alike."""
    number = int(rng.integers(len(scene.pair.subjects)))
    subjects = list(scene.pair.subjects)
    subjects[number] = changed(subjects[number], likeness=float(rng.uniform(-0.1, 0.5)))
    return Scene(changed(scene.pair, subjects=tuple(subjects)), scene.members)


def pasted_face(scene: Scene, rng: Generator) -> Scene | None:
    """One subject's face is the reference of two."""
    if len(scene.pair.subjects) < 2:
        return None
    one, other = rng.choice(len(scene.pair.subjects), 2, replace=False)
    target = scene.pair.subjects[other].face
    face = np.asarray(scene.image(scene.pair.subjects[one].face).resize(scene.image(target).size))
    members = scene.members | {target.member: png(face)}
    if rng.random() < 0.5:  # the clip itself was forged
        x0, y0, x1, y1 = (int(v) for v in target.box)
        forged = scene.stills[1].copy()
        forged[y0:y1, x0:x1] = face
        members["mp4"] = video.encode_clip([forged] * FRAMES, FPS, crf=20, preset="veryfast")
    return Scene(scene.pair, members)


def person_in_background(scene: Scene, rng: Generator) -> Scene | None:
    """People were not, or only half, removed from the background."""
    share = rng.uniform(0.4, 1.0)
    ghost = share * scene.stills[1] + (1 - share) * np.asarray(scene.image(scene.pair.background))
    return Scene(scene.pair, scene.members | {"bg.png": png(ghost.astype(np.uint8))})


def blurred_face(scene: Scene, rng: Generator) -> Scene | None:
    """A face moved while the frame was taken."""
    face = scene.pair.subjects[0].face
    blurred = cv2.GaussianBlur(np.asarray(scene.image(face)), (0, 0), rng.uniform(2, 6))
    return Scene(scene.pair, scene.members | {face.member: png(blurred)})


def riddled_mask(scene: Scene, rng: Generator) -> Scene | None:
    """A mask is full of holes, and its reference with it."""
    attribute = _any_attribute(scene.pair, rng)
    mask = scene.masks[attribute.entity].copy()
    holes = cv2.resize(rng.random((40, 70)).astype(np.float32), (WIDTH, HEIGHT)) > 0.55
    mask &= ~holes | (cv2.erode(mask.astype(np.uint8), np.ones((5, 5))) == 0)
    x0, y0, x1, y1 = (int(v) for v in attribute.box)
    picture = np.where(mask[y0:y1, x0:x1, None], np.asarray(scene.image(attribute)), np.uint8(255))
    return Scene(scene.pair, scene.members | {attribute.mask_member: png(mask), attribute.member: png(picture)})


Fault = Callable[[Scene, Generator], Scene | None]
FAULTS: tuple[Fault, ...] = (
    swapped_attributes, swapped_with_votes, moved_attribute, swapped_words, shifted_mask, shifted_cut, wrong_span,
    stale_span, other_identity, two_in_one, pasted_face, person_in_background, blurred_face, riddled_mask,
)  # fmt: skip


def _swapped(scene: Scene, rng: Generator, votes_too: bool) -> Scene | None:
    found = _two(scene.pair, rng)
    if found is None:
        return None
    (s, one), (t, other) = found
    members = dict(scene.members)
    for a, b in ((one.member, other.member), (one.mask_member, other.mask_member)):
        members[a], members[b] = scene.members[b], scene.members[a]
    there = {
        one.entity: changed(other, entity=one.entity, member=one.member, mask_member=one.mask_member),
        other.entity: changed(one, entity=other.entity, member=other.member, mask_member=other.mask_member),
    }
    names = {one.entity: other.entity, other.entity: one.entity}
    owners = {one.entity: s, other.entity: t}
    relations = []
    for relation in scene.pair.relations:
        if relation.attribute in names:
            relation = changed(relation, attribute=names[relation.attribute])
            relation = _voted(relation, owners[relation.attribute]) if votes_too else relation
        relations.append(relation)
    return Scene(changed(_with(scene.pair, there), relations=tuple(relations)), members)


def _voted(relation: Relation, owner: int) -> Relation:
    return changed(relation, votes=1.0 if relation.subject == owner else 0.0)


def _two(pair: Pair, rng: Generator) -> tuple[tuple[int, Reference], tuple[int, Reference]] | None:
    worn = [s for s in pair.subjects if s.attributes]
    if len(worn) < 2:
        return None
    one, other = (worn[int(i)] for i in rng.choice(len(worn), 2, replace=False))
    return tuple((s.index, s.attributes[int(rng.integers(len(s.attributes)))]) for s in (one, other))


def _any_attribute(pair: Pair, rng: Generator) -> Reference:
    attributes = [a for s in pair.subjects for a in s.attributes]
    return attributes[int(rng.integers(len(attributes)))]


def _with(pair: Pair, there: dict[str, Reference]) -> Pair:
    def worn(subject: Subject) -> Subject:
        return subject.model_copy(update={"attributes": tuple(there.get(a.entity, a) for a in subject.attributes)})

    return pair.model_copy(update={"subjects": tuple(worn(s) for s in pair.subjects)})


def _moved(mask: np.ndarray, rng: Generator) -> np.ndarray:
    """The mask by 15 to 90 % of its size away."""
    box = tight(mask)
    shift = [int(rng.choice([-1, 1]) * rng.uniform(0.15, 0.9) * side) for side in (box.width, box.height)]
    matrix = np.array([[1, 0, shift[0]], [0, 1, shift[1]]], np.float32)
    return cv2.warpAffine(mask.astype(np.uint8), matrix, (WIDTH, HEIGHT)).astype(bool)


# --- The measurement --------------------------------------------------------------------------------------------------


@dataclass
class Measured:
    """What the checks said of clean and corrupted samples."""

    clean: int = 0
    planted: Counter[str] = field(default_factory=Counter)
    found: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    """Corrupted samples of a kind on which a check failed: kind → check → samples. The kind "" is clean."""
    caught: Counter[str] = field(default_factory=Counter)
    """Corrupted samples on which any check failed."""
    risks: list[tuple[float, str, str]] = field(default_factory=list)
    """Risk, kind and key of every sample."""

    def top(self, share: float) -> float:
        """The share of all faults among the riskiest `share` of the samples, or as many of them as fit there."""
        count = round(share * len(self.risks))
        ranked = sorted(self.risks, key=lambda one: (-one[0], one[2]))
        faults = sum(kind != "" for _, kind, _ in self.risks)
        return sum(kind != "" for _, kind, _ in ranked[:count]) / min(faults, count)

    def alarms(self, check: str) -> float:
        return self.found[""][check] / max(1, self.clean)


def cases(samples: int, seed: int, clean: int) -> Iterator[tuple[str, Scene]]:
    """`clean` ones, then `samples` with a fault, the kinds in turn."""
    for number in range(clean):
        yield "", sample(seed + number, clip=True)
    rng = np.random.default_rng(seed)
    number, made = seed + clean, 0
    while made < samples:
        fault = FAULTS[made % len(FAULTS)]
        scene = fault(sample(number, clip=True), rng)
        number += 1
        if scene is not None:
            made += 1
            yield fault.__name__, scene


def measure(samples: int, seed: int = 0, clean: int | None = None, aids: Aids = AIDS) -> Measured:
    result = Measured()
    for kind, scene in cases(samples, seed, samples if clean is None else clean):
        findings = check_sample(scene, CheckLimits(), aids)
        failed = {finding.check for finding in findings if not finding.passed}
        if kind:
            result.planted[kind] += 1
            result.caught[kind] += bool(failed)
        else:
            result.clean += 1
        result.found[kind].update(failed)
        result.risks.append((risk_of(findings, RiskWeights()).risk, kind, scene.pair.key))
    return result


def rare(result: Measured, per_hundred: int) -> Measured:
    """The same with so few faults that they are `per_hundred` of all: every n-th of them, kinds in turn."""
    faults = [one for one in result.risks if one[1]]
    clean = [one for one in result.risks if not one[1]]
    wanted = max(1, round(len(clean) * per_hundred / (100 - per_hundred)))
    return replace(result, risks=clean + faults[:: max(1, len(faults) // wanted)][:wanted])


def main(samples: int, seed: int) -> None:
    result = measure(samples, seed)
    total = sum(result.planted.values())
    print(f"clean samples: {result.clean}, corrupted: {total}")
    print(f"\n{'kind of fault':24}{'n':>5}{'caught':>9}   checks that failed (share of the kind)")
    for kind, count in result.planted.items():
        told = ", ".join(f"{check} {n / count:.2f}" for check, n in result.found[kind].most_common(4))
        print(f"{kind:24}{count:5}{result.caught[kind] / count:9.2f}   {told}")
    print(f"{'all':24}{total:5}{sum(result.caught.values()) / total:9.2f}")
    print(f"\n{'check':26}{'recall':>8}{'of kind':>26}{'false alarms':>15}")
    checks = sorted({check for counts in result.found.values() for check in counts})
    for check in checks:
        kind = max(result.planted, key=lambda k: result.found[k][check] / result.planted[k])
        print(
            f"{check:26}{result.found[kind][check] / result.planted[kind]:8.2f}{kind:>26}{result.alarms(check):15.3f}"
        )
    clean_failed = sum(risk > 0 for risk, kind, _ in result.risks if not kind) / result.clean
    print(f"{'any check':26}{sum(result.caught.values()) / total:8.2f}{'all':>26}{clean_failed:15.3f}")
    for percent in (5, 10):
        few = rare(result, percent)
        told = ", ".join(f"{few.top(share):.2f} in the riskiest {share:.0%}" for share in (0.1, 0.2))
        print(f"with {percent} % of the samples corrupted, share of the faults that could be there: {told}")
    print(f"half of the samples corrupted: {result.top(0.5):.2f} of the riskiest half are faults (bound 1.00)")


if __name__ == "__main__":
    numbers = [int(word) for word in sys.argv[1:]]
    main(*[*numbers, *(210, 7000)[len(numbers) :]])
