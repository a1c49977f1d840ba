"""What-if: what a rule would remove is what deciding with it does remove, and nothing is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from dataengine.config import ConfigError
from dataengine.decide.facts import Measured
from dataengine.engine.measurements import Measurements
from dataengine.store import Store
from drawn import DrawnClip, draw
from pipelines.cache import last_run, settings_of_run, used
from pipelines.cli import app
from pipelines.redecide import redecide
from pipelines.whatif import what_if

SAME = ("00000000000000ff",) * 3
CLIPS = (
    DrawnClip(motion=0.01),
    DrawnClip(motion=0.02, hashes=SAME),
    DrawnClip(motion=0.3, hashes=SAME),
    DrawnClip(motion=0.3),
)
CHANGES = ("filters.clip_min_motion=0.05", "filters.clip_duplicate_bits=3", "filters.max_attributes=0")


@pytest.fixture(scope="module")
def out(ray_here: None, measured_clip: Callable[..., Measured], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whatif") / "out"
    draw(folder, CLIPS, lambda number: measured_clip(number, media=True), "decide.filters.owner_min_share=0.6")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_every_rule_alone_and_all_together(out: Path) -> None:
    before = contents(out)
    found = what_if(str(out), CHANGES)
    assert contents(out) == before
    assert (found.clips, found.kept, found.subjects, found.attributes) == (4, 4, 8, 8)
    motion, duplicates, attributes, together = found.changes
    assert (motion.removed, motion.kept, motion.refused_by) == (2, 2, {"clip_min_motion": 2})
    assert (duplicates.removed, duplicates.kept, duplicates.subjects) == (1, 3, 6)
    assert (attributes.removed, attributes.kept, attributes.attributes) == (0, 4, 0)
    assert (together.what, together.removed, together.kept) == ("all together", 2, 2), "of the pair one is left alone"


def test_what_would_come_back(out: Path) -> None:
    (strict,) = what_if(str(out), ["filters.owner_min_share=0.95"]).changes
    assert (strict.removed, strict.restored, strict.kept) == (4, 0, 0)
    redecide(str(out), ["decide.filters.owner_min_share=0.95"])
    (loose,) = what_if(str(out), ["filters.owner_min_share=0.6"]).changes
    assert (loose.removed, loose.restored, loose.kept) == (0, 4, 4)
    redecide(str(out), ["decide.filters.owner_min_share=0.6"])


def test_deciding_does_what_was_predicted(out: Path) -> None:
    (change,) = what_if(str(out), CHANGES[:1]).changes
    summary, waiting = redecide(str(out), [f"decide.{CHANGES[0]}"])
    assert (summary.pairs, waiting) == (change.kept, 0)
    assert summary.rejected == change.refused_by
    rows = pq.read_table(out / "clips.parquet").to_pylist()
    refused = [row["detail"] for row in rows if row["verdict"] == "clip_min_motion"]
    assert sorted(refused)[0] == "it moves by 0.010 frame heights a second, at least 0.05"
    back, _ = redecide(str(out), ["decide.filters.clip_min_motion=null"])
    assert back.pairs == 4


def test_clips_that_were_never_measured_are_told_apart(out: Path) -> None:
    """As if a gate had spared one clip the stages from captioning on."""
    store = Store.at(out)
    measurements, prints = Measurements(store.child("measurements")), used(settings_of_run(last_run(store)))
    gone = pq.read_table(out / "clips.parquet")["clip_id"].to_pylist()[0]
    stages = ("caption", "ground", "segment", "background", "encode")
    saved = contents(out / "measurements")
    for stage in stages:
        assert measurements.void(stage, prints[stage], [gone]) == 1
    try:
        found = what_if(str(out), ["filters.face_min_px=41", "filters.face_score=0.6"])
        assert found.kept == 3, "facts are made again when what they were made of is gone"
        strict, loose, _ = found.changes
        assert (strict.removed, strict.waiting) == (3, 0)
        assert loose.waiting == 0, "it waits already"
        summary, waiting = redecide(str(out), [])
        assert (summary.pairs, waiting) == (3, 1)
    finally:
        for name, data in saved.items():
            (out / "measurements" / name).parent.mkdir(parents=True, exist_ok=True)
            (out / "measurements" / name).write_bytes(data)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("filters.face_min_pix=9", "did you mean decide.filters.face_min_px?"),
        ("clips.min_s=2", "what-if judges by"),
        ("stages.faces.floor=0.5", "what-if judges by"),
        ("filters.face_min_px", "expected key=value"),
    ],
)
def test_what_is_no_rule_is_refused(out: Path, change: str, told: str) -> None:
    with pytest.raises(ConfigError) as refused:
        what_if(str(out), [change])
    assert told in str(refused.value)


def test_stages_are_not_changed_by_deciding(out: Path) -> None:
    with pytest.raises(ConfigError, match="`build` changes stages"):
        redecide(str(out), ["stages.faces.floor=0.5"])


def test_the_command_prints_a_table(out: Path) -> None:
    result = CliRunner().invoke(app, ["decide", str(out), "--what-if", CHANGES[0]])
    assert result.exit_code == 0, result.output
    row = next(line for line in result.output.splitlines() if CHANGES[0] in line)
    assert row.split()[1:4] == ["2", "·", "2"]
