"""The whole ablation, tiny: it ends, says what was measured, and goes on where it stopped."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dataengine.world.ablation import SIZES, VARIANTS
from dataengine.world.ablation_result import Ablation
from pipelines.ablation import EXCHANGED, OTHERS, OTHERS_TOLD, REAL, TOLD, Experiment, table

SIZE = replace(
    SIZES["small"],
    clips=4,
    pairs=8,
    held_out=4,
    frames=5,
    dim=32,
    layers=2,
    heads=2,
    base_batch=2,
    words_steps=4,
    single_steps=2,
    batch=2,
    steps=2,
    sampling_steps=2,
)


@pytest.mark.slow
def test_every_variant_is_trained_read_and_shown_and_seeds_can_be_added(tmp_path: Path) -> None:
    told: list[str] = []
    one = Experiment(tmp_path, "tiny", SIZE, range(1), told.append).run()
    names = [*(variant.name for variant in VARIANTS), TOLD, OTHERS_TOLD, REAL, EXCHANGED, OTHERS]
    assert [row.name for row in one.rows] == names and one.rows[0].runs == 1
    assert one.row(REAL).share("binding").value > 0.7 > 0.3 > one.row(EXCHANGED).share("binding").value
    asked = json.loads((tmp_path / "rises" / "none-0.json").read_text())
    assert len(asked) == SIZE.held_out and any(asked.values())
    assert one.row("none").share("preferred").value == np.mean([rise > 0 for rise in asked.values()])
    assert one.row(REAL).share("background").value > 0.8
    assert Ablation.from_json((tmp_path / "ablation.json").read_text()) == one
    with Image.open(tmp_path / "ablation.webp") as sheet:
        assert sheet.width > 8 * 200
    assert table(one).row_count == len(names)

    made = {path: path.stat().st_mtime_ns for path in tmp_path.glob("pictures/*/*.png")}
    assert len(made) == (len(VARIANTS) + 2) * SIZE.held_out
    told.clear()
    two = Experiment(tmp_path, "tiny", SIZE, range(2), told.append).run()
    assert len(told) == 2 * len(VARIANTS), "a line when trained and one when read, of the second seed's runs alone"
    assert two.rows[0].runs == 2 and all(path.stat().st_mtime_ns == time for path, time in made.items())
    seeds = [sorted(tmp_path.glob(f"pictures/none-{seed}/*.png")) for seed in range(2)]
    pictures = [np.stack([np.asarray(Image.open(path)) for path in paths]) for paths in seeds]
    assert not np.array_equal(*pictures), "another seed trains another model"
