"""The labelled world: truth and pictures are one drawing, captions say what is drawn, all follows from the seed."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from dataengine import masks
from dataengine.video import decode_clip
from dataengine.world import drawing
from dataengine.world.cast import COLOURS, HAIR_COLOURS, identity
from dataengine.world.make import VideoTruth, make_world, read_truth, scripts
from dataengine.world.script import HEIGHT, WIDTH, Script, script

SOME = tuple(script(5, number) for number in range(40))


@pytest.mark.parametrize("made", SOME[:12], ids=lambda made: str(made.number))
def test_captions_say_what_is_drawn(made: Script) -> None:
    for shot in made.shots:
        told = shot.caption
        nouns = [actor.person.identity.noun for actor in shot.actors]
        sides = (" on the left", " in the middle", " on the right")[:: 2 if len(nouns) == 2 else 1]
        assert sorted(told.order) == list(range(len(shot.actors)))
        for position, named in zip(told.order, told.people, strict=True):
            person = shot.actors[position].person
            worn = {person.top.phrase, person.identity.hair_phrase, *(item.phrase for item in person.accessories)}
            noun = person.identity.noun
            assert named.noun.text == (noun if nouns.count(noun) == 1 else noun + sides[position])
            assert {phrase.text for phrase in named.attributes} <= worn and len(named.attributes) <= 3
        phrases = [p for named in told.people for p in (named.noun, *named.attributes)]
        phrases += [*told.objects, told.background]
        taken: set[int] = set()
        for phrase in phrases:
            assert phrase.span is not None and phrase.span.of(told.text) == phrase.text
            assert taken.isdisjoint(range(*phrase.span)), "every phrase has words of its own"
            taken |= set(range(*phrase.span))
        assert " a o" not in told.text and " a a" not in told.text, "articles"


def test_masks_have_the_colours_that_captions_name() -> None:
    """Read off the frame, not off the drawing's own tables."""
    seen = 0
    for made in SOME[:15]:
        number = made.shots[0].frames // 2
        image, truth = drawing.frame(made, number), drawing.truth(made, number)
        assert truth is not None and truth.shot == 0
        found = {mask.entity: masks.decode(mask.mask) for mask in truth.masks}
        for index, named in enumerate(made.shots[0].caption.people):
            for at, phrase in enumerate(named.attributes):
                words = phrase.text.split()
                table = HAIR_COLOURS if "hair" in words else COLOURS
                colour = next(table[word] for word in words if word in table)
                pixels = found.get(f"s{index}.a{at}")
                if pixels is None or pixels.sum() < 200 or "striped" in words or "jacket" in words:
                    continue
                inner = cv2.erode(pixels.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)
                if inner.sum() > 20:
                    assert np.abs(np.median(image[inner], axis=0) - colour).max() < 16, phrase.text
                    seen += 1
    assert seen > 20


def test_parts_belong_to_their_person() -> None:
    for made in SOME[:10]:
        truth = drawing.truth(made, made.frames - 1)
        assert truth is not None
        found = {mask.entity: masks.decode(mask.mask) for mask in truth.masks}
        bodies = {name: pixels for name, pixels in found.items() if name.endswith(".body")}
        assert sum(pixels.astype(int) for pixels in bodies.values()).max() <= 1, "a pixel is one person's"
        for name, pixels in found.items():
            if name.startswith("s"):
                assert not (pixels & ~bodies[f"{name.split('.')[0]}.body"]).any()
            assert pixels.shape == (HEIGHT, WIDTH)


def test_a_dissolve_shows_two_shots_and_has_no_truth_of_its_own() -> None:
    made = next(made for made in (script(5, n) for n in range(200)) if any(shot.dissolve for shot in made.shots))
    index = next(i for i, shot in enumerate(made.shots) if shot.dissolve)
    start = sum(shot.frames for shot in made.shots[:index])
    before, middle, after = (drawing.frame(made, k).astype(int) for k in (start - 1, start + 6, start + 12))
    assert np.abs(middle - (before + after) / 2).mean() < 0.25 * np.abs(before - after).mean()
    assert drawing.truth(made, start + 6) is None and drawing.truth(made, start + 12) is not None
    truth = VideoTruth.of(made)
    assert (start / 24, (start + 12) / 24) in truth.dissolves_s and (start + 6) / 24 in truth.cuts_s


def test_people_are_the_same_in_all_videos_and_clothes_are_not() -> None:
    worn: dict[str, set[str]] = {}
    for made in SOME:
        for shot in made.shots:
            for actor in shot.actors:
                who = actor.person.identity
                assert who == identity(int(who.name.removeprefix("person")))
                worn.setdefault(who.name, set()).add(actor.person.top.phrase)
    assert max(map(len, worn.values())) > 1


def test_hard_cases_are_there() -> None:
    cases = [case for made in (script(1, n) for n in range(120)) for shot in made.shots for case in shot.hard]
    assert set(cases) == {"same noun", "same garment", "bag beside another", "overlap", "sides swapped"}
    people = [len(shot.actors) for made in SOME for shot in made.shots]
    assert set(people) == {1, 2, 3}


def test_videos_and_their_truth_are_written_the_same_each_time(tmp_path: Path) -> None:
    truths = make_world(tmp_path / "one", clips=3, seed=2)
    make_world(tmp_path / "two", clips=3, seed=2, workers=2)
    one, two = ({p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in ("one", "two"))
    assert one == two and len(one) == 2 * len(truths)
    assert sum(len(truth.shots) for truth in truths) >= 3
    assert tuple(read_truth(tmp_path / "one").values()) == truths
    truth = truths[0]
    frames = decode_clip(one[f"{truth.name}.mp4"])
    assert len(frames) == truth.frames
    drawn = drawing.frame(truth.script, 10).astype(int)
    assert np.abs(frames[10].rgb - drawn).mean() < 6, "the file shows what the truth is of"
    assert truth.at(frames[10].time_s) == drawing.truth(truth.script, 10)
    assert truth.at(-1) is None and truth.at(999) is None


def test_damaged_truth_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.truth.json").write_text("{}")
    with pytest.raises(ValueError, match=r"x\.truth\.json is no truth of this version"):
        read_truth(tmp_path)


def test_the_number_of_clips_is_reached_and_no_more() -> None:
    made = list(scripts(25, 9))
    assert sum(len(m.shots) for m in made) >= 25 > sum(len(m.shots) for m in made[:-1])
