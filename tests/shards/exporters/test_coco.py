"""COCO as pycocotools reads it: masks, boxes and owners are ours."""

import io
import json
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from dataengine.shards.exporters.coco import CocoExport
from dataengine.shards.index import Index
from dataengine.shards.losses import merged
from dataengine.shards.reader import PairDataset
from dataengine.store import Store


@pytest.fixture(scope="module")
def exported(dataset: Store, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    target = tmp_path_factory.mktemp("coco")
    shards = sorted(set(Index.read(dataset).table["shard"].to_pylist()))
    done = [CocoExport().shard(dataset, shard, Store.at(target)) for shard in shards]
    CocoExport().finish(Index.read(dataset), Store.at(target))
    return target, merged(one.losses for one in done).found


def test_pycocotools_finds_our_masks_boxes_and_owners(exported, dataset: Store) -> None:
    folder, _ = exported
    seen = 0
    for split in ("train", "val"):
        with redirect_stdout(io.StringIO()):
            coco = COCO(str(folder / f"annotations/instances_{split}.json"))
        names = {c["id"]: c["name"] for c in coco.loadCats(coco.getCatIds())}
        images = {(i["key"], i["id"]): i for i in coco.loadImgs(coco.getImgIds())}
        for sample in PairDataset(dataset, split=split):
            pair = sample.pair
            wanted = {r.entity: r for r in pair.references if r.kind != "background"}
            for (key, image_id), image in images.items():
                if key != pair.key:
                    continue
                with Image.open(folder / "images" / image["file_name"]) as picture:
                    assert picture.size == (image["width"], image["height"]) == (pair.width, pair.height)
                for annotation in coco.loadAnns(coco.getAnnIds(imgIds=[image_id])):
                    told = annotation["attributes"]
                    reference = wanted.pop(told["entity"])
                    seen += 1
                    assert names[annotation["category_id"]] == reference.phrase.text.lower()
                    assert told["owner"] == (int(reference.entity[1]) if reference.entity[0] == "s" else -1)
                    x, y, width, height = annotation["bbox"]
                    assert (x, y, x + width, y + height) == tuple(reference.box)
                    pixels = coco.annToMask(annotation).astype(bool)
                    if reference.mask_member is None:
                        assert pixels.sum() == pytest.approx(reference.box.area, rel=0.1)
                        continue
                    with Image.open(io.BytesIO(sample.members[reference.mask_member])) as mask:
                        assert (pixels == np.asarray(mask)).all()
                    assert annotation["area"] == pixels.sum()
            assert not wanted
    assert seen == sum(r.kind != "background" for s in PairDataset(dataset) for r in s.pair.references)


def test_frames_show_the_still(exported, dataset: Store) -> None:
    """The orange top of the first still is orange in its frame: the picture is of the right time and colour."""
    folder, _ = exported
    told = json.loads((folder / "annotations/instances_train.json").read_text())
    tops = {c["id"] for c in told["categories"] if c["name"] == "orange top"}
    images = {i["id"]: i for i in told["images"]}
    checked = 0
    for annotation in told["annotations"]:
        if annotation["category_id"] in tops:
            x, y, width, height = annotation["bbox"]
            with Image.open(folder / "images" / images[annotation["image_id"]]["file_name"]) as image:
                red, green, blue = image.convert("RGB").getpixel((int(x + width / 2), int(y + height / 2)))
            assert red > 180 and blue < 110 and green < red
            checked += 1
    assert checked


def test_what_coco_cannot_hold_is_counted(exported, dataset: Store) -> None:
    _, losses = exported
    samples = list(PairDataset(dataset))
    assert losses["clip", "COCO has pictures only"][0] == len(samples)
    assert losses["background", "it is a whole picture, and no instance in one"][0] == len(samples)
    assert not list((exported[0]).rglob("*.jsonl"))
