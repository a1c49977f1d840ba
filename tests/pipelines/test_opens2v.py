"""OpenS2V's flat labels: who owns what is found by pixels, what is unsure is told, nothing is guessed."""

import json
from pathlib import Path

import numpy as np
import pytest

from dataengine import masks
from dataengine.config import DecideSettings, FaceSettings, FilterRules
from dataengine.decide.pairs import decide_pair
from dataengine.records import Box, EncodedClip, Pair, People, Person, Provenance, Sighting
from dataengine.shards.importers.contract import ImportRefused
from dataengine.shards.importers.opens2v import FlatSample, Label, OpenS2VSource
from dataengine.shards.importers.tree import Tree
from dataengine.shards.losses import LossCount
from dataengine.shards.reader import PairDataset
from dataengine.shards.validate import validate
from dataengine.store import Store
from dataengine.video import cut_clip
from pipelines.imports import ImportOptions, import_samples
from pipelines.opens2v import OpenS2V, measure

WIDTH, HEIGHT = 160, 90
CAPTION = (
    "A woman in a red coat talks to a tall man in a blue suit beside a lamp on a street. The woman laughs. "
    "The man holds a book."
)
RULES = DecideSettings(filters=FilterRules(face_min_px=10, face_min_stills=1))


def area(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    pixels = np.zeros((HEIGHT, WIDTH), bool)
    pixels[y0:y1, x0:x1] = True
    return pixels


def label(phrase: str, pixels: np.ndarray, score: float = 0.4) -> Label:
    mask = masks.encode(pixels)
    return Label(phrase, pixels, mask, masks.tight_box(mask), score)


WOMAN, MAN = area(20, 10, 60, 90), area(90, 5, 130, 90)
LABELS = {
    "woman": label("woman", WOMAN, 0.5),
    "person": label("person", WOMAN, 0.3),
    "man": label("man", MAN, 0.5),
    "red coat": label("red coat", area(22, 40, 58, 88)),
    "blue suit": label("blue suit", area(92, 40, 128, 88)),
    "lamp": label("lamp", area(140, 20, 155, 60)),
    "street": label("street", ~(WOMAN | MAN)),
}


def sample(labels: dict[str, Label], caption: str = CAPTION) -> FlatSample:
    return FlatSample(
        name="part1/clip",
        caption=caption,
        video_name="clip.mp4",
        source="clip",
        start_s=1.0,
        end_s=2.0,
        clip=EncodedClip(mp4=b"", width=WIDTH, height=HEIGHT, fps=10, frames=10),
        frame=np.zeros((HEIGHT, WIDTH, 3), np.uint8),
        time_s=0.2,
        labels=tuple(labels.values()),
        subjects=frozenset(("woman", "man")),
        backgrounds=("street",),
        background=None,
    )


def faces(*boxes: Box) -> People:
    def seen(box: Box) -> tuple[Sighting, ...]:
        return (Sighting(still=0, face=box, face_score=0.9, landmarks=(), body=box, body_score=None, sharpness=50.0),)

    return People(people=tuple(Person(index=i, sightings=seen(box)) for i, box in enumerate(boxes)))


HERS, HIS = Box(32, 12, 48, 32), Box(102, 8, 118, 28)


def decided(labels: dict[str, Label], seen: People, caption: str = CAPTION):
    losses = LossCount()
    measured = measure(sample(labels, caption), seen, losses)
    return decide_pair(measured, Provenance(stages=(), decided_by="test"), RULES, 0), losses


def worn(pair: Pair) -> dict[str, list[str]]:
    return {s.noun.text: [a.phrase.text for a in s.attributes] for s in pair.subjects}


def test_owners_are_found_by_pixels() -> None:
    decision, losses = decided(LABELS, faces(HERS, HIS))
    pair = decision.outcome
    assert isinstance(pair, Pair)
    assert worn(pair) == {"woman": ["red coat"], "man": ["blue suit"]}
    assert [o.phrase.text for o in pair.objects] == ["lamp"]
    # "woman" and "man" stand twice: the first place introduces them.
    assert pair.subjects[0].noun.span == (2, 7)
    assert losses.found["further mentions", "a reference is bound to one place: the first"][0] == 2
    relations = {(r.attribute, r.subject): r.votes for r in pair.relations}
    assert relations["s0.a0", 0] == 1 and relations["s0.a0", 1] == 0
    assert pair.clip.start_s == 1.0 and pair.subjects[0].face.time_s == pytest.approx(0.2)


def test_a_coat_on_both_is_nobodys_and_told() -> None:
    both = LABELS | {"red coat": label("red coat", area(40, 40, 110, 88))}
    decision, _ = decided(both, faces(HERS, HIS))
    assert isinstance(decision.outcome, Pair)
    assert worn(decision.outcome)["woman"] == []
    (dropped,) = [d for d in decision.dropped if d.phrase == "red coat"]
    assert dropped.rule.startswith("owner_")


def test_what_a_person_without_a_face_wears_is_not_given_to_another() -> None:
    decision, losses = decided(LABELS, faces(HERS))
    assert isinstance(decision.outcome, Pair)
    assert worn(decision.outcome) == {"woman": ["red coat"]}
    assert losses.found["labels", "on people without a face, or without words of their own"][0] == 1


def test_two_people_by_one_name_are_not_guessed() -> None:
    twins = {"woman": LABELS["woman"], "other": label("woman", MAN)}
    with pytest.raises(ImportRefused, match="0 with words of their own"):
        decided(twins, faces(HERS, HIS))
    # The second woman needs no face to make the name ambiguous.
    with pytest.raises(ImportRefused, match="0 with words of their own"):
        decided(twins, faces(HERS))


def test_two_things_by_one_name_are_not_guessed() -> None:
    suits = LABELS | {"other": label("blue suit", area(24, 44, 56, 80))}
    decision, losses = decided(suits, faces(HERS, HIS))
    assert isinstance(decision.outcome, Pair)
    assert worn(decision.outcome)["man"] == []
    assert losses.found["labels", "several things go by one phrase: the caption may mean either"][0] == 1


def test_a_face_belongs_to_the_smallest_mask_around_it_and_two_faces_to_nobody() -> None:
    crowd = LABELS | {"crowd": label("person", area(0, 0, WIDTH, HEIGHT), 0.2)}
    decision, _ = decided(crowd, faces(HERS, HIS))
    assert isinstance(decision.outcome, Pair) and len(decision.outcome.subjects) == 2
    with pytest.raises(ImportRefused, match="0 of them with a face of their own"):
        decided({"woman": LABELS["woman"]}, faces(HERS, Box(34, 50, 50, 70)))


def test_nobody_with_a_face_is_no_sample() -> None:
    with pytest.raises(ImportRefused, match="nobody with both"):
        decided(LABELS, faces())


def test_at_most_three_attributes_the_best_scored() -> None:
    more = {
        n: label(n, area(24 + 8 * i, 60, 30 + 8 * i, 70), 0.1 * i) for i, n in enumerate(("coat", "beside", "book"))
    }
    decision, losses = decided(LABELS | more, faces(HERS, HIS))
    assert isinstance(decision.outcome, Pair)
    assert ("attributes", "a subject has at most 3: the best scored were taken") in losses.found


def flat_of(sample_video, folder: Path) -> None:
    """A shot of two real people as OpenS2V has it: their bodies and tops, with nothing that says whose a top is."""
    shot = next(s for s in sample_video.truth.shots if len(s.people) == 2)
    start, fps = shot.start_s + 0.2, 24
    clip = cut_clip(sample_video.path, start, start + 1.5, fps=fps, preset="ultrafast")
    left, right = sorted(shot.people, key=lambda p: p.sightings[0].face_box[0])
    words = [("woman", "orange suit"), ("officer", "black uniform")]
    if left.person != "Eileen Collins":
        words.reverse()
    labels: list[tuple[str, np.ndarray]] = []
    for person, (noun, top) in zip((left, right), words, strict=True):
        x0, y0, x1, y1 = (round(v) for v in person.sightings[0].body_box)
        chin = round(person.sightings[0].face_box[3])
        size = (sample_video.truth.height, sample_video.truth.width)
        body, worn = np.zeros(size, bool), np.zeros(size, bool)
        body[y0:y1, x0:x1], worn[chin + 4 : y1, x0 + 4 : x1 - 4] = True, True
        labels += [(noun, body), (top, worn)]
    labels.reverse()
    number = round((left.sightings[0].time_s - start) * fps)
    runs = {str(i): masks.encode(pixels) for i, (_, pixels) in enumerate(labels, 1)}
    caption = f"A {words[0][0]} in a {words[0][1]} looks at an {words[1][0]} in a {words[1][1]}.".replace("a o", "an o")
    told = {
        "metadata": {"path": "c.mp4", "face_cap_qwen": caption},
        "word_tags": {"subject": ["woman", "officer"]},
        "annotation": {
            "ann_frame_data": {
                "ann_frame_idx": max(0, number),
                "annotations": [{"class_name": p, "bbox": [0, 0, 1, 1], "gme_score": 0.4} for p, _ in labels],
                "img_width": sample_video.truth.width,
                "img_height": sample_video.truth.height,
            },
            "mask_map": {str(i): {"class_name": phrase} for i, (phrase, _) in enumerate(labels, 1)},
            "mask_annotation": {
                str(max(0, number)): {i: {"size": [m.height, m.width], "counts": m.counts} for i, m in runs.items()}
            },
        },
    }
    (folder / "Videos").mkdir(parents=True)
    (folder / "Videos/c.mp4").write_bytes(clip)
    (folder / "part1.json").write_text(json.dumps({"c": told}))


def test_two_real_people_get_their_own_clothes(sample_video, tmp_path: Path) -> None:
    flat_of(sample_video, tmp_path / "flat")
    tree = Tree.at(tmp_path / "flat")
    rules = DecideSettings(filters=FilterRules(face_min_stills=1))
    importer = OpenS2V(OpenS2VSource(tree, tree), FaceSettings(), rules)
    summary = import_samples(importer, "flat", str(tmp_path / "out"), ImportOptions())
    assert (summary.samples, summary.refused) == (1, 0)
    out = Store.at(tmp_path / "out")
    assert validate(out).ok
    pair = PairDataset(out)[0].pair
    assert worn(pair) == {"woman": ["orange suit"], "officer": ["black uniform"]}
    assert [s.stage for s in pair.provenance.stages] == ["import", "faces"]
    assert pair.provenance.stages[0].parameters["file"] == "part1/c"
    for subject in pair.subjects:
        assert subject.body is not None
        inside = subject.face.box.intersection(subject.body.box)
        assert inside.area > 0.5 * subject.face.box.area
