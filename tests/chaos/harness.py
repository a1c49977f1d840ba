"""Kill a build with SIGKILL at random moments until it is done, and compare it with one that nobody disturbed.

`python tests/chaos/harness.py --seed 7 --kills 24` prints a table of the kills and exits with 1 when anything is wrong.
A round is one build on a local Ray cluster of several nodes (a head that runs no work, and nodes that do), hit by its
share of the kills; after a driver's death the same command is started again, a dead node is replaced by a fresh one.

What must hold after each round: shards, index, quarantine and clips are byte-identical to the reference; every part
that was ever committed is still the same file (same inode and time: never rewritten); every stage has each of the
reference's rows exactly once; no temporary file is left.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import random
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

import psutil
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from dataengine.video import encode_clip, iter_frames
from dataengine.world.bad_videos import make_bad_videos

ROOT = Path(__file__).parents[2]
TICK_S = 0.05
DONE = (0, 3)
"""Exit codes of a build that came to its end."""

Target = Literal["driver", "worker", "node", "cluster"]
Phase = Literal["start", "measure", "pack"]
PHASES: tuple[Phase, ...] = get_args(Phase)

SETTINGS = (
    "stages.probe.resources.batch=2",
    "stages.frames.resources.batch=2",
    "shards.samples=3",
    "decide.pairs.val_share=0",
)
"""Many small parts and several shards, so that there is much to hit."""

TOKEN = secrets.token_hex(32)
"""Ray's own password, so that nobody else's Ray or browser talks to the cluster."""

RAY_HELPERS = re.compile(r"IDLE|Agent|_StatsActor|AutoscalingCoordinator|ActorLocationTracker|\.__init__$")
"""Titles of `ray::` processes that are at no row of ours: waiting, Ray's own, or still loading their code."""


class ChaosError(AssertionError):
    """The build hung or gave up; the message says when, what was running and what the driver last said."""


# -- what is built -----------------------------------------------------------------------------------------------------


def make_corpus(folder: Path, sources: int) -> None:
    """Fill a new folder with `sources` videos of two shots each, a copy of one, and four files that cannot be used."""
    with tempfile.TemporaryDirectory(prefix="chaos-") as kept:
        made = {file.name: Path(kept, "videos", file.name) for file in make_bad_videos(Path(kept, "videos"))}
        upright = ("name with spaces.mp4", "name\nwith a newline.mp4", "имя 名前 🎬/лицо.mp4", "forbidden.mp4")
        shots = [[frame.rgb for frame in iter_frames(made[name], 0.0, 2.0)] for name in upright]
        folder.mkdir(parents=True)
        for number in range(sources):
            first, second = shots[number % len(shots)], shots[(number + 1) % len(shots)]
            # Each pair of photographs comes again shortened, which makes it another source.
            frames = first[: len(first) - 3 * (number // len(shots))] + second
            (folder / f"video {number}.mp4").write_bytes(encode_clip(frames, 24, preset="ultrafast"))
        shutil.copyfile(folder / "video 0.mp4", folder / "zz copy.mp4")
        for name in ("truncated.mp4", "empty.mp4", "text.mp4", "audio only.mp4"):
            shutil.copyfile(made[name], folder / name)


@dataclass(frozen=True)
class Part:
    """A committed file of measurements as it was first seen."""

    inode: int
    mtime_ns: int
    size: int
    ids: tuple[str, ...]

    @classmethod
    def at(cls, path: Path) -> Part:
        status = path.stat()
        ids = pq.read_table(path, columns=["id"])["id"].to_pylist()
        return cls(status.st_ino, status.st_mtime_ns, status.st_size, tuple(ids))


@dataclass
class Ledger:
    """Every part that was ever seen in `OUT/measurements`, by its path below that folder."""

    out: Path
    parts: dict[str, Part] = field(default_factory=dict)
    rewritten: dict[str, Part] = field(default_factory=dict)
    """Parts that were replaced or vanished after they had been committed."""

    def observe(self) -> int:
        """Look at the folder, and give the number of new parts."""
        before = len(self.parts)
        root = self.out / "measurements"
        seen: set[str] = set()
        for path in root.glob("*/*/part-*.parquet"):
            name = path.relative_to(root).as_posix()
            known = self.parts.get(name)
            with contextlib.suppress(FileNotFoundError):  # gone since it was listed: as if it had not been
                status = path.stat()
                if known is None:
                    self.parts[name] = Part.at(path)
                elif (status.st_ino, status.st_mtime_ns, status.st_size) != (known.inode, known.mtime_ns, known.size):
                    self.rewritten[name] = known
                    self.parts[name] = Part.at(path)
                seen.add(name)
        self.rewritten |= {name: part for name, part in self.parts.items() if name not in seen}
        return len(self.parts) - before

    def ids(self) -> dict[str, Counter[str]]:
        """How often each stage and fingerprint (`stage/fingerprint`) has each id."""
        found: dict[str, Counter[str]] = {}
        for name, part in self.parts.items():
            found.setdefault(name.rsplit("/", 1)[0], Counter()).update(part.ids)
        return found

    def rows(self) -> int:
        return sum(len(part.ids) for part in self.parts.values())

    def recomputed(self) -> int:
        """Rows that were measured although they had been committed: in a rewritten part, or again in another one."""
        doubled = sum(sum(ids.values()) - len(ids) for ids in self.ids().values())
        return doubled + sum(len(part.ids) for part in self.rewritten.values())


def fixed_files(out: Path) -> dict[str, str]:
    """Name to SHA-256 of everything that the same input and settings must give to the byte."""
    paths = [*out.glob("shards/*"), *(out / f"{name}.parquet" for name in ("index", "quarantine", "clips"))]
    return {path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(paths)}


def compare(reference: Ledger, ledger: Ledger) -> list[str]:
    """What is wrong with a finished build, a finding a line; none when it is as good as the undisturbed one."""
    wanted, got = fixed_files(reference.out), fixed_files(ledger.out)
    findings = [f"{name}: missing" for name in sorted(wanted.keys() - got.keys())]
    findings += [f"{name}: not in the reference" for name in sorted(got.keys() - wanted.keys())]
    findings += [f"{name}: other bytes" for name in sorted(wanted.keys() & got.keys()) if wanted[name] != got[name]]
    findings += [f"{path.relative_to(ledger.out)}: temporary file left" for path in ledger.out.rglob(".tmp-*")]
    findings += [f"{name}: rewritten, {len(part.ids)} rows" for name, part in sorted(ledger.rewritten.items())]
    stored = ledger.ids()
    for stage, ids in sorted(reference.ids().items()):
        found = stored.get(stage, Counter())
        doubled = sorted(i for i, count in found.items() if count > 1)
        findings += [f"{stage}: {len(doubled)} ids stored twice: {doubled[0]} …"] if doubled else []
        findings += [f"{stage}: {len(ids.keys() - found.keys())} ids missing"] if ids.keys() - found.keys() else []
        findings += [f"{stage}: {len(found.keys() - ids.keys())} unknown ids"] if found.keys() - ids.keys() else []
    findings += [f"{stage}: not in the reference" for stage in sorted(stored.keys() - reference.ids().keys())]
    return findings


# -- what is killed ----------------------------------------------------------------------------------------------------


def environment() -> dict[str, str]:
    """This checkout's code, a Ray of our own, and a dead node that is noticed in seconds instead of half a minute."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return kept | {
        "PYTHONPATH": str(ROOT),
        "RAY_health_check_period_ms": "500",
        "RAY_health_check_failure_threshold": "4",
        "RAY_enable_worker_prestart": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
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
    _head: subprocess.Popen[bytes] | None = field(default=None, init=False)
    _nodes: list[subprocess.Popen[bytes]] = field(default_factory=list, init=False)
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

    def _log(self) -> str:
        return (self._folder / "nodes.log").read_text(errors="replace")

    def start(self) -> None:
        """Start the head, and the nodes, which join some seconds later. Raises `ChaosError`."""
        # Ray gives a head 30 s to start, which a machine with other work cannot always keep.
        for _ in range(3):
            # Not in pytest's folder: the paths of Ray's sockets below it may be 107 bytes long at most.
            self._folder = Path(tempfile.mkdtemp(prefix="ray-chaos-"))
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
            while self._head.poll() is None:
                if "Ray runtime started" in self._log():
                    self.tend()
                    return
                time.sleep(TICK_S)
            log = self._log()
            self.stop()
        raise ChaosError(f"the cluster did not start\n{log[-3000:]}")

    def tend(self) -> None:
        """Replace nodes that are gone, killed or not: `size` are running or joining."""
        self._nodes = [node for node in self._nodes if node.poll() is None]
        while len(self._nodes) < self.size:
            self._nodes.append(self._launch(f"--address={self.address}", cpus=self.cpus))

    def _launch(self, *arguments: str, cpus: int) -> subprocess.Popen[bytes]:
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
        with (self._folder / "nodes.log").open("ab") as log:
            return subprocess.Popen(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=self.env, start_new_session=True
            )

    def busy(self) -> dict[psutil.Process, list[psutil.Process]]:
        """By node, its worker processes that are at work for the build."""
        found: dict[psutil.Process, list[psutil.Process]] = {}
        for node in self._nodes:
            with contextlib.suppress(psutil.NoSuchProcess):
                top = psutil.Process(node.pid)
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
        for process in [*self._nodes, *([self._head] if self._head else [])]:
            with contextlib.suppress(psutil.NoSuchProcess):
                self._seen.update(kill_tree(psutil.Process(process.pid)))
            process.wait()
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


# -- the campaign ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """A kill to come: `at` is a share, of the reference's time in the phase or (measure) of its rows."""

    target: Target
    phase: Phase
    at: float
    delay_s: float


@dataclass
class Kill:
    """A kill that hit something."""

    number: int
    round: int
    plan: Plan
    victim: str
    after_s: float
    """Seconds since the round began."""
    parts: int
    rows: int
    """Parts and rows that were committed."""
    open_rows: int
    """Rows of committed stages that a later stage still had to measure: waiting or in flight."""
    outcome: str = ""


@dataclass(frozen=True)
class Reference:
    """The undisturbed build and how long its phases took."""

    ledger: Ledger
    start_s: float
    measure_s: float
    pack_s: float


@dataclass
class Result:
    seed: int
    reference: Reference
    kills: list[Kill] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)
    rounds: int = 0
    recomputed: int = 0
    checked_parts: int = 0
    checked_rows: int = 0

    def counts(self) -> dict[str, int]:
        return dict(Counter(kill.plan.target for kill in self.kills))


def plan(rng: random.Random, kills: int, targets: Sequence[Target]) -> list[Plan]:
    """The kills of one round, in the order in which they can happen.

    Work is hit on nodes and in workers while rows are measured; drivers and whole clusters die in every phase.
    """
    made: list[Plan] = []
    bag: list[Target] = []
    for _ in range(kills):
        if not bag:
            bag = rng.sample(list(targets), len(targets))
        target = bag.pop()
        anywhere = target in ("driver", "cluster")
        phase = rng.choices(PHASES, (0.25, 0.5, 0.25))[0] if anywhere else "measure"
        made.append(Plan(target, phase, rng.random(), min(rng.expovariate(2.0), 2.0)))
    return sorted(made, key=lambda one: (PHASES.index(one.phase), one.at))


@dataclass
class Driver:
    """`python -m pipelines.build` in a process of its own, its words in a file."""

    videos: Path
    out: Path
    log: Path
    settings: Sequence[str]
    address: str | None = None
    process: subprocess.Popen[bytes] = field(init=False)
    started: float = field(init=False)

    def __post_init__(self) -> None:
        place = [f"--address={self.address}"] if self.address else []
        command = [
            *(sys.executable, "-m", "pipelines.build"),
            *("--input", str(self.videos), "--output", str(self.out), *place, *self.settings),
        ]
        self.started = time.monotonic()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=ROOT, env=environment()
            )

    def kill(self) -> None:
        kill_tree(psutil.Process(self.process.pid))
        self.process.wait()

    def words(self) -> str:
        """The end of its log, without the tables that a raylet prints when it dies."""
        lines = self.log.read_text(errors="replace").splitlines()
        return "\n".join(line for line in lines if "[state-dump]" not in line)[-4000:]


@contextlib.contextmanager
def driving(videos: Path, out: Path, log: Path, settings: Sequence[str], address: str | None) -> Iterator[list[Driver]]:
    """A list whose last item is the running driver; whatever happens, it does not outlive the block."""
    drivers = [Driver(videos, out, log, settings, address)]
    try:
        yield drivers
    finally:
        if drivers[-1].process.poll() is None:
            drivers[-1].kill()


def build_reference(videos: Path, folder: Path, settings: Sequence[str], patience_s: float) -> Reference:
    """Build once on this machine's own Ray. Raises `ChaosError` when that fails."""
    ledger = Ledger(folder / "reference")
    first = last = 0.0
    with driving(videos, ledger.out, folder / "reference.log", settings, None) as [driver]:
        while (code := driver.process.poll()) is None:
            now = time.monotonic() - driver.started
            if ledger.observe():
                first, last = first or now, now
            if now - last > patience_s:
                raise ChaosError(f"the reference build stood still for {patience_s:g} s\n{driver.words()}")
            time.sleep(TICK_S)
        total = time.monotonic() - driver.started
        ledger.observe()
        if code not in DONE or not ledger.rows():
            raise ChaosError(f"the reference build ended with code {code}\n{driver.words()}")
    return Reference(ledger, first, last - first, total - last)


@dataclass
class Round:
    """One output folder from the first start to the last byte."""

    number: int
    videos: Path
    folder: Path
    settings: Sequence[str]
    cluster: LocalCluster
    reference: Reference
    rng: random.Random
    patience_s: float
    kills: list[Kill]

    def __post_init__(self) -> None:
        self.ledger = Ledger(self.folder / f"round-{self.number}")
        self.began = self.moved = time.monotonic()
        self.measured_at: float | None = None  # when the present driver's last row was committed
        self.armed_at: float | None = None

    def run(self, plans: Sequence[Plan]) -> list[str]:
        """Build under fire. Returns what is wrong with the result; raises `ChaosError` when there is none."""
        waiting = deque(plans)
        log = self.folder / f"round-{self.number}.log"
        gave_up: list[str] = []
        with driving(self.videos, self.ledger.out, log, self.settings, self.cluster.address) as drivers:
            while True:
                driver = drivers[-1]
                code = driver.process.poll()
                self._note(self.ledger.observe())
                if code in DONE:
                    break
                if code is not None:
                    if len(gave_up) == 3:
                        raise ChaosError(f"round {self.number}: the build gave up again\n{driver.words()}")
                    gave_up.append(f"the build gave up with code {code} after kill {len(self.kills)}")
                    self._settle(f"gave up with code {code}")
                    drivers.append(self._again(log))
                    continue
                if time.monotonic() - self.moved > self.patience_s:
                    raise ChaosError(self._hung(driver))
                if waiting and self._due(waiting[0], driver) and self._strike(waiting[0], driver):
                    if waiting.popleft().target in ("driver", "cluster"):
                        drivers.append(self._again(log))
                    continue
                self.cluster.tend()
                time.sleep(TICK_S)
        self._settle("done")
        return gave_up + compare(self.reference.ledger, self.ledger)

    def _again(self, log: Path) -> Driver:
        self.measured_at = None
        self.moved = time.monotonic()
        return Driver(self.videos, self.ledger.out, log, self.settings, self.cluster.address)

    def _share(self) -> float:
        return self.ledger.rows() / self.reference.ledger.rows()

    def _due(self, plan: Plan, driver: Driver) -> bool:
        now = time.monotonic()
        if self._share() >= 1 and self.measured_at is None:
            self.measured_at = now
        if plan.phase == "start":
            return now - driver.started >= plan.at * self.reference.start_s
        if plan.phase == "pack":
            # With all rows stored a new driver first starts again and reads them, which is worth hitting as well.
            return self.measured_at is not None and now - self.measured_at >= plan.at * self.reference.pack_s
        if self._share() < plan.at:
            return False
        self.armed_at = self.armed_at or now
        return now - self.armed_at >= plan.delay_s

    def _strike(self, plan: Plan, driver: Driver) -> bool:
        """Kill; false when there was nothing to hit yet."""
        victim = ""
        if plan.target == "driver":
            victim = f"pid {driver.process.pid}"
            driver.kill()
        elif plan.target == "cluster":
            victim = f"{self.cluster.size} nodes, head, driver"
            driver.kill()
            self.cluster.stop()
            self.cluster.start()
        else:
            busy = self.cluster.busy()
            if not busy:
                return False
            node = self.rng.choice(sorted(busy, key=lambda process: process.pid))
            prey = self.rng.choice(sorted(busy[node], key=lambda process: process.pid))
            if plan.target == "worker":
                victim = title(prey).removeprefix("ray::")
                prey.kill()
            else:
                victim = ", ".join(sorted({title(process).removeprefix("ray::") for process in busy[node]}))
                self.cluster.kill_node(node)
        self.armed_at = None
        self.moved = time.monotonic()
        self._settle("killed again")
        self.ledger.observe()
        self.kills.append(
            Kill(
                number=len(self.kills) + 1,
                round=self.number,
                plan=plan,
                victim=victim,
                after_s=time.monotonic() - self.began,
                parts=len(self.ledger.parts),
                rows=self.ledger.rows(),
                open_rows=self._open_rows(),
            )
        )
        return True

    def _open_rows(self) -> int:
        """Rows of the reference that are in an earlier stage's parts but not yet in this one's."""
        stored = self.ledger.ids()
        reached = set().union(*stored.values()) if stored else set()
        wanted = self.reference.ledger.ids()
        return sum(len((ids.keys() & reached) - stored.get(stage, Counter()).keys()) for stage, ids in wanted.items())

    def _note(self, new_parts: int) -> None:
        if new_parts:
            self.moved = time.monotonic()
            self._settle("went on")

    def _settle(self, what: str) -> None:
        """Say what followed the last kill, unless that is known already."""
        if self.kills and self.kills[-1].round == self.number and not self.kills[-1].outcome:
            after = time.monotonic() - self.began - self.kills[-1].after_s
            self.kills[-1].outcome = f"{what} after {after:.1f} s"

    def _hung(self, driver: Driver) -> str:
        last = self.kills[-1].victim if self.kills else "none"
        stages = {stage: sum(ids.values()) for stage, ids in sorted(self.ledger.ids().items())}
        return (
            f"round {self.number} stood still for {self.patience_s:g} s; this driver runs for "
            f"{time.monotonic() - driver.started:.0f} s; {len(self.kills)} kills, the last: {last}\n"
            f"rows by stage: {stages}, of {self.reference.ledger.rows()} in all\n"
            f"at work:\n{self.cluster.report()}\nthe driver's last words:\n{driver.words()}"
        )


def campaign(
    folder: Path,
    *,
    seed: int,
    kills: int,
    sources: int,
    targets: Sequence[Target] = get_args(Target),
    settings: Sequence[str] = SETTINGS,
    kills_a_round: int = 6,
    patience_s: float = 600,
    say: Callable[[str], None] = lambda line: None,
) -> Result:
    """Make the corpus and the reference in `folder`, then rounds until `kills` have hit. A build that hangs or
    gives up for good ends the campaign as a finding. Raises `ChaosError` when not even the reference is built.

    `patience_s`: how long a build may run without a new part, a kill or a fresh driver.
    """
    rng = random.Random(seed)
    make_corpus(folder / "videos", sources)
    reference = build_reference(folder / "videos", folder, settings, patience_s)
    say(
        f"reference: {reference.ledger.rows()} rows in {len(reference.ledger.parts)} parts; start "
        f"{reference.start_s:.1f} s, measuring {reference.measure_s:.1f} s, packing {reference.pack_s:.1f} s"
    )
    result = Result(seed, reference)
    with LocalCluster(size=2, cpus=4) as cluster:
        while len(result.kills) < kills:
            result.rounds += 1
            plans = plan(rng, min(kills_a_round, kills - len(result.kills)), targets)
            round_ = Round(
                result.rounds,
                folder / "videos",
                folder,
                settings,
                cluster,
                reference,
                rng,
                patience_s,
                result.kills,
            )
            try:
                findings = round_.run(plans)
            except ChaosError as error:
                findings, kills = [str(error)], len(result.kills)  # no more rounds: the next would hang as well
            result.findings += [f"round {result.rounds}: {finding}" for finding in findings]
            result.recomputed += round_.ledger.recomputed()
            result.checked_parts += len(round_.ledger.parts)
            result.checked_rows += round_.ledger.rows()
            say(
                f"round {result.rounds}: {len(result.kills)} kills, "
                f"{'identical' if not findings else f'{len(findings)} findings'} "
                f"after {time.monotonic() - round_.began:.0f} s"
            )
    return result


def show(result: Result, console: Console) -> None:
    """The kills as a table, what was wrong, and totals."""
    table = Table("kill", "round", "target", "phase", "s", "parts", "rows", "open", "victim", "what followed", box=None)
    for kill in result.kills:
        table.add_row(
            *(str(kill.number), str(kill.round), kill.plan.target, kill.plan.phase, f"{kill.after_s:.1f}"),
            *(str(kill.parts), str(kill.rows), str(kill.open_rows), kill.victim, kill.outcome),
        )
    console.print(table)
    for finding in result.findings:
        console.print(f"wrong: {finding}", style="red", highlight=False, markup=False)
    console.print(
        f"seed {result.seed}: {len(result.kills)} kills {_spelt(result.counts())} in {result.rounds} builds; "
        f"{result.checked_parts} parts with {result.checked_rows} rows checked; "
        f"rows open at the kills: {sum(kill.open_rows for kill in result.kills)}; "
        f"committed rows recomputed: {result.recomputed}; findings: {len(result.findings)}",
        highlight=False,
    )


def _spelt(counts: Mapping[str, int]) -> str:
    return f"({', '.join(f'{count} {name}' for name, count in sorted(counts.items()))})"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, nargs="+", default=[7], help="one campaign a seed")
    parser.add_argument("--kills", type=int, default=24, help="kills a campaign")
    parser.add_argument("--sources", type=int, default=8, help="videos of two shots each")
    parser.add_argument("--targets", nargs="+", choices=get_args(Target), default=get_args(Target))
    parser.add_argument("--patience", type=float, default=600, help="seconds without a new part that count as hanging")
    parser.add_argument("--keep", type=Path, help="a new folder that is kept, for a look at outputs and logs")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the cluster goes down with us
    console = Console(width=180)
    failed = False
    for seed in arguments.seed:
        with contextlib.ExitStack() as stack:
            if arguments.keep:
                folder = arguments.keep / f"seed-{seed}"
                folder.mkdir(parents=True)
            else:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="chaos-")))
            result = campaign(
                folder,
                seed=seed,
                kills=arguments.kills,
                sources=arguments.sources,
                targets=arguments.targets,
                patience_s=arguments.patience,
                say=lambda line: console.print(line, highlight=False),
            )
            show(result, console)
            failed |= bool(result.findings)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
