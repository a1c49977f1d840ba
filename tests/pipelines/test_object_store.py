"""A whole build with input, measurements and output in an object store that fails: the same files as on local disks."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dataengine.store import Store
from object_store import BREAKS, BUCKET, ERRORS, Faults, environment, faulty_proxy, s3_server

FILES = (
    "name with spaces.mp4",
    "zz copy.mp4",
    "имя 名前 🎬/лицо.mp4",
    "truncated.mp4",
    "text.mp4",
    "empty.mp4",
    "notes.txt",
)
FIXED = re.compile(r"shards/.*\.tar|(index|quarantine|clips)\.parquet")
QUARANTINED = 3


def run_build(videos: str, out: str, **variables: str) -> None:
    """`python -m pipelines.build` in a process of its own: Ray's workers inherit its environment."""
    command = [sys.executable, "-m", "pipelines.build", "--input", videos, "--output", out]
    command += ["decide.pairs.val_share=0", "shards.samples=1"]
    done = subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True)
    assert done.returncode == QUARANTINED, done.stdout + done.stderr


def fixed_files(out: Store) -> dict[str, bytes]:
    """What must be the same whenever input and settings are."""
    return {name: out.read(name) for name in out.names() if FIXED.fullmatch(name)}


@pytest.mark.timeout(900)
def test_a_build_through_a_failing_object_store_gives_the_same_bytes(
    bad_video_folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    videos = tmp_path / "videos"
    for name in FILES:
        (videos / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(bad_video_folder.folder / name, videos / name)
    run_build(str(videos), str(tmp_path / "out"))
    local = fixed_files(Store.at(tmp_path / "out"))
    assert len(local) >= 5

    faults = Faults(share=0.1, seed=7, hang_s=60.0, hangs=1)
    with s3_server(tmp_path / "log") as server:
        for key, value in environment(server).items():
            monkeypatch.setenv(key, value)
        source, out = Store.at(f"s3://{BUCKET}/in"), Store.at(f"s3://{BUCKET}/out")
        for name in FILES:
            source.write(name, (videos / name).read_bytes())
        with faulty_proxy(server, faults) as port:
            run_build(source.uri, out.uri, **environment(port))
        assert fixed_files(out) == local
    assert set(faults.injected) == {*ERRORS, *BREAKS}
