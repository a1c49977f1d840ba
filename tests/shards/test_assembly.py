"""Samples: the right pixels under the right names."""

import io

import numpy as np
import pytest
from PIL import Image

from dataengine import masks
from dataengine.config import DecideSettings
from dataengine.decide.pairs import decide_pair
from dataengine.records import Background, Pair, Provenance, Segmentation
from dataengine.shards.assembly import assemble


@pytest.fixture
def measured(measured_clip):
    return measured_clip(0, people=2, media=True)


@pytest.fixture
def pair(measured) -> Pair:
    return decide_pair(measured, Provenance(stages=(), decided_by=""), DecideSettings(), 0).outcome


def assembled(pair, m, **changes):
    records = {"stills": m.stills, "segmentation": m.segmentation, "background": m.background, "encoded": m.encoded}
    return assemble(pair, **records | changes)


def image(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


def test_names_and_order(pair, measured):
    assert [member.name for member in assembled(pair, measured)] == [
        "mp4",
        "json",
        *("s0.face.png", "s0.a0.png", "s0.a0.mask.png", "s0.body.png", "s0.body.mask.png"),
        *("s1.face.png", "s1.a0.png", "s1.a0.mask.png", "s1.body.png", "s1.body.mask.png"),
        *("o0.png", "o0.mask.png", "bg.png"),
    ]


def test_the_record_and_the_clip_are_as_they_were(pair, measured):
    members = dict(assembled(pair, measured))
    assert Pair.from_json(members["json"]) == pair
    assert members["mp4"] == measured.encoded.mp4
    assert members["bg.png"] == measured.background.image


def test_a_face_is_the_raw_crop(pair, measured):
    still = np.asarray(Image.open(io.BytesIO(measured.stills.stills[1].image)))
    assert (image(dict(assembled(pair, measured))["s0.face.png"]) == still[32:72, 39:79]).all()


def test_an_attribute_is_its_pixels_on_white_and_nothing_else(pair, measured):
    members = dict(assembled(pair, measured))
    still = np.asarray(Image.open(io.BytesIO(measured.stills.stills[1].image)))
    mask = next(m.mask for m in measured.segmentation.masks if (m.entity, m.still) == ("s0.a0", 1))
    inside = masks.decode(mask)
    assert image(members["s0.a0.mask.png"]).dtype == bool and (image(members["s0.a0.mask.png"]) == inside).all()
    rows, columns = np.nonzero(inside)
    crop = np.s_[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    cut_out = image(members["s0.a0.png"])
    assert cut_out.shape[:2] == inside[crop].shape, "cropped tight"
    assert (cut_out[inside[crop]] == still[crop][inside[crop]]).all()
    assert (cut_out[~inside[crop]] == 255).all() and (~inside[crop]).any()


def test_equal_records_give_equal_bytes(pair, measured):
    assert assembled(pair, measured) == assembled(pair, measured)


def test_records_that_do_not_belong_are_refused(pair, measured, measured_clip):
    without = Segmentation(masks=tuple(m for m in measured.segmentation.masks if m.entity != "s1.a0"))
    with pytest.raises(ValueError, match=r"no mask of s1\.a0"):
        assembled(pair, measured, segmentation=without)
    with pytest.raises(ValueError, match=r"bg\.png would be empty"):
        assembled(pair, measured, background=Background(image=b"", seen_share=0, filled_share=0))
    other = pair.model_copy(update={"width": 160})
    with pytest.raises(ValueError, match="still 1 is 320x180, the clip 160x180"):
        assembled(other, measured)
