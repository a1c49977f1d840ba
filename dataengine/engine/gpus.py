"""Which GPUs there are, here and on a cluster's nodes. NVIDIA's own tool is asked: importing torch takes seconds."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

T = TypeVar("T")

_QUERY = ("--query-gpu=name,memory.total", "--format=csv,noheader,nounits")
ANSWER_S = 120.0
"""How long a node may take to start a worker and answer."""


@dataclass(frozen=True, slots=True)
class Gpu:
    name: str
    gib: float
    """All of its memory."""


def gpus_here() -> tuple[Gpu, ...]:
    """The NVIDIA GPUs of this machine; none where there is no driver."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ()
    answer = subprocess.run([tool, *_QUERY], capture_output=True, text=True, timeout=60, check=False)  # noqa: S603
    return parse(answer.stdout) if answer.returncode == 0 else ()


def parse(answer: str) -> tuple[Gpu, ...]:
    """GPUs as `nvidia-smi` lists them: a line each, name and MiB."""
    rows = [line.rsplit(",", 1) for line in answer.splitlines() if "," in line]
    return tuple(Gpu(name.strip(), int(mib) / 1024) for name, mib in rows if mib.strip().isdigit())


def on_gpu_nodes(look: Callable[[], T]) -> dict[str, T]:
    """What `look` says on each node of the cluster that has GPUs, by the node's address. Needs `engine.run.connect`.

    It takes no GPU and no core, so it also runs where all are busy. Raises `RayError` when a node does not answer.
    """
    # Ray takes plain functions only.
    remote = ray.remote(num_cpus=0, max_retries=1)(lambda: look())
    asked: dict[str, Any] = {}
    for node in ray.nodes():
        if node["Alive"] and node["Resources"].get("GPU", 0) > 0:
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            asked[node["NodeManagerAddress"]] = remote.options(scheduling_strategy=there).remote()
    return dict(zip(asked, ray.get(list(asked.values()), timeout=ANSWER_S), strict=True))
