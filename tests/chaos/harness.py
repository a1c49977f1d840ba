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
import random
import shutil
import signal
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
from rich.console import Console
from rich.table import Table

from dataengine.video import encode_clip, iter_frames
from dataengine.world.bad_videos import make_bad_videos
from judge import Ledger, compare
from local_cluster import ROOT, TICK_S, LocalCluster, environment, kill_tree, title

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
        self.cluster.gather()  # a build refuses a cluster that is too small for its stages
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
        after_s = time.monotonic() - self.began
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
                after_s=after_s,
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
