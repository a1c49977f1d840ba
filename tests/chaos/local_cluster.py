"""Several Ray nodes on this machine, each a tree of processes that can be killed as a power cut would."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
TICK_S = 0.05

TOKEN = secrets.token_hex(32)
"""Ray's own password, so that nobody else's Ray or browser talks to the cluster."""

RAY_HELPERS = re.compile(r"IDLE|Agent|_StatsActor|AutoscalingCoordinator|ActorLocationTracker|\.__init__$")
"""Titles of `ray::` processes that are at no row of ours: waiting, Ray's own, or still loading their code."""


class ClusterError(RuntimeError):
    """The head did not start; the message holds what Ray said."""


def environment() -> dict[str, str]:
    """This checkout's code, a Ray that notices a dead node in seconds, and workers as nice as their driver."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return kept | {
        "PYTHONPATH": str(ROOT),
        "RAY_health_check_period_ms": "500",
        "RAY_health_check_failure_threshold": "4",
        "RAY_enable_worker_prestart": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": TOKEN,
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }


def kill_tree(top: psutil.Process) -> list[psutil.Process]:
    """SIGKILL a process and all below it, the top first so that it cannot clean up; returns what was killed."""
    try:
        family = [top, *top.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(family, timeout=20)
    return family


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def title(process: psutil.Process) -> str:
    """What a Ray worker says it is doing (`ray::Actor.method`); empty for one that is gone."""
    try:
        return (process.cmdline() or [""])[0]
    except psutil.Error:
        return ""


@dataclass(frozen=True)
class Node:
    """A `ray start` that stays in the foreground, with all of the node's processes below it."""

    process: subprocess.Popen[bytes]
    log: Path

    def words(self) -> str:
        return self.log.read_text(errors="replace")

    def runs(self) -> bool:
        """It has joined the cluster, which takes some seconds."""
        return self.process.poll() is None and "Ray runtime started" in self.words()


@dataclass
class LocalCluster:
    """A head and `size` nodes with `cpus` each, on loopback, beside any other Ray of the machine."""

    size: int
    cpus: int
    head_cpus: int = 0
    dashboard_port: int | None = None
    """Where jobs can be submitted; None: without Ray's dashboard."""
    env: Mapping[str, str] = field(default_factory=environment)
    _folder: Path = field(init=False)
    _port: int = field(init=False)
    _head: Node | None = field(default=None, init=False)
    _nodes: list[Node] = field(default_factory=list, init=False)
    _launched: int = field(default=0, init=False)
    _seen: set[psutil.Process] = field(default_factory=set, init=False)

    def __enter__(self) -> LocalCluster:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def address(self) -> str:
        return f"{self._ip(0)}:{self._port}"

    @property
    def dashboard(self) -> str:
        return f"http://127.0.0.1:{self.dashboard_port}"

    def working_dirs(self) -> list[Path]:
        """What the nodes unpacked of the jobs' working directories."""
        return list(self._folder.glob("session_*/runtime_resources/working_dir_files/*"))

    def _ip(self, number: int) -> str:
        """Every node has its own address on loopback. Not 127.0.0.1: Ray replaces it by the machine's outer address."""
        return f"127.0.0.{2 + number % 250}"

    def start(self) -> None:
        """Start the head and then the nodes, and wait until all have joined. Raises `ClusterError`."""
        # Ray gives a head 30 s to start, which a machine with other work cannot always keep.
        for _ in range(3):
            # Not in pytest's folder: the paths of Ray's sockets below it may be 107 bytes long at most.
            self._folder = Path(tempfile.mkdtemp(prefix="ray-test-"))
            self._launched = 0
            self._port, client, unused = free_ports(3)
            self._head = self._launch(
                "--head",
                f"--port={self._port}",
                f"--ray-client-server-port={client}",
                f"--dashboard-port={self.dashboard_port or unused}",
                f"--include-dashboard={self.dashboard_port is not None}",
                f"--temp-dir={self._folder}",
                cpus=self.head_cpus,
            )
            # A node that comes while the head is still starting waits for it in vain.
            while self._head.process.poll() is None:
                if self._head.runs():
                    self.gather()
                    return
                time.sleep(TICK_S)
            log = self._head.words()
            self.stop()
        raise ClusterError(f"the head did not start\n{log[-3000:]}")

    def gather(self, patience_s: float = 300) -> None:
        """Wait until all nodes have joined. Raises `ClusterError` when they do not."""
        deadline = time.monotonic() + patience_s
        while not all(node.runs() for node in self._nodes) or len(self._nodes) < self.size:
            self.tend()
            if time.monotonic() > deadline:
                words = "\n".join(node.words()[-1500:] for node in self._nodes)
                raise ClusterError(f"the nodes did not join within {patience_s:g} s\n{words}")
            time.sleep(TICK_S)

    def tend(self) -> None:
        """Replace nodes that are gone, killed or not: `size` are running or joining."""
        self._nodes = [node for node in self._nodes if node.process.poll() is None]
        while len(self._nodes) < self.size:
            self._nodes.append(self._launch(f"--address={self.address}", cpus=self.cpus))

    def _launch(self, *arguments: str, cpus: int) -> Node:
        self._launched += 1
        agent, agent_grpc, environments, metrics = free_ports(4)
        command = [
            sys.executable,
            *("-m", "ray.scripts.scripts", "start", "--block", "--log-color=false", "--disable-usage-stats"),
            *(f"--num-cpus={cpus}", "--num-gpus=0", "--object-store-memory=200000000", "--include-log-monitor=false"),
            f"--node-ip-address={self._ip(self._launched - 1)}",
            *("--min-worker-port=0", "--max-worker-port=0"),
            *(f"--dashboard-agent-listen-port={agent}", f"--dashboard-agent-grpc-port={agent_grpc}"),
            *(f"--runtime-env-agent-port={environments}", f"--metrics-export-port={metrics}"),
            *arguments,
        ]
        path = self._folder / f"node-{self._launched}.log"
        with path.open("wb") as log:
            process = subprocess.Popen(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=self.env, start_new_session=True
            )
        return Node(process, path)

    def busy(self) -> dict[psutil.Process, list[psutil.Process]]:
        """By node, its worker processes that are at work for the build."""
        found: dict[psutil.Process, list[psutil.Process]] = {}
        for node in self._nodes:
            with contextlib.suppress(psutil.NoSuchProcess):
                top = psutil.Process(node.process.pid)
                family = top.children(recursive=True)
                self._seen.update(family)
                titles = ((process, title(process)) for process in family)
                working = [p for p, says in titles if says.startswith("ray::") and not RAY_HELPERS.search(says)]
                if working:
                    found[top] = working
        return found

    def kill_node(self, node: psutil.Process) -> None:
        """A power cut of one node; a fresh one takes its place."""
        kill_tree(node)
        self.tend()

    def stop(self) -> None:
        """SIGKILL to all that was started here, and no file left."""
        for node in [*self._nodes, *([self._head] if self._head else [])]:
            with contextlib.suppress(psutil.NoSuchProcess):
                self._seen.update(kill_tree(psutil.Process(node.process.pid)))
            node.process.wait()
        # Workers whose raylet died first have another parent by now; they end by themselves, but not at once.
        for process in self._seen:
            with contextlib.suppress(psutil.NoSuchProcess):
                if process.is_running():
                    process.kill()
        self._nodes, self._head = [], None
        self._seen.clear()
        shutil.rmtree(self._folder, ignore_errors=True)

    def report(self) -> str:
        """What runs on the nodes, a line a process."""
        lines = [
            f"  node {node.pid}: {process.pid} {title(process)} cpu {sum(process.cpu_times()[:2]):.1f} s"
            for node, working in self.busy().items()
            for process in working
        ]
        return "\n".join(lines) or "  no worker was at work"
