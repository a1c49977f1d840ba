"""GPUs as NVIDIA's tool lists them, on this machine and on the nodes of a cluster."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dataengine.engine.gpus import Gpu, gpus_here, parse


def test_a_listing_is_read_line_by_line() -> None:
    answer = "NVIDIA H100 80GB HBM3, 81559\nNVIDIA A10, Rev. 2, 23028\n"
    assert parse(answer) == (Gpu("NVIDIA H100 80GB HBM3", 81559 / 1024), Gpu("NVIDIA A10, Rev. 2", 23028 / 1024))


def test_what_is_no_listing_is_no_gpu() -> None:
    assert parse("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver, sorry\n") == ()
    assert parse("No devices were found\n") == ()


def test_the_tool_is_asked_where_there_is_one(driver_of, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    driver_of("Some GPU, 24576")
    assert gpus_here() == (Gpu("Some GPU", 24.0),)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpus_here() == ()


CLUSTER = """
import json, logging, ray
from dataengine.engine.gpus import gpus_here, on_gpu_nodes
ray.init(address="local", num_cpus=1, num_gpus=2, include_dashboard=False, logging_level=logging.ERROR)
print("FOUND " + json.dumps([[gpu.name for gpu in there] for there in on_gpu_nodes(gpus_here).values()]))
"""


@pytest.mark.ray
def test_nodes_with_gpus_are_asked(driver_of) -> None:
    driver_of("Some GPU, 24576")
    command = [sys.executable, "-c", CLUSTER]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ, timeout=200)
    said = [line for line in done.stdout.splitlines() if line.startswith("FOUND ")]
    assert said, done.stderr
    assert json.loads(said[0].removeprefix("FOUND ")) == [["Some GPU"]]
