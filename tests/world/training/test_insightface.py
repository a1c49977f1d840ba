"""The pack's detector says what CenterFace says, and its recogniser is the network that learned from strangers."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from dataengine.config import CenterFaceSettings, FaceSettings, IdentityRules, InsightFaceSettings
from dataengine.decide.identities import cluster
from dataengine.measure.faces import FacesStage
from dataengine.models.centerface import CenterFace
from dataengine.models.insightface_pack import InsightFace
from dataengine.records import SourceVideo, Stills
from dataengine.stage import Row
from dataengine.world.cast import CAST, identity
from dataengine.world.judge import Score
from dataengine.world.make import VideoTruth, scripts
from dataengine.world.pairs import stills_of, window
from dataengine.world.recognised import Recognised, purity, whose_face
from dataengine.world.training import CHECKPOINTS, centerface, insightface
from dataengine.world.training.examples import TRAINING, example
from dataengine.world.training.insightface import crops, exported_detector, exported_recogniser, strange, stranger
from dataengine.world.training.log import read_log

CLIPS = 20
FLOORS = {"people over stills": 0.98, "people over clips": 0.9, "people known again": 0.9}
SOURCE = SourceVideo(source_id="world", uri="", names=(), size_bytes=0)


@pytest.fixture(scope="module")
def networks():
    """Random ones; the detector is sure of a face in a tenth of all cells."""
    torch.manual_seed(0)
    detector, recogniser = centerface.Network(), insightface.Recogniser()
    images = torch.rand(4, 3, 96, 96) * 255
    detector(images)
    assert detector.heads.bias is not None
    with torch.no_grad():
        detector.heads.bias[0] -= detector.eval()(images)[:, 0].quantile(0.9)
    recogniser(torch.rand(4, 3, 112, 112))
    return detector.eval(), recogniser.eval()


def test_the_detector_says_what_centerface_says(tmp_path: Path, networks) -> None:
    detector, recogniser = networks
    onnx.save(exported_detector(detector), tmp_path / insightface.DETECTOR)
    onnx.save(exported_recogniser(recogniser), tmp_path / insightface.RECOGNISER)
    (tmp_path / "centerface").mkdir()
    onnx.save(centerface.exported(detector), tmp_path / "centerface" / centerface.FILE)
    pack = InsightFace(InsightFaceSettings(weights=str(tmp_path), side=96, device="cpu"), 0.5)
    alone = CenterFace(0.5, CenterFaceSettings(weights=str(tmp_path / "centerface" / centerface.FILE)))
    pack.load()
    alone.load()
    image = np.random.default_rng(0).integers(0, 255, (96, 96, 3)).astype(np.uint8)
    said, expected = pack.detect([image])[0], alone.detect([image])[0]
    assert said
    assert said[0].score == pytest.approx(expected[0].score, abs=1e-5)
    # Their non-maximum suppressions are not the same: every face of the one is a candidate of the other.
    candidates = _candidates(detector, image)
    for face in said:
        nearest = candidates[np.abs(candidates[:, 0] - face.score).argmin()]
        np.testing.assert_allclose(nearest[1:], np.ravel(face.landmarks), atol=1e-2)


def _candidates(detector: centerface.Network, image: np.ndarray) -> np.ndarray:
    """Score and landmarks of every cell, [cells, 11]."""
    with torch.no_grad():
        maps = detector(torch.from_numpy(image).permute(2, 0, 1)[None].float())[0].double().numpy()
    rows, columns = np.mgrid[: maps.shape[1], : maps.shape[2]]
    extent = np.exp(maps[2:0:-1]) * 4
    corner = (np.stack([columns, rows]) + maps[4:2:-1] + 0.5) * 4 - extent / 2
    marks = maps[5:].reshape(5, 2, *rows.shape)[:, ::-1] * extent + corner
    return np.concatenate([1 / (1 + np.exp(-maps[:1])), marks.reshape(10, *rows.shape)]).reshape(11, -1).T


def test_the_recogniser_is_the_network(tmp_path: Path, networks) -> None:
    _, recogniser = networks
    onnx.save(exported_recogniser(recogniser), tmp_path / "rec.onnx")
    faces = np.random.default_rng(0).normal(size=(3, 3, 112, 112)).astype(np.float32)
    session = onnxruntime.InferenceSession(str(tmp_path / "rec.onnx"))
    with torch.no_grad():
        expected = recogniser(torch.from_numpy(faces)).numpy()
    assert expected.std() > 0.01
    np.testing.assert_allclose(session.run(None, {"data": faces})[0], expected, atol=1e-4)


def test_strangers_are_nobody_of_the_world_and_play_in_its_videos() -> None:
    def looks(one) -> tuple:
        return tuple(one.model_dump(exclude={"name"}).values())

    assert not {looks(stranger(i)) for i in range(200)} & {looks(identity(i)) for i in range(CAST)}
    assert stranger(7) == stranger(7)
    cut = 0
    for index in range(4):
        usual, (shown, who) = example(TRAINING, index), strange(TRAINING, index, np.random.default_rng(0))
        assert [actor.person.identity for actor in shown.shot.actors] == [stranger(number) for number in who]
        assert [actor.x for actor in shown.shot.actors] == [actor.x for actor in usual.shot.actors]
        assert np.abs(shown.image.astype(int) - usual.image).mean() > 0.3
        for number, crop in crops(shown, np.random.default_rng(0)):
            cut += 1
            assert crop.shape == (112, 112, 3)
            skin = np.median(crop[70:84, 40:72].reshape(-1, 3), axis=0)
            assert np.abs(skin - shown.shot.actors[number].person.identity.skin).max() < 40
    assert cut > 4


def test_looks_are_read_off_the_features_of_their_own_face() -> None:
    people = [stranger(number) for number in range(6)]
    looks = insightface.Looks(people)
    true = people[2]
    told = [
        *(20.0 * (choice == one) for of, one in zip(
            looks.CHOICES, (true.skin, true.eyes, true.hair, true.hair_colour, true.beard), strict=True
        ) for choice in of),
        *((size - middle) / spread for size, (middle, spread) in zip(
            (true.face_width, true.brow, true.mouth), looks.RANGES, strict=True
        )),
    ]  # fmt: skip
    with torch.no_grad():
        looks.head.weight.zero_()
        looks.head.bias.copy_(torch.tensor(told))
        losses = [float(looks(torch.randn(1, 96, 1, 1), torch.tensor([number]))) for number in range(len(people))]
    assert losses[2] < 1e-4
    assert min(losses[:2] + losses[3:]) > 1


def test_the_committed_pack_knows_people_again_over_clips() -> None:
    """The faces stage on the stills of true clips, and the corpus's own clustering at its default threshold."""
    chosen = InsightFaceSettings(weights=str(CHECKPOINTS / "insightface"), side=288, device="cpu")
    stage = FacesStage(FaceSettings(detector="insightface", insightface=chosen))
    stage.setup()
    people: list[Recognised] = []
    clips, embeddings = [], []
    for truth in map(VideoTruth.of, scripts(CLIPS, 1)):
        for number in range(len(truth.shots)):
            (clip, *_), (_, stills) = window(truth, number), stills_of(truth, number)
            (found,) = stage.process([Row(SOURCE, clip, {Stills: stills})])
            for person in found.people:
                seen = (whose_face(truth, stills.stills[s.still].time_s, s.face) for s in person.sightings)
                people.append(Recognised(truth.name, tuple(seen), None))
                clips.append(clip.clip_id)
                embeddings.append(person.embedding)
    rules = IdentityRules()
    labels = cluster(np.array(embeddings, np.float16), clips, rules.threshold, rules.neighbours)
    people = [one._replace(group=int(label)) for one, label in zip(people, labels, strict=True)]
    totals: dict[str, list[Score]] = defaultdict(list)
    for metric, _, score in purity(people):
        totals[metric].append(score)
    values = {metric: sum(s.right for s in scores) / sum(s.true for s in scores) for metric, scores in totals.items()}
    assert len({one.identity for one in people}) >= 15
    assert set(values) == set(FLOORS)
    assert all(values[metric] >= floor for metric, floor in FLOORS.items()), values


def test_a_few_steps_run_and_the_adapter_takes_what_they_leave(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(insightface, "FACES", 8)
    monkeypatch.setattr(insightface, "FRAMES", 8)
    log = insightface.train(tmp_path, steps=8, say=lambda text: None)
    assert read_log(tmp_path) == log
    assert log.curve[-1].step == 8
    assert insightface.held_out(tmp_path, range(2))[0].value == 1  # the detector is the committed one
