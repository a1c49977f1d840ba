from __future__ import annotations

import io

import numpy as np
from PIL import Image

from dataengine.audit.contact_sheet import contact_sheet, draw_sheet
from dataengine.audit.palette import BACKGROUND, SUBJECTS
from dataengine.audit.scene import Scene
from dataengine.shards.index import write_index
from dataengine.store import Store


def _pixels(out: Store) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(out.read("contact_sheet.png"))))


def _has(pixels: np.ndarray, fill: str) -> bool:
    rgb = [int(fill[i : i + 2], 16) for i in (1, 3, 5)]
    return bool((pixels == rgb).all(axis=-1).any())


def test_a_sheet_of_a_dataset(dataset: Store) -> None:
    contact_sheet(dataset)
    first = dataset.read("contact_sheet.png")
    pixels = _pixels(dataset)
    assert pixels.shape[1:] == (1600, 3)
    below_the_legend = pixels[130:]
    for colour in (SUBJECTS[0], SUBJECTS[1], BACKGROUND):
        assert _has(below_the_legend, colour.fill)
    assert not _has(below_the_legend, SUBJECTS[2].fill)
    contact_sheet(dataset)
    assert dataset.read("contact_sheet.png") == first


def test_the_limit_is_kept(dataset: Store) -> None:
    contact_sheet(dataset)
    tall = _pixels(dataset).shape[0]
    contact_sheet(dataset, limit=1)
    assert _pixels(dataset).shape[0] < tall / 2


def test_a_damaged_sample_is_shown_as_such(scenes: list[Scene], dataset: Store) -> None:
    broken = Scene(scenes[0].pair, {**scenes[0].members, "mp4": b"", "s1.a0.png": b"\x89PNG junk"})
    pixels = np.asarray(draw_sheet([broken, scenes[1]], ""))
    assert _has(pixels, "#fdecea")
    # Damage on the disk: the shard ends early.
    name = "shards/train-2s-00000.tar"
    dataset.write(name, dataset.read(name)[:700])
    contact_sheet(dataset)
    assert _has(_pixels(dataset), "#fdecea")


def test_an_empty_dataset_says_so(tmp_path) -> None:
    out = Store.at(tmp_path)
    with out.open_output("index.parquet") as stream:
        write_index(stream, [])
    contact_sheet(out)
    assert _has(_pixels(out), "#fdecea")
