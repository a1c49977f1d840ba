"""A whole build with input, measurements and output in an object store that fails: the same files as on local disks."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dataengine.store import Store
from object_store import BREAKS, BUCKET, ERRORS, Faults, environment, faulty_proxy, s3_server
from pipelines.cli import Exit

FIXED = re.compile(r"shards/.*\.tar|(index|quarantine|clips)\.parquet")


def fixed_files(out: Store) -> dict[str, bytes]:
    """What must be the same whenever input and settings are."""
    return {name: out.read(name) for name in out.names() if FIXED.fullmatch(name)}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_build_through_a_failing_object_store_gives_the_same_bytes(
    short, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = fixed_files(Store.at(short.out))
    assert len(local) >= 5

    faults = Faults(share=0.1, seed=7, hang_s=60.0, hangs=1)
    with s3_server(tmp_path / "log") as server:
        for key, value in environment(server).items():
            monkeypatch.setenv(key, value)
        source, out = Store.at(f"s3://{BUCKET}/in"), Store.at(f"s3://{BUCKET}/out")
        for path in short.videos.rglob("*.*"):
            source.write(path.relative_to(short.videos).as_posix(), path.read_bytes())
        with faulty_proxy(server, faults) as port:
            # In a process of its own: Ray's workers inherit its environment.
            command = [sys.executable, "-m", "pipelines.build", "--input", source.uri, "--output", out.uri]
            variables = {**os.environ, **environment(port)}
            done = subprocess.run([*command, *short.settings], env=variables, capture_output=True, text=True)
        assert done.returncode == Exit.QUARANTINED, done.stdout + done.stderr
        assert fixed_files(out) == local
    assert set(faults.injected) == {*ERRORS, *BREAKS}
