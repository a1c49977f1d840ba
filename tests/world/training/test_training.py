"""Every network has a trainer of the same form, and is measured apart from it."""

from __future__ import annotations

from pathlib import Path

import pytest

from dataengine.world.training import CHECKPOINTS, measured, sam, trainer
from dataengine.world.training.log import Figure, TrainingLog, read_log, write_log
from pipelines.world import Network


@pytest.mark.parametrize("network", Network)
def test_a_network_has_a_trainer_and_a_committed_checkpoint_with_figures(network: str) -> None:
    found = trainer(network)
    assert callable(found.train)
    assert callable(found.held_out)
    assert read_log(CHECKPOINTS / network).held_out


def test_figures_are_written_into_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_log(tmp_path, TrainingLog(
        network="SAM", parameters=1, bytes=1, steps=1, seed=0, cpu_minutes=1, torch="2", curve=()
    ))  # fmt: skip
    figures = (Figure(name="mask IoU", value=0.5, of=2),)
    monkeypatch.setattr(sam, "held_out", lambda folder: figures if folder == tmp_path else ())
    log = measured("sam", tmp_path)
    assert log.held_out == figures
    assert read_log(tmp_path) == log
