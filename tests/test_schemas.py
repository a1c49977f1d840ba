"""Schemas: the committed files are the records', and what is written obeys them."""

import json

import jsonschema
import pytest

from dataengine import schemas
from dataengine.config import DecideSettings
from dataengine.decide.pairs import decide_pair
from dataengine.records import Provenance


def validator(name: str) -> jsonschema.Draft202012Validator:
    schema = json.loads((schemas.FOLDER / name).read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def test_committed_files_are_the_generated_ones():
    committed = {file.name: file.read_text(encoding="utf-8") for file in schemas.FOLDER.glob("*.schema.json")}
    assert committed == schemas.schemas(), "run `python -m dataengine.schemas`"


def test_writing_removes_what_is_gone(tmp_path):
    (tmp_path / "old.schema.json").write_text("{}")
    (tmp_path / "notes.md").write_text("")
    schemas.write(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {*schemas.schemas(), "notes.md"}


@pytest.mark.parametrize("media", [True, False])
def test_measurements_obey(measured_clip, media):
    measured = measured_clip(0, people=1, media=media)
    for name, record in {
        "clip": measured.clip,
        "stills": measured.stills,
        "people": measured.people,
        "caption": measured.caption,
        "grounding": measured.grounding,
        "segmentation": measured.segmentation,
        "background": measured.background,
        "encoded_clip": measured.encoded,
    }.items():
        check = validator(f"{name}.schema.json")
        check.validate(json.loads(record.to_json()))
        check.validate(json.loads(record.pack()[0]))


def test_pairs_obey_and_others_do_not(measured_clip):
    decision = decide_pair(measured_clip(0, people=2), Provenance(stages=(), decided_by=""), DecideSettings(), seed=0)
    validator("decision.schema.json").validate(json.loads(decision.to_json()))
    check, pair = validator("pair.schema.json"), json.loads(decision.outcome.to_json())
    check.validate(pair)
    for change in ({"key": "a.b"}, {"split": "test"}, {"weather": ""}, {"subjects": [{}]}, {"clip": None}):
        assert not check.is_valid(pair | change), change
    for field in pair:
        assert not check.is_valid({name: value for name, value in pair.items() if name != field}), field
