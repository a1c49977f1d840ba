"""Who is who among a hundred thousand faces: seconds, memory, and how right it is, on planted people.

Embeddings are drawn as recognisers give them: 512 numbers, people a random direction each, pictures of one person about
0.6 alike, with some people nearly twins (0.6 alike themselves) and some pictures half-way between two people. Beside
single linkage over the same links, which one picture between two people is enough to mislead.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dataengine.decide import identities
from dataengine.decide.duplicates import grouped
from dataengine.decide.identities import cluster, completeness, purity
from engine.table import Line, show

WIDTH = 512
EACH = 10
NOISE = 0.8
"""Pictures of one person are then 1 / (1 + 0.8²) = 0.61 alike."""
TWINS, BETWEEN = 0.02, 0.002
"""Shares: of people who have a twin, and of pictures that show half of somebody else."""


def planted(count: int, seed: int = 0) -> tuple[NDArray[np.float16], NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    people = count // EACH
    centres = rng.standard_normal((people, WIDTH)).astype(np.float32)
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    twins = int(TWINS * people)
    centres[:twins] = 0.6 * centres[-twins:] + 0.8 * centres[:twins]
    truth = rng.permutation(np.repeat(np.arange(people), EACH))
    rows = np.empty((len(truth), WIDTH), np.float16)
    for start in range(0, len(truth), 10_000):
        who = truth[start : start + 10_000]
        block = centres[who] + NOISE * rng.standard_normal((len(who), WIDTH)).astype(np.float32) / WIDTH**0.5
        blurred = rng.random(len(who)) < BETWEEN
        block[blurred] += centres[rng.integers(0, people, blurred.sum())]
        rows[start : start + 10_000] = block / np.linalg.norm(block, axis=1, keepdims=True)
    return rows, truth


def _memory_mb(what: str) -> float:
    return int(Path("/proc/self/status").read_text().split(f"{what}:")[1].split()[0]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--faces", type=int, default=100_000)
    count = parser.parse_args().faces
    rows, truth = planted(count)
    clips = [str(number) for number in range(len(rows))]
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = _memory_mb("VmRSS")
    started, cpu = time.perf_counter(), time.process_time()
    labels = cluster(rows, clips, 0.5)
    wall, cpu = time.perf_counter() - started, time.process_time() - cpu
    peak = _memory_mb("VmHWM") - before
    started = time.process_time()
    links = identities._links(rows, 0.5, 16)
    chained = grouped(len(rows), zip(links["a"].tolist(), links["b"].tolist(), strict=True))
    single = time.process_time() - started
    # One block of rows against all, for the cost of comparing everybody with everybody.
    full = rows.astype(np.float32)
    started = time.process_time()
    full[:1024] @ full.T
    exact = (time.process_time() - started) * len(rows) / 1024
    show(
        f"who is who among {count:,} faces of {count // EACH:,} people",
        [
            Line(
                "clustering",
                f"{cpu:.0f} CPU s, {wall:.0f} s",
                f"{exact:.0f} CPU s to compare all",
                f"{cpu / exact:.2f}",
            ),
            Line(
                "memory beside the embeddings",
                f"{peak:.0f} MB",
                f"{rows.nbytes / 1e6:.0f} MB are the embeddings",
                f"{peak * 1e6 / rows.nbytes:.1f}",
            ),
            Line("purity", f"{purity(labels, truth):.4f}", f"{purity(chained, truth):.4f} by single linkage"),
            Line("completeness", f"{completeness(labels, truth):.4f}", f"{completeness(chained, truth):.4f}"),
            Line(
                "groups",
                f"{len(set(labels.tolist())):,}",
                f"{len(set(chained)):,}, {single:.0f} CPU s",
                "",
                f"{count // EACH:,}",
            ),
        ],
    )


if __name__ == "__main__":
    main()
