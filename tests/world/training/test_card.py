"""The card says what the logs say, and the committed one is of the committed checkpoints."""

from __future__ import annotations

from pathlib import Path

from dataengine.world.training import CHECKPOINTS
from dataengine.world.training.card import CARD, card, write_card
from dataengine.world.training.log import Figure, Point, TrainingLog, read_log, write_log

LOG = TrainingLog(
    network="sam", parameters=640_000, bytes=2_600_000, steps=4000, seed=3, cpu_minutes=31.4, torch="2.9",
    curve=(Point(step=10, loss=1.5), Point(step=4000, loss=0.125)),
    held_out=(Figure(name="mask IoU of hats", value=0.8125, of=77),),
)  # fmt: skip


def test_a_card_has_size_training_and_figures(tmp_path: Path) -> None:
    (tmp_path / "sam").mkdir()
    write_log(tmp_path / "sam", LOG)
    assert read_log(tmp_path / "sam") == LOG
    write_card(tmp_path)
    text = (tmp_path / CARD).read_text()
    assert "| sam | 640,000 | 2.6 | 4,000 | 3 | cpu | 31 | 1.500 → 0.125 |" in text
    assert "| sam | mask IoU of hats | 0.812 | 77 |" in text


def test_a_card_says_on_which_gpu_and_for_how_long() -> None:
    log = LOG.model_copy(update={"device": "NVIDIA H100", "minutes": 8.04})
    assert "| 3 | NVIDIA H100 | 8 | 1.500 → 0.125 |" in card([log])


def test_the_committed_card_is_up_to_date() -> None:
    logs = [read_log(file.parent) for file in sorted(CHECKPOINTS.glob("*/training.json"))]
    assert len(logs) == 5
    assert (CHECKPOINTS / CARD).read_text() == card(logs)
    assert sum(file.stat().st_size for file in CHECKPOINTS.rglob("*") if file.is_file()) < 40e6
    assert not [f for f in CHECKPOINTS.rglob("*") if f.suffix in (".bin", ".pt", ".pth", ".pkl")]
