"""Plain webdataset: every sample of a set has the same files and fields, and the whole record comes back."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import webdataset
import yaml
from PIL import Image

from dataengine import masks
from dataengine.records import Mask, Pair
from dataengine.shards.exporters.webdataset import WebdatasetExport
from dataengine.shards.importers.tars import TarSample, tar_samples
from dataengine.shards.importers.tree import Tree
from dataengine.shards.index import Index
from dataengine.shards.reader import PairDataset
from dataengine.store import Store


@pytest.fixture(scope="module")
def exported(dataset: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("webdataset")
    for shard in sorted(set(Index.read(dataset).table["shard"].to_pylist())):
        WebdatasetExport().shard(dataset, shard, Store.at(target))
    WebdatasetExport().finish(Index.read(dataset), Store.at(target))
    return target


def read(folder: Path) -> list[dict]:
    return list(webdataset.WebDataset(sorted(map(str, folder.glob("*.tar"))), shardshuffle=False))


def fields(value: object) -> object:
    """A JSON value's shape: the viewer wants one for all samples, and no nulls."""
    assert value is not None
    if isinstance(value, dict):
        return {key: fields(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [fields(value[0])] if value else []
    return type(value)


def test_clips_have_the_same_files_and_the_whole_record(exported: Path, dataset: Store) -> None:
    found = {sample["__key__"]: sample for sample in read(exported / "clips")}
    ours = {sample.pair.key: sample for sample in PairDataset(dataset)}
    assert found.keys() == ours.keys()
    for key, sample in found.items():
        assert {name for name in sample if not name.startswith("__")} == {"mp4", "txt", "json"}
        told = json.loads(sample["json"])
        assert Pair.from_json(told["record"]) == ours[key].pair
        assert sample["mp4"] == ours[key].members["mp4"] and sample["txt"].decode() == ours[key].pair.caption
    assert len({json.dumps(fields(json.loads(s["json"])), default=str) for s in found.values()}) == 1


def test_references_have_the_same_files_and_their_masks(exported: Path, dataset: Store) -> None:
    found = {sample["__key__"]: sample for sample in read(exported / "references")}
    assert len(found) == sum(len(sample.pair.references) for sample in PairDataset(dataset))
    shapes = {json.dumps(fields(json.loads(s["json"])), default=str) for s in found.values()}
    assert len(shapes) == 1
    for sample in PairDataset(dataset):
        for reference in sample.pair.references:
            one = found[f"{sample.pair.key}-{reference.entity.replace('.', '-')}"]
            told = json.loads(one["json"])
            assert one["png"] == sample.members[reference.member]
            assert told["caption"][told["start"] : told["end"]] == reference.phrase.text
            assert told["subject"] == (int(reference.entity[1]) if reference.entity[0] == "s" else -1)
            if reference.mask_member is None:
                assert told["mask_counts"] == ""
                continue
            height, width = told["mask_size"]
            pixels = masks.decode(Mask(height=height, width=width, counts=told["mask_counts"]))
            with Image.open(io.BytesIO(sample.members[reference.mask_member])) as image:
                assert (pixels == np.asarray(image)).all()


def test_the_card_names_files_that_are_there(exported: Path, dataset: Store) -> None:
    text = (exported / "README.md").read_text()
    head = yaml.safe_load(text.split("---")[1])
    splits = set(Index.read(dataset).table["split"].to_pylist())
    for config in head["configs"]:
        assert {file["split"] for file in config["data_files"]} == {
            "train" if s == "train" else "validation" for s in splits
        }
        for file in config["data_files"]:
            assert list(exported.glob(file["path"]))
    assert f"{len(Index.read(dataset))} samples" in text


def test_others_importers_and_ours_read_the_clips_again(exported: Path, dataset: Store) -> None:
    captions = {sample.pair.key: sample.pair.caption for sample in PairDataset(dataset)}

    def save(key: str, ending: str, chunks) -> str:
        return f"{len(b''.join(chunks))}.{ending}"

    found = {}
    for tar in sorted((exported / "clips").glob("*.tar")):
        for one in tar_samples(
            Tree.at(exported), f"clips/{tar.name}", lambda key, ending, chunks: str(len(b"".join(chunks)))
        ):
            assert isinstance(one, TarSample)
            found[one.key] = one.caption
    assert found == captions
