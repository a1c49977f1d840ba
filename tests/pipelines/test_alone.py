"""One run at a time, ended by signals in an orderly way: on the real command line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dataengine.engine.lease import NAME


def start(videos: Path, out: Path) -> subprocess.Popen[str]:
    # Where a shell runs the tests in the background they ignore Ctrl-C, and would pass that on.
    command = ["env", "--default-signal=INT", sys.executable, "-m", "pipelines.build"]
    command += ["--input", str(videos), "--output", str(out), "stages.shots.detector=adaptive"]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ | {"RAY_ADDRESS": ""}
    )


def until(run: subprocess.Popen[str], reached) -> None:
    while not reached():
        assert run.poll() is None, run.communicate()[0]
        time.sleep(0.05)


@pytest.mark.ray
def test_signals_end_a_run_with_advice_and_a_second_run_is_refused(sample_video, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = start(sample_video.path, out)
    until(first, (out / NAME).exists)
    second = start(sample_video.path, out)
    refusal = second.communicate(timeout=200)[0]
    assert second.returncode == 1
    assert f"pid {first.pid}" in refusal.replace("\n", " ")
    # In mid-measuring: the first part is there.
    until(first, lambda: list(out.glob("measurements/probe/*/part-*")))
    first.send_signal(signal.SIGTERM)
    advice = first.communicate(timeout=200)[0]
    assert first.returncode == 143
    assert "stopped by SIGTERM" in advice
    assert f"--output {out}" in advice.replace("\n", "")
    assert not (out / NAME).exists()
    assert not (out / "index.parquet").exists()
    assert list(out.glob("measurements/probe/*/part-*"))

    third = start(sample_video.path, out)
    # Ray has started, and what the first run stored was looked at.
    until(third, lambda: list(out.glob("measurements/probe/*/summary-*")))
    third.send_signal(signal.SIGINT)
    assert "stopped by Ctrl-C" in third.communicate(timeout=200)[0]
    assert third.returncode == 130
    assert not (out / NAME).exists()
