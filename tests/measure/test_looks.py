"""The looks stage: a vector for every mask of an attribute, and none of anything else."""

import numpy as np
import pytest

from dataengine.config import BuildSettings, ConfigError, LooksSettings
from dataengine.measure.looks import LooksStage
from dataengine.records import Segmentation, SourceVideo, Stills
from dataengine.stage import Row
from pipelines.stages import clip_stages


def test_every_attribute_in_every_still(measured_clip) -> None:
    rows = []
    for number in (0, 1):
        measured = measured_clip(number, media=True)
        source = SourceVideo(source_id="s", uri="/gone", names=("x",), size_bytes=1)
        rows.append(Row(source, measured.clip, {Stills: measured.stills, Segmentation: measured.segmentation}))
    stage = LooksStage(LooksSettings(encoder="lab_histogram"))
    stage.setup()
    one, other = stage.process(rows)
    assert [(look.entity, look.still) for look in one.looks] == [(f"s{i}.a0", n) for n in range(3) for i in range(2)]
    vectors = {(look.entity, look.still): np.array(look.vector) for look in one.looks}
    assert vectors["s0.a0", 0] @ vectors["s0.a0", 2] > 0.99, "the same top in another still"
    assert vectors["s0.a0", 0] @ vectors["s1.a0", 0] < 0.7, "an orange top, a dark jacket"
    again = {(look.entity, look.still): np.array(look.vector) for look in other.looks}
    assert vectors["s0.a0", 0] @ again["s0.a0", 0] > 0.99, "and in another clip"
    assert max(len(repr(v)) for v in one.looks[0].vector) <= 7


def test_without_an_encoder_there_is_no_such_stage() -> None:
    with pytest.raises(ConfigError, match="lab_histogram"):
        LooksStage(LooksSettings())
    assert LooksStage not in clip_stages(BuildSettings())
