"""The whole ablation, tiny: it ends, says what was measured, and goes on where it stopped."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dataengine.world.ablation import SIZES, VARIANTS
from dataengine.world.ablation_result import Ablation
from pipelines.ablation import EXCHANGED, OTHERS, REAL, Experiment, table

SIZE = replace(SIZES["small"], pairs=8, held_out=4, dim=32, layers=2, batch=2, base_steps=4, steps=2, sampling_steps=2)


@pytest.mark.slow
@pytest.mark.ray
def test_every_variant_is_trained_read_and_shown(tmp_path: Path) -> None:
    told: list[str] = []
    found = Experiment(tmp_path, "tiny", SIZE, range(2), told.append).run()
    names = [*(variant.name for variant in VARIANTS), REAL, EXCHANGED, OTHERS]
    assert [row.name for row in found.rows] == names and found.rows[0].runs == 2
    assert found.row(REAL).share("binding").value > 0.8 > 0.2 > found.row(EXCHANGED).share("binding").value
    assert found.row(REAL).share("background").value > 0.9
    assert Ablation.from_json((tmp_path / "ablation.json").read_text()) == found
    with Image.open(tmp_path / "ablation.webp") as sheet:
        assert sheet.width > 8 * 200
    assert table(found).row_count == len(names)

    pictures = tmp_path / "pictures"
    assert len(list(pictures.glob("*/*.png"))) == 2 * len(VARIANTS) * SIZE.held_out
    made = {path: path.stat().st_mtime_ns for path in pictures.glob("*/*.png")}
    told.clear()
    again = Experiment(tmp_path, "tiny", SIZE, range(2), told.append).run()
    assert not told and again == found, "nothing is done twice"
    assert {path: path.stat().st_mtime_ns for path in pictures.glob("*/*.png")} == made


@pytest.mark.slow
@pytest.mark.ray
def test_seeds_can_be_added(tmp_path: Path) -> None:
    one = Experiment(tmp_path, "tiny", SIZE, range(1), lambda told: None).run()
    told: list[str] = []
    two = Experiment(tmp_path, "tiny", SIZE, range(2), told.append).run()
    assert len(told) == 2 * len(VARIANTS), "a line when trained and one when read, of the second seed's alone"
    assert (one.rows[0].runs, two.rows[0].runs) == (1, 2)
    pictures = [np.asarray(Image.open(path)) for path in sorted(tmp_path.glob("pictures/none-*/*.png"))]
    assert any(not np.array_equal(pictures[i], pictures[i + SIZE.held_out]) for i in range(SIZE.held_out))
