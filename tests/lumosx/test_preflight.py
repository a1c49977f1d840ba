"""`train --check`: a good run passes and leaves nothing behind; each thing that would stop one is found and named."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import TINY, settings, store_all

from dataengine.lumosx import preflight as module
from dataengine.lumosx.codec import DctCodec
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
    assert "5 samples decoded" in answers["clips"]
    assert "3 real steps of 135 tokens a sample" in answers["memory"], "2 × 15 of the clip, 7 × 15 of references"
    assert "by real steps" in answers["time"]
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


def test_clips_are_decoded(make_dataset: Any, make_sample: Any, tmp_path: Path) -> None:
    """One file ends before its record says. Its bytes are those of the index, so only decoding tells."""
    samples = [make_sample(number) for number in range(12)]
    pair, members = samples[7]
    short = next(member for member in make_sample(7, seconds=0.1)[1] if member.name == "mp4")
    samples[7] = (pair, [short if member.name == "mp4" else member for member in members])
    data = make_dataset(tmp_path / "data", samples)
    told = bad(data, tmp_path / "run", "data.frames=17")
    assert "1 of " in told.get("clips", "1 of ")
    found = [f for f in preflight(str(data), tmp_path / "run", settings("data.frames=17"), every_clip=True) if not f.ok]
    assert [finding.what for finding in found] == ["clips"]
    assert "1 of 12 that were decoded: clip_0007: the clip has 0.08 s" in found[0].told


def test_without_steps_the_estimate_says_why(
    dataset: Path, tmp_path: Path, make_dataset: Any, make_sample: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answers(*overrides: str, world: int = 1) -> dict[str, Finding]:
        return {f.what: f for f in preflight(str(dataset), tmp_path / "run", settings(*overrides), world)}

    split = answers(world=2)
    assert "estimated" in split["time"].told
    assert "split over 2 ranks" in split["time"].told
    missing = answers("model.init=nowhere.safetensors")
    assert not missing["memory"].ok
    assert "nowhere.safetensors" in missing["memory"].told
    monkeypatch.setattr(module, "QUICK_S", 0.0)
    assert "would take more than 0 s" in answers()["time"].told


def test_steps_that_are_not_finite_are_found(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = DctCodec.encode
    monkeypatch.setattr(DctCodec, "encode", lambda codec, pixels: real(codec, pixels) * float("nan"))
    assert "not finite" in bad(dataset, tmp_path / "run")["time"]


def test_what_is_stored_is_counted(dataset: Path, tmp_path: Path) -> None:
    told = bad(dataset, tmp_path / "run", f"stored.place={tmp_path / 'nothing'}")
    assert "contexts" in told["codec and text encoder"]
    part = store_all(dataset, tmp_path / "place")
    chosen = settings(f"stored.place={tmp_path / 'place'}")
    found = {f.what: f.told for f in preflight(str(dataset), tmp_path / "run", chosen)}
    assert found["stored latents"] == "5 of the 5 windows of the run; others are encoded on line"
    part.unlink()
    found = {f.what: f.told for f in preflight(str(dataset), tmp_path / "run", chosen)}
    assert found["stored latents"].startswith("0 of the 5")


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
