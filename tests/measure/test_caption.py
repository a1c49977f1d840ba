"""What is said of the sample's people is true of them."""

from dataclasses import replace

import pytest

from dataengine.config import CaptionSettings
from dataengine.measure.caption import CaptionStage
from dataengine.records import Caption, People


def true_words(person, region: str) -> set[str]:
    return {colour for worn in person.worn if worn.region == region for colour in worn.colours}


@pytest.mark.parametrize("name", ["collins", "hopper", "both"])
def test_every_attribute_is_true_of_its_owner(name, seen) -> None:
    caption = seen[name].row[Caption]
    truth = sorted(seen[name].shot.people, key=lambda p: p.sightings[0].face_box[0])
    assert len(caption.people) == len(truth)
    for mention, true in zip(caption.people, truth, strict=True):
        assert mention.noun.owner is not None
        for attribute in mention.attributes:
            assert attribute.owner is not None and attribute.owner.person == mention.noun.owner.person
            colour, noun = attribute.phrase.text.split()
            assert colour in true_words(true, "hair" if noun == "hair" else "top"), f"{true.person}: {attribute}"
        assert any("top" in a.phrase.text for a in mention.attributes)


def test_places_are_said_from_left_to_right(seen) -> None:
    caption = seen["both"].row[Caption]
    assert [p.noun.phrase.text for p in caption.people] == ["person on the left", "person on the right"]
    owners = [p.noun.owner.person for p in caption.people if p.noun.owner]
    assert owners == [p.index for p in seen["both"].row[People].people]


def test_every_phrase_stands_at_its_span(seen) -> None:
    for one in seen.values():
        caption = one.row[Caption]
        mentions = [m for p in caption.people for m in (p.noun, *p.attributes)]
        for phrase in [*(m.phrase for m in mentions), caption.background]:
            assert phrase is not None and phrase.span is not None
            assert phrase.span.of(caption.text) == phrase.text


def test_same_words_again_and_a_name_that_says_what_it_is(seen) -> None:
    stage = CaptionStage(CaptionSettings())
    stage.setup()
    assert stage.process([seen["both"].row]) == [seen["both"].row[Caption]]
    assert stage.model == "colour-baseline"
    assert seen["both"].row[Caption].answers == ()


def test_a_caption_that_came_with_the_video_is_kept(seen) -> None:
    text = "A woman in an orange suit, and a woman in a black uniform with grey hair: two pioneers."
    row = seen["both"].row
    stage = CaptionStage(CaptionSettings())
    stage.setup()
    captioned = replace(row, source=row.source.model_copy(update={"caption": text}))
    (caption,) = stage.process([captioned])
    assert isinstance(caption, Caption) and caption.text == text
    people = row[People].people
    left_to_right = sorted(seen["both"].shot.people, key=lambda p: p.sightings[0].face_box[0])
    by_name = {p.person: people[i].index for i, p in enumerate(left_to_right)}
    owners = {p.attributes[0].phrase.text: p.attributes[0].owner for p in caption.people}
    assert {words: vote.person for words, vote in owners.items() if vote} == {
        "orange suit": by_name["Eileen Collins"],
        "black uniform": by_name["Grace Hopper"],
    }
    nouns = [p.noun.owner.person for p in caption.people if p.noun.owner]
    assert nouns == [by_name["Eileen Collins"], by_name["Grace Hopper"]]
