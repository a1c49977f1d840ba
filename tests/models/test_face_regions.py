"""Regions from proportions: inside the image, around their face, off the neighbours."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataengine.models.face_regions import (
    BODY,
    HEAD,
    TRUNK,
    FaceRegions,
    centre_x,
    face_coordinates,
    face_unit,
    in_silhouette,
)
from dataengine.models.interfaces import Query
from dataengine.records import Box, Sighting

WIDTH, HEIGHT = 640, 360


def sighting(face: Box) -> Sighting:
    body = BODY.box(face, (), WIDTH, HEIGHT)
    return Sighting(still=0, face=face, face_score=0.9, landmarks=(), body=body, body_score=None, sharpness=9)


faces = st.builds(
    lambda x, y, w, h: Box(x, y, x + w, y + h),
    st.floats(0, 500),
    st.floats(0, 250),
    st.floats(12, 120),
    st.floats(16, 100),
)


@given(faces, faces)
def test_bodies_lie_in_the_image_and_hold_their_own_face_alone(a: Box, b: Box) -> None:
    body_a, body_b = BODY.box(a, (b,), WIDTH, HEIGHT), BODY.box(b, (a,), WIDTH, HEIGHT)
    for face, body in ((a, body_a), (b, body_b)):
        assert 0 <= body.x0 <= body.x1 <= WIDTH
        assert 0 <= body.y0 <= body.y1 <= HEIGHT
        assert body.x0 <= min(centre_x(face), WIDTH) <= body.x1
    apart = abs(centre_x(a) - centre_x(b))
    if apart >= 0.36 * (face_unit(a) + face_unit(b)):  # side by side
        assert body_a.intersection(body_b).area == pytest.approx(0, abs=1e-6)


def test_a_neighbour_far_away_changes_nothing() -> None:
    face = Box(100, 80, 150, 150)
    assert BODY.box(face, (Box(590, 80, 630, 150),), WIDTH, HEIGHT) == BODY.box(face, (), WIDTH, HEIGHT)


def test_the_larger_of_two_people_gets_more_of_the_gap() -> None:
    large, small = Box(100, 80, 180, 190), Box(300, 100, 340, 155)
    between = BODY.box(large, (small,), WIDTH, HEIGHT).x1
    assert between == BODY.box(small, (large,), WIDTH, HEIGHT).x0
    assert between - centre_x(large) == pytest.approx((centre_x(small) - centre_x(large)) * 2 / 3, rel=0.03)


def test_regions_of_the_portrait(collins, sighting_of) -> None:
    """Hair and suit, read off the picture by hand, lie inside their regions and not in each other's."""
    face = sighting_of(collins).face
    hair, top = HEAD.box(face, (), 512, 512), TRUNK.box(face, (), 512, 512)
    for x, y in ((225, 25), (165, 80), (290, 80)):
        assert hair.x0 < x < hair.x1 and hair.y0 < y < hair.y1
    for x, y in ((100, 300), (300, 300), (225, 400)):
        assert top.x0 < x < top.x1 and top.y0 < y < top.y1
    assert top.y0 >= face.y1 - 1


def test_silhouette_follows_head_and_shoulders(collins, sighting_of) -> None:
    y, x = np.mgrid[:512, :512] + 0.5
    shape = in_silhouette(*face_coordinates(sighting_of(collins).face, x, y))
    inside = [(225, 25), (160, 100), (225, 230), (120, 350), (330, 350), (225, 500)]
    outside = [(60, 100), (400, 150), (340, 120), (20, 200)]
    assert all(shape[py, px] for px, py in inside)
    assert not any(shape[py, px] for px, py in outside)


@pytest.mark.parametrize(("phrase", "below"), [("brown hair", False), ("Orange TOP", True), ("a blue shirt", True)])
def test_grounds_hair_and_clothes_inside_their_owner(phrase: str, below: bool) -> None:
    owner = sighting(Box(300, 80, 350, 148))
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    ((found,),) = FaceRegions().ground([Query(image, phrase, owner)])
    assert found.box.intersection(owner.body) == found.box
    assert (found.box.y0 >= owner.face.y1) == below
    assert 0 < found.score <= 1


def test_score_is_the_share_of_the_region_in_the_image() -> None:
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    scores = []
    for face in (Box(300, 100, 350, 168), Box(0, 100, 50, 168)):
        ((found,),) = FaceRegions().ground([Query(image, "brown hair", sighting(face))])
        scores.append(found.score)
    assert scores[0] == pytest.approx(1)
    # Hair reaches 1.1 face units to either side; of the left 1.1, only half a unit is in the image.
    unit = face_unit(Box(0, 100, 50, 168))
    assert scores[1] == pytest.approx((25 + 1.1 * unit) / (2.2 * unit), rel=1e-6)


@pytest.mark.parametrize("phrase", ["red ball", "hairy dog", "stopwatch", ""])
def test_knows_nothing_else(phrase: str) -> None:
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    assert FaceRegions().ground([Query(image, phrase, sighting(Box(300, 80, 350, 148)))]) == [[]]
    assert FaceRegions().ground([Query(image, "brown hair", None)]) == [[]]
