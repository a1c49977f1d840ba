"""The dataset card: true numbers, a head that the hub reads, and snippets that run."""

import io
import re

import pytest
import yaml
from PIL import Image

from dataengine.shards.card import Told, card, write_card
from dataengine.shards.index import Index


@pytest.fixture(scope="module")
def text(dataset) -> str:
    return card(dataset)


def test_the_head_is_what_the_hub_reads(text, dataset):
    head = yaml.safe_load(text.split("---\n")[1])
    assert head["task_categories"] == ["text-to-video"] and head["size_categories"] == ["n<1K"]
    assert head["configs"][0]["data_files"] == [
        {"split": "train", "path": "shards/train-*.tar"},
        {"split": "validation", "path": "shards/val-*.tar"},
    ]


def test_counts_are_those_of_the_index(text, dataset):
    rows = list(Index.read(dataset))
    assert f"{len(rows)} samples from 7 source videos" in text
    assert f"{sum(r.subjects for r in rows)} subjects with a face, {sum(r.attributes for r in rows)} attributes" in text
    train = [sum(r.split == "train" and r.subjects == n for r in rows) for n in (1, 2, 3)]
    assert "| train | " + " | ".join(map(str, [*train, sum(train)])) + " |" in text


def test_it_says_how_it_was_made(text):
    assert "| faces | centerface | 1.5.0 | 1 | f1 |" in text
    assert "| caption | colour\\|baseline | - | 3 | c3 |" in text, "names cannot leave their cell"
    assert "read 8 source videos (1 further copies of them, 2 files that are no videos), cut 9 clips" in text
    assert "refused by rule: faces 2." in text


def test_the_snippets_run(text, dataset, monkeypatch, capsys):
    snippets = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(snippets) == 2
    monkeypatch.chdir(dataset.uri)
    outputs = []
    for code in snippets:
        exec(code, {})
        outputs.append(capsys.readouterr().out)
    train = [row for row in Index.read(dataset) if row.split == "train"]
    assert outputs[0].count(" has ") == sum(row.attributes for row in train)
    assert f"{train[0].key} woman has orange top" in outputs[0]
    assert outputs[1].startswith(f"{len(train)} {train[0].caption}")


def test_an_empty_dataset_has_a_card(make_dataset):
    text = card(make_dataset((), "empty"))
    assert "0 samples from 0 source videos" in text and "configs" not in text.split("---\n")[1]


def test_the_card_is_the_same_every_time(text, dataset):
    assert card(dataset) == text and dataset.uri not in text


def test_prompts_are_told_where_they_are_known(dataset):
    assert "asked with the prompts `p3`." in card(dataset)
    told = card(dataset, Told(prompts={"p3": "Describe it.\n```json\n{}\n```"}))
    assert "asked with the prompts `p3`:\n\n````text\nDescribe it.\n```json" in told


def test_it_says_whether_somebody_has_looked(dataset):
    assert "nobody has looked at samples" in card(dataset)
    told = card(dataset, Told(audit="2 of 60 random samples were wrong."))
    assert "2 of 60 random samples were wrong." in told and "nobody has looked" not in told


def test_it_is_written_with_a_picture_of_its_own(make_dataset, made_samples):
    out = make_dataset(made_samples, "carded")
    write_card(out)
    assert "(distributions.png)" in out.read("README.md").decode()
    picture = out.read("distributions.png")
    with Image.open(io.BytesIO(picture)) as image:
        assert image.size == (1100, 528) and len(image.convert("L").getcolors()) > 10
    write_card(out)
    assert out.read("distributions.png") == picture, "the same bytes for the same dataset"
    empty = make_dataset((), "empty")
    write_card(empty)
    assert not empty.exists("distributions.png") and "distributions.png" not in empty.read("README.md").decode()
