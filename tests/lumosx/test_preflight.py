"""`train --check`: a good run passes and leaves nothing behind; each thing that would stop one is found and named."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tiny_runs import TINY, settings

from dataengine.lumosx import preflight as module
from dataengine.lumosx.preflight import Finding, preflight
from pipelines.cli import app


def bad(data: Path, run: Path, *overrides: str) -> dict[str, str]:
    return {f.what: f.told for f in preflight(str(data), run, settings(*overrides)) if not f.ok}


def test_a_good_run_passes_and_nothing_is_written(dataset: Path, tmp_path: Path) -> None:
    told: list[Finding] = []
    found = preflight(str(dataset), tmp_path / "run", settings("steps=10"), 1, told.append)
    assert told == found
    assert [finding.what for finding in found if not finding.ok] == []
    answers = {finding.what: finding.told for finding in found}
    assert "5 to train on (subjects: 2 with 1, 2 with 2, 1 with 3), 2 held out" in answers["samples"]
    assert "at most 7 references" in answers["phrases"]
    assert "2 samples a step, 10 steps: 4.0 epochs" in answers["mixture"]
    assert not (tmp_path / "run").exists()


def test_what_would_stop_a_run_is_found(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = bad(dataset, tmp_path, "text.max_tokens=12", "data.frames=65", "data.mixture.weights=[0.5,0.3,0.1,0.1]")
    assert "past the 12 tokens" in found["phrases"]
    assert "5 of 5 clips are too short" in found["clip lengths"]
    assert "no sample with 4 subjects" in found["mixture"]
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1))
    assert "1e-09 GB free" in bad(dataset, tmp_path)["disk"]
    large = ("model.dim=5120", "model.ffn_dim=13824", "model.heads=40", "model.layers=40")
    assert "more ranks" in bad(dataset, tmp_path, *large)["memory"]


def test_missing_weights_are_found(dataset: Path, tmp_path: Path) -> None:
    found = bad(dataset, tmp_path, "codec.name=wan", "codec.model=nobody/nothing")
    assert "hf download" in found["codec and text encoder"]


def test_a_damaged_shard_is_found_and_the_command_fails(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    shutil.copytree(dataset, data)
    arguments = ["train", "--data", str(data), "--run", str(tmp_path / "run"), "--check", *TINY]
    assert run_command(arguments) == 0
    shard = sorted((data / "shards").iterdir())[0]
    content = bytearray(shard.read_bytes())
    content[5000] ^= 255
    shard.write_bytes(content)
    assert run_command(arguments) == 1
    assert "✗ shards" in capsys.readouterr().out
    assert not (tmp_path / "run").exists(), "nothing was trained"


def run_command(arguments: list[str]) -> int:
    with pytest.raises(SystemExit) as ended:
        app(args=arguments, prog_name="dataengine")
    return int(ended.value.code or 0)
