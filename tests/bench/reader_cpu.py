"""Reading and validating shards, against plain webdataset and against hashing the same bytes, in one run.

`python tests/bench/reader_cpu.py`. Shards are those of `loading_cpu.py` (480×832, 5.2 s). They are cached by the
operating system, and processor time is counted: what is measured is the software, on one core.
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import webdataset as wds
from loading_cpu import write

from dataengine.shards import PairDataset, PairStream
from dataengine.shards.validate import Validation, validate
from dataengine.store import Store

ROUNDS = 5


def seconds(work: Callable[[], object]) -> float:
    """Processor seconds of the quickest of some rounds."""
    taken = []
    for _ in range(ROUNDS):
        started = time.process_time()
        work()
        taken.append(time.process_time() - started)
    return min(taken)


def table(title: str, megabytes: float, rows: dict[str, float]) -> None:
    """Each row against the first one: the peer or bound."""
    first = next(iter(rows.values()))
    print(title)
    for name, taken in rows.items():
        print(f"  {name:44}{megabytes / taken:8.0f} MB/s{first / taken:8.2f}")


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=48)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), options.samples)
        out = Store.at(folder)
        shards = sorted(str(path) for path in Path(folder, "shards").glob("*.tar"))
        megabytes = sum(Path(shard).stat().st_size for shard in shards) / 1e6

        def drain(samples: object) -> None:
            for _ in samples:  # type: ignore[attr-defined]
                pass

        table(
            f"reading {options.samples} samples, {megabytes:.0f} MB, in {len(shards)} shards",
            megabytes,
            {
                "webdataset, bytes only (peer)": seconds(lambda: drain(wds.WebDataset(shards, shardshuffle=False))),
                "PairStream, in order, typed": seconds(lambda: drain(PairStream(out, shuffle=0))),
                "PairStream, shuffled, typed": seconds(lambda: drain(PairStream(out, shuffle=16))),
                "PairDataset, one ranged read a sample": seconds(lambda: drain(PairDataset(out))),
            },
        )

        def hashes() -> None:
            for shard in shards:
                hashlib.sha256(Path(shard).read_bytes()).digest()

        table(
            "validating them",
            megabytes,
            {
                "sha256 of the shards and nothing else (bound)": seconds(hashes),
                "--depth files": seconds(lambda: validate(out, Validation("files"))),
                "--depth images": seconds(lambda: validate(out, Validation("images"))),
                "--depth clips": seconds(lambda: validate(out, Validation("clips"))),
            },
        )
        report = validate(out)
        assert report.ok, report.findings[0]
        work = sum(report.spent.values())
        shares = ", ".join(f"{kind} {taken / work:.0%}" for kind, taken in report.spent.items())
        print(f"  at --depth clips it is bound by {report.bound}: {shares}")


if __name__ == "__main__":
    main()
