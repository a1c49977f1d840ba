"""The three questions: what is asked, what becomes of the answers. The model here answers by script; real ones are
asked in `test_qwen_vllm.py` and by the whole gpu profile.
"""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import jsonschema
import numpy as np
import pytest

from dataengine.config import QwenSettings
from dataengine.models.interfaces import Answer, Question, Scene
from dataengine.models.qwen_annotator import QwenAnnotator, numberings, seed_of
from dataengine.records import Box, Caption, People, Person, Sighting, Span, Vote
from dataengine.stage import BadInput
from dataengine.weights import Needs

TEXT = "The man on the left in a black shirt talks to the man on the right in a black hat at a desk in an office."
ENTITIES = {
    "people": [
        {"noun": "man on the left", "attributes": ["black shirt"]},
        {"noun": "man on the right", "attributes": ["black hat"]},
    ],
    "objects": ["desk"],
    "background": "office",
}
OWNERS = {"man": 0, "man on the left": 0, "black shirt": 0, "man on the right": 1, "black hat": 1}


class Scripted:
    """Answers each kind of question by a function; sees who has which number by the colours of the crops."""

    name, revision, needs = "scripted", "1", Needs()

    def __init__(self, **replies: Callable[[Question, int], str]) -> None:
        self.replies = {"caption": caption, "entities": entities, "ownership": owned} | replies
        self.asked: list[tuple[str, Question]] = []

    def load(self) -> None:
        pass

    async def answer(self, question: Question) -> Answer:
        kind = next(k for k, key in KEYS.items() if key in question.schema["properties"])
        self.asked.append((kind, question))
        text = self.replies[kind](question, sum(k == kind for k, _ in self.asked))
        return Answer(text, complete=not text.endswith("…"))

    def questions(self, kind: str) -> list[Question]:
        return [question for k, question in self.asked if k == kind]


KEYS = {"caption": "caption", "entities": "people", "repair": "phrases", "ownership": "choices"}


def caption(question: Question, turn: int) -> str:
    return json.dumps({"caption": TEXT})


def entities(question: Question, turn: int) -> str:
    return json.dumps(ENTITIES)


def person_of(question: Question) -> dict[int, int]:
    """Which person has each number, by the colour of the crop behind "Person N:"."""
    parts = question.parts
    said = [(part, parts[i + 1]) for i, part in enumerate(parts) if isinstance(part, str) and "Person" in part[:7]]
    return {int(re.findall(r"\d+", words)[0]): int(image[image.shape[0] // 2, image.shape[1] // 2, 0] > 128)
            for words, image in said}  # fmt: skip


def owned(question: Question, turn: int) -> str:
    numbers = {person: number for number, person in person_of(question).items()}
    asked = re.findall(r"^\d+\. (.+)$", question.parts[-1], re.MULTILINE)
    return json.dumps({"choices": [{"phrase": words, "person": numbers[OWNERS[words]]} for words in asked]})


@pytest.fixture
def scene() -> Scene:
    """Two people: a dark one on the left, a bright one on the right."""
    image = np.full((90, 160, 3), 100, np.uint8)
    image[20:90, 10:60], image[20:90, 100:150] = 20, 240
    boxes = (Box(10, 20, 60, 90), Box(100, 20, 150, 90))
    people = tuple(
        Person(
            index=i,
            sightings=tuple(
                Sighting(still=still, face=Box(b.x0 + 15, 25, b.x0 + 35, 45), face_score=1, landmarks=(), body=b,
                         body_score=None, sharpness=1)
                for still in range(3)
            ),
        )
        for i, b in enumerate(boxes)
    )  # fmt: skip
    return Scene("clip", (image,) * 3, People(people=people), (image,) * 4)


def annotate(model: Scripted, scene: Scene, **settings: object) -> Caption | BadInput:
    annotator = QwenAnnotator(model, QwenSettings.model_validate(settings))
    annotator.load()
    return annotator.annotate([scene])[0]


def test_who_wears_what(scene) -> None:
    model = Scripted()
    found = annotate(model, scene)
    assert isinstance(found, Caption)
    assert found.text == TEXT
    assert [(p.noun.phrase.text, p.noun.owner.person, p.noun.margin) for p in found.people] == [
        ("man on the left", 0, 1.0),
        ("man on the right", 1, 1.0),
    ]
    for person in found.people:
        for attribute in person.attributes:
            assert attribute.owner.person == person.noun.owner.person
            assert attribute.phrase.span.of(TEXT) == attribute.phrase.text
    assert [o.text for o in found.objects] == ["desk"]
    assert found.background.span == Span(TEXT.index("office"), TEXT.index("office") + 6)
    assert [said.split(": ", 1)[0] for said in found.answers] == ["caption", "entities", "ownership", "ownership"]


def test_what_is_asked(scene) -> None:
    model = Scripted()
    annotate(model, scene)
    (first,), (second,), rounds = (model.questions(kind) for kind in ("caption", "entities", "ownership"))
    assert [type(part) for part in first.parts] == [np.ndarray] * 4 + [str]
    assert "4 frames" in first.parts[-1] and "English" in first.parts[-1]
    assert TEXT in second.parts[-1] and "$" not in second.parts[-1]
    assert len({question.seed for _, question in model.asked}) == 4
    assert "The [1: man on the left] in a [2: black shirt] talks to the [3: man" in rounds[0].parts[-1]
    assert [person_of(question) for question in rounds] in ([{1: 0, 2: 1}, {1: 1, 2: 0}], [{1: 1, 2: 0}, {1: 0, 2: 1}])
    for question in rounds:
        assert not np.array_equal(question.parts[0], scene.images[0]), "boxes are drawn"
        answer = json.loads(owned(question, 1))
        jsonschema.validate(answer, question.schema)
        for wrong in (
            {"choices": answer["choices"][:-1]},
            {"choices": answer["choices"][::-1]},
            {"choices": [c | {"person": 3} for c in answer["choices"]]},
        ):
            with pytest.raises(jsonschema.ValidationError):
                jsonschema.validate(wrong, question.schema)


def test_a_wrong_answer_of_two_is_outvoted(scene) -> None:
    """What two rounds disagree on is asked about once more under both numberings, alone and so in other words."""

    def shirt_wrong_once(question: Question, turn: int) -> str:
        answer = json.loads(owned(question, turn))
        for choice in answer["choices"]:
            if turn == 1 and choice["phrase"] == "black shirt":
                choice["person"] = 3 - choice["person"]
        return json.dumps(answer)

    model = Scripted(ownership=shirt_wrong_once)
    found = annotate(model, scene)
    assert isinstance(found, Caption)
    (shirt,) = found.people[0].attributes
    assert shirt.owner == Vote(person=0, share=0.75)
    assert found.people[0].noun.owner == Vote(person=0, share=1.0), "nobody disagrees there"
    first, second, *again = model.questions("ownership")
    assert [person_of(question) for question in again] == [person_of(first), person_of(second)]
    assert all("The man on the left in a [1: black shirt] talks" in question.parts[-1] for question in again)
    assert len({question.seed for question in (first, second, *again)}) == 4


def test_nouns_are_asked_about_again_apart_from_attributes(scene) -> None:
    def exchanged_once(question: Question, turn: int) -> str:
        answer = json.loads(owned(question, turn))
        return json.dumps({"choices": [c | {"person": 3 - c["person"]} if turn == 1 else c for c in answer["choices"]]})

    model = Scripted(ownership=exchanged_once)
    found = annotate(model, scene)
    assert isinstance(found, Caption)
    assert [p.noun.owner.person for p in found.people] == [0, 1]
    asked = [re.findall(r"^\d+\. (.+)$", q.parts[-1], re.MULTILINE) for q in model.questions("ownership")]
    nouns, worn = ["man on the left", "man on the right"], ["black shirt", "black hat"]
    assert asked == [[nouns[0], worn[0], nouns[1], worn[1]]] * 2 + [nouns] * 2 + [worn] * 2


@pytest.mark.parametrize("weak", ["repair", "second ballot"])
def test_a_question_that_only_mends_loses_nothing(weak: str, scene) -> None:
    def sloppy(question: Question, turn: int) -> str:
        people = [{"noun": "man on the left", "attributes": ["dark shirt"]}, ENTITIES["people"][1]]
        return json.dumps(ENTITIES | {"people": people}) if weak == "repair" else entities(question, turn)

    def hat_is_once_wrong(question: Question, turn: int) -> str:
        if turn > 2:
            return "nonsense"
        answer = json.loads(owned(question, turn))
        if turn == 1 and weak == "second ballot":
            answer["choices"][-1]["person"] = 0
        return json.dumps(answer)

    found = annotate(Scripted(entities=sloppy, repair=lambda q, t: "nonsense", ownership=hat_is_once_wrong), scene)
    assert isinstance(found, Caption)
    (shirt,), (hat,) = (person.attributes for person in found.people)
    assert [p.noun.owner for p in found.people] == [Vote(person=0, share=1), Vote(person=1, share=1)]
    assert (shirt.phrase.span is None) == (weak == "repair")
    assert hat.owner == Vote(person=1, share=1.0 if weak == "repair" else 0.5)
    assert sum("nonsense" in said for said in found.answers) >= 2


def test_the_same_question_is_not_asked_again(scene) -> None:
    def always_one(question: Question, turn: int) -> str:
        return re.sub(r'"person": \d', '"person": 1', owned(question, turn))

    def only_people(question: Question, turn: int) -> str:
        return json.dumps(ENTITIES | {"people": [p | {"attributes": []} for p in ENTITIES["people"]]})

    model = Scripted(ownership=always_one, entities=only_people)
    assert isinstance(annotate(model, scene), Caption)
    assert len(model.questions("ownership")) == 2


def test_a_model_that_prefers_a_number_convinces_nobody(scene) -> None:
    def always_one(question: Question, turn: int) -> str:
        return re.sub(r'"person": \d', '"person": 1', owned(question, turn))

    found = annotate(Scripted(ownership=always_one), scene)
    assert isinstance(found, Caption)
    for mention in (found.people[0].noun, *found.people[0].attributes):
        assert [vote.share for vote in mention.votes] == [0.5, 0.5]
        assert mention.owner is None and mention.margin == 0


def test_nobody_is_an_answer(scene) -> None:
    def nobody(question: Question, turn: int) -> str:
        return re.sub(r'"person": \d', '"person": 0', owned(question, turn))

    found = annotate(Scripted(ownership=nobody), scene)
    assert isinstance(found, Caption) and found.people[0].noun.votes == ()


def test_phrases_that_cannot_be_used_are_repaired(scene) -> None:
    def sloppy(question: Question, turn: int) -> str:
        people = [{"noun": "man", "attributes": ["dark shirt", "left hand"]}, ENTITIES["people"][1]]
        return json.dumps(ENTITIES | {"people": people})

    def repaired(question: Question, turn: int) -> str:
        assert "'dark shirt' stands no time" in question.parts[-1]
        assert "'left hand' is a part of the body" in question.parts[-1]
        assert "1. " in question.parts[-1] and question.schema["properties"]["phrases"]["minItems"] == 2
        return json.dumps({"phrases": ["black shirt", ""]})

    found = annotate(Scripted(entities=sloppy, repair=repaired), scene)
    assert isinstance(found, Caption)
    noun, (shirt, hand) = found.people[0].noun, found.people[0].attributes
    assert noun.phrase.text == "man" and noun.phrase.span.start == 4, "the place that the other man leaves"
    assert shirt.phrase.text == "black shirt" and shirt.owner.person == 0
    assert hand.phrase.text == "left hand" and hand.phrase.span is None and hand.votes == ()


def paraphrased(question: Question, turn: int) -> str:
    people = [{"noun": "gentleman", "attributes": ["dark top"]}, {"noun": "fellow", "attributes": ["dark cap"]}]
    return json.dumps(ENTITIES | {"people": people})


def test_what_is_mostly_miscopied_is_repaired_before_it_is_judged(scene) -> None:
    def repaired(question: Question, turn: int) -> str:
        return json.dumps({"phrases": [words for words in OWNERS if words != "man"]})

    model = Scripted(entities=paraphrased, repair=repaired)
    found = annotate(model, scene)
    assert isinstance(found, Caption)
    assert [p.noun.phrase.text for p in found.people] == ["man on the left", "man on the right"]
    assert [a.owner.person for p in found.people for a in p.attributes] == [0, 1]
    assert len(model.questions("entities")) == 1


def test_what_repair_does_not_mend_is_quarantined(scene) -> None:
    model = Scripted(entities=paraphrased, repair=lambda q, t: json.dumps({"phrases": ["", "", "", "black hat"]}))
    found = annotate(model, scene)
    assert isinstance(found, Caption), "half of the phrases stand there"
    model = Scripted(entities=paraphrased, repair=lambda q, t: json.dumps({"phrases": [""] * 4}))
    found = annotate(model, scene)
    assert isinstance(found, BadInput) and str(found) == "entities: 2 of 6 phrases stand in the caption"
    assert [said.split(":")[0] for said in found.answers] == ["caption", "entities", "repair"]
    assert model.questions("ownership") == []


def test_a_weak_answer_is_asked_again_with_another_seed(scene) -> None:
    def second_time(question: Question, turn: int) -> str:
        return '{"caption": "A man and' if turn == 1 else caption(question, turn)

    model = Scripted(caption=second_time)
    found = annotate(model, scene)
    assert isinstance(found, Caption)
    first, second = model.questions("caption")
    assert first.seed != second.seed and first.parts[-1] == second.parts[-1]
    assert found.answers[0] == 'caption: {"caption": "A man and', "the weak one is kept as well"


@pytest.mark.parametrize(
    ("replies", "why"),
    [
        ({"caption": lambda q, t: '{"caption": "I am sorry, I cannot help with that request."}'}, "caption: refuses"),
        ({"entities": lambda q, t: '{"people": [], "objects": [], "background": ""}'}, "entities: names nobody"),
        ({"ownership": lambda q, t: '{"choices": ['}, "ownership: not the JSON"),
        ({"caption": lambda q, t: '{"caption": "A man…'}, "caption: cut off"),
    ],
)
def test_twice_weak_is_quarantined_with_the_raw_answers(replies, why, scene) -> None:
    found = annotate(Scripted(**replies), scene)
    assert isinstance(found, BadInput)
    assert re.match(f"{why}.*\\(2 answers\\)", str(found))
    kind = why.split(":")[0]
    assert sum(said.startswith(f"{kind}: ") for said in found.answers) >= 2


def test_one_bad_scene_does_not_touch_the_others(scene) -> None:
    def by_scene(question: Question, turn: int) -> str:
        return "nonsense" if question.parts[0].mean() == 0 else caption(question, turn)

    dark = Scene("dark", scene.images, scene.people, (np.zeros_like(scene.images[0]),))
    annotator = QwenAnnotator(Scripted(caption=by_scene), QwenSettings())
    annotator.load()
    found = annotator.annotate([scene, dark, scene])
    assert [type(one) for one in found] == [Caption, BadInput, Caption]


def test_numberings_are_permutations_that_all_differ() -> None:
    for people in ([0], [0, 1], [4, 7, 9]):
        rounds = numberings("clip", people, len(people))
        assert all(sorted(numbers.values()) == list(range(1, len(people) + 1)) for numbers in rounds)
        for person in people:
            assert len({numbers[person] for numbers in rounds}) == len(people)
    assert numberings("clip", [0, 1, 2], 3) == numberings("clip", [2, 1, 0], 3)
    assert len({str(numberings(f"clip{i}", [0, 1, 2], 1)) for i in range(40)}) == 6, "who is 1 depends on the clip"


def test_seeds_depend_on_clip_question_round_and_attempt() -> None:
    assert (
        len({seed_of(c, q, r, a) for c in "ab" for q in ("caption", "entities") for r in (0, 1) for a in (0, 1)}) == 16
    )
    assert 0 <= seed_of("x") < 2**31


def test_a_prompt_edit_changes_the_hash_and_a_wrong_name_is_refused(tmp_path: Path, scene) -> None:
    from dataengine.config import ConfigError
    from dataengine.models.prompts import FOLDER, Prompts

    for file in FOLDER.glob("*.md"):
        (tmp_path / file.name).write_text(file.read_text())
    assert Prompts.read(tmp_path) == Prompts.read()
    (tmp_path / "repair.md").write_text("Costs $$5. $problems")
    assert Prompts.read(tmp_path).all != Prompts.read().all
    assert Prompts.read(tmp_path).ask("repair", problems="a $caption", caption="", count=1) == "Costs $5. a $caption"
    (tmp_path / "repair.md").write_text("$caption $nonsense")
    with pytest.raises(ConfigError, match=r"repair\.md: \$nonsense means nothing"):
        Prompts.read(tmp_path)
    (tmp_path / "repair.md").unlink()
    with pytest.raises(ConfigError, match="a prompt is missing"):
        Prompts.read(tmp_path)


def test_a_given_caption_is_kept_and_not_asked_for(scene) -> None:
    model = Scripted()
    given = TEXT.replace("  ", " ") + "\nThey smile."
    found = annotate(model, replace(scene, given=given))
    assert isinstance(found, Caption)
    assert found.text == given
    assert model.questions("caption") == []
    assert given in model.questions("entities")[0].parts[-1]
    assert [p.noun.phrase.text for p in found.people] == ["man on the left", "man on the right"]
    assert [a.owner.person for p in found.people for a in p.attributes if a.owner] == [0, 1]
    assert all(answer.partition(":")[0] in ("entities", "ownership") for answer in found.answers)
