"""The engine on a CPU machine, beside peers and bounds: `make bench-engine`.

A line a figure: ours, the peer's or the bound, and their ratio, all of one run. `--only` runs some parts; `--corpus`
keeps the generated videos for the next time. Times on a shared machine say little, ratios more; where it says the same,
processor seconds are compared.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import memory
from dataengine.store import Store
from engine import efficiency, overhead, resume, shard_writing, shots
from engine.builds import build
from engine.corpus import make_corpus
from engine.table import show

FEW, MANY = 2, 20
"""Videos of the small input, and of the large one: ten times as many."""
CLIPS, CLIPS_IF_SMALL = 10, 4
"""Clips of a video: 200 in all, or 80 for a machine that has no ten minutes to itself."""
PARTS = ("efficiency", "scaling", "memory", "long", "shards", "shots", "overhead", "restart", "ledger")


def main(chosen: set[str], clips: int, corpus_folder: Path, folder: Path) -> None:
    corpus = make_corpus(corpus_folder, MANY, clips)
    print(f"corpus: {len(corpus.files)} videos, {corpus.clips} clips, {corpus.frames} frames, in {corpus_folder}")
    if chosen & {"efficiency", "scaling", "memory", "shards"}:
        whole = efficiency.whole_build(corpus, folder / "whole")
        show("pipeline efficiency", efficiency.efficiency(whole))
        if "scaling" in chosen:
            show("scaling", efficiency.scaling(whole, corpus, folder))
        if "memory" in chosen:
            few = build(corpus.files[:FEW], folder / "few")
            show("memory", [*memory.growth("10× input", few, whole), *memory.parts(few, whole)])
        if "shards" in chosen:
            shard = shard_writing.Shard.of(Store.at(whole.output))
            show("shard writing", shard_writing.compare_writing(shard, folder))
            show("random access", shard_writing.compare_access(shard, folder / "shard"))
            del shard
    if "long" in chosen:
        short, long = memory.long_videos(corpus_folder)
        show("memory", [*memory.growth("two hours against two minutes", short, long), *memory.parts(short, long)])
    if "shots" in chosen:
        show("shots", shots.compare(corpus_folder / "sample" / "sample.mp4"))
    if "overhead" in chosen:
        show("engine overhead", overhead.compare())
    if "restart" in chosen:
        show("restart", resume.restart(folder / "finished"))
    if "ledger" in chosen:
        show("ledger", resume.remembering())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--corpus", type=Path, default=Path(tempfile.gettempdir()) / "dataengine-bench")
    parser.add_argument("--small", action="store_true", help="80 clips instead of 200")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-engine-") as scratch:
        main(set(arguments.only), CLIPS_IF_SMALL if arguments.small else CLIPS, arguments.corpus, Path(scratch))
