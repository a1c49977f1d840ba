"""The sentence holds every phrase at its span, and says what is to be seen on the portraits and no more."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataengine.models.colour_baseline import HAIR_COLOURS, ColourBaseline, Described, article, compose
from dataengine.models.colour_names import TERMS
from dataengine.models.grabcut import cut_person
from dataengine.models.interfaces import Scene
from dataengine.records import Caption, People, Person, Phrase, Sighting


def phrases(caption: Caption) -> list[Phrase]:
    people = [m.phrase for p in caption.people for m in (p.noun, *p.attributes)]
    return [*people, *([caption.background] if caption.background else [])]


def attributes(caption: Caption) -> list[list[str]]:
    return [[m.phrase.text for m in p.attributes] for p in caption.people]


shares = st.floats(0.1, 1)
described = st.builds(
    Described,
    person=st.integers(0, 9),
    seen=shares,
    x=st.floats(0, 1),
    hair=st.none() | st.tuples(st.sampled_from([f"{c} hair" for c in HAIR_COLOURS.values()]), shares),
    top=st.none() | st.tuples(st.sampled_from([f"{c} top" for c in TERMS]), shares),
)


@given(st.lists(described, max_size=6), st.sampled_from(["plain blue background", "orange top", "black hair"]))
def test_every_phrase_is_at_its_span_and_no_two_share_a_character(people: list[Described], scene: str) -> None:
    caption = compose(people, scene)
    taken: set[int] = set()
    for phrase in phrases(caption):
        assert phrase.span is not None
        assert phrase.span.of(caption.text) == phrase.text
        letters = set(range(*phrase.span))
        assert letters and not letters & taken
        taken |= letters
    assert len(caption.people) == len(people)
    for mention, person in zip(caption.people, people, strict=True):
        assert {v.person for m in (mention.noun, *mention.attributes) for v in m.votes} == {person.person}
        assert [m.phrase.text for m in mention.attributes] == [a[0] for a in (person.hair, person.top) if a]
    assert caption.text[0].isupper() and caption.text.endswith(".") and "  " not in caption.text


@given(st.lists(described, min_size=2, max_size=6))
def test_people_are_told_apart_by_place(people: list[Described]) -> None:
    nouns = [p.noun.phrase.text for p in compose(people, "grey background").people]
    assert len(set(nouns)) == len(people)


def test_two_people_in_the_same_clothes() -> None:
    twins = [Described(i, 1.0, 0.3 + 0.4 * i, ("black hair", 1.0), ("orange top", 1.0)) for i in range(2)]
    caption = compose(twins, "plain white background")
    assert caption.text == (
        "A person on the left with black hair and an orange top, and a person on the right with black hair and an "
        "orange top, in front of a plain white background."
    )
    spans = [m.phrase.span for p in caption.people for m in p.attributes]
    assert len(set(spans)) == 4


def test_one_and_none() -> None:
    alone = Described(0, 1.0, 0.9, None, ("blue top", 0.6))
    assert (
        compose([alone], "grey background").text
        == "A person on the right with a blue top, in front of a grey background."
    )
    assert compose([], "orange background").text == "An orange background without people."


def test_articles() -> None:
    assert [article(w) for w in ("orange top", "black top", "uneven", "busy")] == ["an", "a", "a", "a"]


# --- On pictures ------------------------------------------------------------------------------------------------------


def scene_of(images: list[np.ndarray], sightings: list[Sighting]) -> Scene:
    moved = tuple(s.model_copy(update={"still": i}) for i, s in enumerate(sightings))
    return Scene("clip", tuple(images), People(people=(Person(index=0, sightings=moved),)))


def annotate(images: list[np.ndarray], sightings: list[Sighting]) -> Caption:
    return ColourBaseline().annotate([scene_of(images, sightings)])[0]


def test_collins(collins, sighting_of) -> None:
    smaller = cv2.resize(collins, (400, 400), interpolation=cv2.INTER_AREA)
    caption = annotate([collins, smaller], [sighting_of(collins), sighting_of(smaller)])
    assert attributes(caption) == [["brown hair", "orange top"]]
    assert all(m.votes[0].share == 1 for m in caption.people[0].attributes)


def test_hopper_wears_a_hat_so_nothing_is_said_of_hair(hopper, sighting_of) -> None:
    caption = annotate([hopper], [sighting_of(hopper)])
    assert attributes(caption) == [["black top"]]
    assert caption.background is not None and "blue" in caption.background.text


def test_clothes_out_of_frame_are_not_named(collins, sighting_of) -> None:
    close = cv2.resize(collins[:205, 120:330], None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
    assert attributes(annotate([close], [sighting_of(close)])) == [["brown hair"]]


def test_a_bald_head_has_no_hair(collins, sighting_of) -> None:
    """Her hair painted in the colours of her cheek."""
    hair = cut_person(collins, sighting_of(collins), (), 5).hair
    grown = cv2.dilate(hair.astype(np.uint8), np.ones((5, 5))).astype(bool)
    cheek = collins[125:145, 200:215].reshape(-1, 3)
    image = collins.copy()
    image[grown] = cheek[np.random.default_rng(0).integers(0, len(cheek), int(grown.sum()))]
    assert attributes(annotate([image], [sighting_of(collins)])) == [["orange top"]]


DYES = {"black": (25, 22, 20), "blond": (222, 190, 90), "white": (240, 240, 236)}


@pytest.mark.parametrize(("name", "rgb"), DYES.items())
def test_dyed_hair_changes_the_word(name, rgb, collins, sighting_of) -> None:
    hair = cut_person(collins, sighting_of(collins), (), 5).hair
    shade = collins.mean(axis=2) / collins[hair].mean()
    dyed = np.clip(np.array(rgb) * np.clip(shade, 0.9, 1.1)[..., None], 0, 255).astype(np.uint8)
    image = np.where(hair[..., None], dyed, collins)
    assert attributes(annotate([image], [sighting_of(collins)])) == [[f"{name} hair", "orange top"]]


def test_green_hair_is_taken_for_a_hat(collins, sighting_of) -> None:
    hair = cut_person(collins, sighting_of(collins), (), 5).hair
    image = np.where(hair[..., None], (30, 140, 50), collins).astype(np.uint8)
    assert attributes(annotate([image], [sighting_of(collins)])) == [["orange top"]]


HUES = {"blue": (40, 70, 190), "green": (40, 140, 60), "purple": (110, 40, 140)}


@pytest.mark.parametrize(("colour", "rgb"), HUES.items())
def test_recoloured_suit_changes_the_word(colour, rgb, collins, sighting_of) -> None:
    """The suit's own orange pixels get another hue and keep their shading."""
    hsv = cv2.cvtColor(collins, cv2.COLOR_RGB2HSV)
    y = np.arange(512)[:, None]
    suit = (hsv[..., 0] < 14) & (hsv[..., 1] > 120) & (y > 190)
    hue = cv2.cvtColor(np.array([[rgb]], np.uint8), cv2.COLOR_RGB2HSV)[0, 0, 0]
    hsv[suit, 0] = hue
    image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    assert attributes(annotate([image], [sighting_of(image)])) == [["brown hair", f"{colour} top"]]


def test_share_counts_the_stills_that_show_it(collins, sighting_of) -> None:
    close = cv2.resize(collins[:205, 120:330], None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
    caption = annotate([collins, close, collins], [sighting_of(i) for i in (collins, close, collins)])
    hair, top = caption.people[0].attributes
    assert hair.votes[0].share == 1
    assert top.votes[0].share == pytest.approx(2 / 3, abs=1e-4)


def test_doubtful_and_tiny_faces(collins, sighting_of) -> None:
    doubtful = sighting_of(collins).model_copy(update={"face_score": 0.4})
    caption = annotate([collins], [doubtful])
    assert caption.people == () and caption.text.endswith("without people.")
    tiny = cv2.resize(collins, (80, 80), interpolation=cv2.INTER_AREA)
    assert attributes(annotate([tiny], [sighting_of(tiny).model_copy(update={"face_score": 0.6})])) == [[]]


def test_backgrounds() -> None:
    nobody = People(people=())
    blue = np.full((180, 320, 3), (30, 60, 200), np.uint8)
    board = np.kron(np.indices((18, 32)).sum(axis=0) % 2, np.ones((10, 10)))[..., None]
    board = np.where(board == 1, (255, 255, 255), (200, 20, 20)).astype(np.uint8)
    captions = ColourBaseline().annotate([Scene("a", (blue,), nobody), Scene("b", (board, board), nobody)])
    assert [c.background.text for c in captions if c.background] == [
        "plain blue background",
        "busy red and white background",
    ]
