"""Masks on the portraits, checked at points read off the pictures by hand."""

import cv2
import numpy as np
import pytest

from dataengine.models.grabcut import GrabCut, cut_box, cut_person
from dataengine.models.interfaces import Prompt, Prompted
from dataengine.records import Box, Sighting

COLLINS = {
    "hair": [(225, 30), (170, 75), (285, 75), (215, 60)],
    "top": [(100, 300), (70, 420), (320, 290), (200, 450)],
    "body": [(225, 120), (210, 150), (245, 100)],  # the face is the body's alone
    "scene": [(60, 60), (400, 150), (470, 400), (20, 200), (340, 60), (110, 120)],
}
HOPPER = {
    "top": [(120, 450), (430, 450), (90, 560), (300, 520)],
    "body": [(266, 250), (220, 280), (320, 260)],
    "scene": [(40, 200), (450, 100), (480, 250), (60, 60)],
}


def share(mask: np.ndarray, points: list[tuple[int, int]]) -> float:
    return float(np.mean([mask[y, x] for x, y in points]))


@pytest.fixture(scope="module")
def parts(collins, hopper, sighting_of):
    return {
        "collins": cut_person(collins, sighting_of(collins), (), 5),
        "hopper": cut_person(hopper, sighting_of(hopper), (), 5),
    }


def test_hair_top_and_body_of_collins(parts) -> None:
    cut = parts["collins"]
    assert share(cut.hair, COLLINS["hair"]) == 1
    assert share(cut.top, COLLINS["top"]) == 1
    assert share(cut.body, COLLINS["hair"] + COLLINS["top"] + COLLINS["body"]) == 1
    for mask in (cut.hair, cut.top):
        assert share(mask, COLLINS["body"]) == 0
    assert share(cut.body, COLLINS["scene"]) == 0


def test_uniform_of_hopper(parts) -> None:
    cut = parts["hopper"]
    assert share(cut.top, HOPPER["top"]) == 1
    assert share(cut.top, HOPPER["body"]) == 0
    assert share(cut.body, HOPPER["top"] + HOPPER["body"]) == 1
    assert share(cut.body, HOPPER["scene"]) == 0


def test_parts_are_disjoint_and_inside_the_body(parts) -> None:
    for cut in parts.values():
        assert not (cut.hair & cut.top).any()
        assert not ((cut.hair | cut.top) & ~cut.body).any()


def test_no_specks(parts) -> None:
    for cut in parts.values():
        for mask in (cut.body, cut.hair, cut.top):
            _, _, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
            areas = stats[1:, cv2.CC_STAT_AREA]
            assert areas.min() > 0.02 * areas.max()


def test_prompts_name_parts_and_bound_them(collins, sighting_of) -> None:
    person = sighting_of(collins)
    box = Box(40, 200, 300, 480)
    prompts = [
        Prompt("brown hair", person.body, 0),
        Prompt("orange top", box, 0),
        Prompt("person on the left", person.body, 0),
    ]
    hair, top, body = next(GrabCut(5).segment([Prompted(collins, [person], prompts)]))
    assert hair.pixels[30, 225] and not hair.pixels[300, 100]
    assert top.pixels[300, 100] and not top.pixels[30, 225]
    assert body.pixels[30, 225] and body.pixels[300, 100]
    ys, xs = np.nonzero(top.pixels)
    assert xs.min() >= 40 and xs.max() < 300 and ys.min() >= 200 and ys.max() < 480
    assert all(0 < s.score <= 1 for s in (hair, top, body))


def test_same_input_same_masks_whatever_was_cut_before(collins, hopper, sighting_of) -> None:
    prompts = [Prompt("person", sighting_of(collins).body, 0), Prompt("orange top", sighting_of(collins).body, 0)]
    first = next(GrabCut(3).segment([Prompted(collins, [sighting_of(collins)], prompts)]))
    cv2.setRNGSeed(99)
    next(GrabCut(3).segment([Prompted(hopper, [sighting_of(hopper)], [Prompt("person", sighting_of(hopper).body, 0)])]))
    again = next(GrabCut(3).segment([Prompted(collins, [sighting_of(collins)], prompts)]))
    for a, b in zip(first, again, strict=True):
        assert np.array_equal(a.pixels, b.pixels) and a.score == b.score


def test_two_people_keep_their_own_clothes(collins, hopper, centerface, sighting_of) -> None:
    small = cv2.resize(hopper, (437, 512), interpolation=cv2.INTER_AREA)
    both = np.hstack([collins[:, :400], small])
    faces = sorted((f.box for f in centerface.detect([both])[0]), key=lambda b: b.x0)
    assert len(faces) == 2
    left = sighting_of(np.where(np.arange(both.shape[1])[None, :, None] < 400, both, 0).astype(np.uint8), (faces[1],))
    right = sighting_of(np.where(np.arange(both.shape[1])[None, :, None] >= 400, both, 0).astype(np.uint8), (faces[0],))
    prompts = [Prompt("orange top", left.body, 0), Prompt("black top", right.body, 1)]
    orange, black = next(GrabCut(5).segment([Prompted(both, [left, right], prompts)]))
    assert orange.pixels[300, 100] and not black.pixels[300, 100]
    at = 400 + round(120 * 437 / 512), round(450 * 512 / 600)
    assert black.pixels[at[1], at[0]] and not orange.pixels[at[1], at[0]]
    assert not (orange.pixels & black.pixels).any()


def test_an_object_is_cut_out_of_its_box() -> None:
    rng = np.random.default_rng(5)
    y, x = np.mgrid[:240, :320]
    ball = (x - 180) ** 2 + (y - 110) ** 2 < 45**2
    image = np.clip(np.where(ball[..., None], (200, 40, 40), (90, 110, 90)) + rng.normal(0, 8, (240, 320, 3)), 0, 255)
    found = cut_box(image.astype(np.uint8), Box(125, 55, 235, 165), (), 5)
    assert (found & ball).sum() / (found | ball).sum() > 0.93


def test_score_tells_contrast_from_camouflage() -> None:
    y, x = np.mgrid[:200, :200]
    ball = (x - 100) ** 2 + (y - 100) ** 2 < 40**2
    noise = np.random.default_rng(6).normal(0, 10, (200, 200, 3))
    prompt = [Prompt("ball", Box(50, 50, 150, 150), None)]
    scores = []
    for colour in ((210, 40, 40), (98, 112, 94)):
        image = np.clip(np.where(ball[..., None], colour, (90, 110, 90)) + noise, 0, 255).astype(np.uint8)
        scores.append(next(GrabCut(5).segment([Prompted(image, (), prompt)]))[0].score)
    assert scores[0] > 0.9 > 0.6 > scores[1]


@pytest.mark.parametrize("value", [0, 128, 255])
def test_an_image_of_one_colour_does_no_harm(value: int, sighting_of, collins) -> None:
    image = np.full((360, 640, 3), value, np.uint8)
    face = Box(600, 300, 640, 360)
    person = Sighting(
        still=0, face=face, face_score=0.4, landmarks=(), body=Box(540, 270, 640, 360), body_score=None, sharpness=0
    )
    (segment,) = next(GrabCut(5).segment([Prompted(image, [person], [Prompt("blue top", person.body, 0)])]))
    assert segment.pixels.shape == (360, 640)
    assert 0 <= segment.score <= 1
