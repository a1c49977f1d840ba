"""Import and export, samples a CPU second, against copying the same bytes and against validating them; memory.

`python tests/bench/formats_cpu.py [--samples N]`. One dataset of clips of 480×832 is written, exported in each format
and imported again, on one core. One peer copies the shards' files, the other looks at all of them and decodes every
clip, as an import has to. Each case is a process of its own, so that its peak memory is its own; processor seconds are
told, because the disk's cache and the machine's other work are not what is measured.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from dataengine import masks
from dataengine.config import ShardSettings
from dataengine.records import Box, Clip, Pair, Phrase, Provenance, Reference, Span, Subject
from dataengine.shards.assembly import Member, png
from dataengine.shards.importers.json_members import json_members
from dataengine.shards.importers.lumosx import LumosX
from dataengine.shards.importers.tree import Tree
from dataengine.shards.index import INDEX, SHARDS, IndexRow, write_index
from dataengine.shards.plan import SampleName, plan_shards
from dataengine.shards.validate import validate
from dataengine.shards.writer import write_shard
from dataengine.store import Store
from dataengine.video import encode_clip
from pipelines.exports import export_dataset
from pipelines.imports import ImportOptions, import_samples

WIDTH, HEIGHT, FPS, FRAMES = 832, 480, 16, 81
CAPTION = "A man in a red coat walks in front of a brick wall."
SHARD = 16


def clip() -> bytes:
    rng = np.random.default_rng(0)
    texture = rng.integers(0, 255, (HEIGHT // 8, WIDTH // 4, 3), dtype=np.uint8)
    still = np.asarray(Image.fromarray(texture).resize((2 * WIDTH, HEIGHT), Image.Resampling.BILINEAR))
    return encode_clip([still[:, 2 * k : 2 * k + WIDTH] for k in range(FRAMES)], FPS, preset="veryfast")


def sample(number: int, mp4: bytes) -> tuple[Pair, list[Member]]:
    """One subject with a face, a coat with its mask, and a background."""
    rng = np.random.default_rng(number)
    boxes = {"s0.face": Box(300, 60, 420, 210), "s0.a0": Box(240, 210, 480, 470), "bg": Box(0, 0, WIDTH, HEIGHT)}
    words = {"s0.face": "man", "s0.a0": "red coat", "bg": "brick wall"}
    kinds = {"s0.face": "face", "s0.a0": "attribute", "bg": "background"}
    media, references = {}, {}
    for entity, box in boxes.items():
        pixels = rng.integers(0, 255, (int(box.height) // 6, int(box.width) // 6, 3), dtype=np.uint8)
        image = Image.fromarray(pixels).resize((int(box.width), int(box.height)), Image.Resampling.BILINEAR)
        media[f"{entity}.png"] = png(np.asarray(image))
        start = CAPTION.index(words[entity])
        references[entity] = Reference(
            entity=entity,
            kind=kinds[entity],
            phrase=Phrase(text=words[entity], span=Span(start, start + len(words[entity]))),
            member=f"{entity}.png",
            mask_member="s0.a0.mask.png" if entity == "s0.a0" else None,
            still=1,
            time_s=2.5,
            box=box,
            area_share=0.1,
            score=0.9,
        )
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[210:470, 240:480] = True
    media["s0.a0.mask.png"] = png(mask)
    face = references["s0.face"]
    pair = Pair(
        key=f"{number:024x}",
        split="train",
        pairing="in_clip",
        clip=Clip.of(f"source{number}", 0.0, FRAMES / FPS),
        source_names=("video.mp4",),
        width=WIDTH,
        height=HEIGHT,
        fps=FPS,
        frames=FRAMES,
        caption=CAPTION,
        subjects=(
            Subject(
                index=0, noun=face.phrase, face=face, attributes=(references["s0.a0"],), body=None, owner_share=1.0
            ),
        ),
        objects=(),
        background=references["bg"],
        provenance=Provenance(stages=(), decided_by="bench"),
    )
    names = ("s0.face.png", "s0.a0.png", "s0.a0.mask.png", "bg.png")
    return pair, [Member("mp4", mp4), Member("json", pair.to_json().encode()), *(Member(n, media[n]) for n in names)]


def write_dataset(out: Store, count: int) -> None:
    mp4 = clip()
    names = [SampleName("train", 1, f"{number:024x}") for number in range(count)]
    rows: list[IndexRow] = []
    for plan in plan_shards(names, ShardSettings(samples=SHARD)):
        with out.open_output(f"{SHARDS}/{plan.name}") as stream:
            rows += write_shard(stream, plan.name, (sample(int(key, 16), mp4) for key in plan.keys))
    with out.open_output(INDEX) as stream:
        write_index(stream, rows)


def here() -> None:
    """All work in this process, whatever there is of it."""
    from pipelines import spread

    spread.FEW = 1 << 30


def work(case: str, folder: Path) -> tuple[float, float]:
    """Processor seconds and peak memory in MB of one case."""
    here()
    data, target = str(folder / "data"), folder / "target"

    def read_lumosx() -> None:
        source = Tree.at(folder / "lumosx/samples")
        import_samples(LumosX(source), "lumosx", str(target), ImportOptions(shards=ShardSettings(samples=SHARD)))

    def copy() -> None:
        shutil.copytree(folder / "data", target)

    cases: dict[str, Callable[[], object]] = {
        "copy": copy,
        "validate": lambda: validate(Store.at(data)),
        "import lumosx": read_lumosx,
    }
    for name in ("lumosx", "webdataset", "coco", "wids"):
        cases[f"export {name}"] = lambda name=name: export_dataset(name, data, str(target))
    started = time.process_time()
    cases[case]()
    return time.process_time() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def run(case: str, folder: Path) -> tuple[float, float]:
    shutil.rmtree(folder / "target", ignore_errors=True)
    done = subprocess.run(
        [sys.executable, __file__, "--case", case, "--folder", str(folder)], capture_output=True, text=True, check=True
    )
    seconds, memory = json.loads(done.stdout.strip().splitlines()[-1])
    return seconds, memory


def scan() -> None:
    """MB/s at which the members of an OpenS2V-like JSON are found, and of parsing it whole, as a ratio's two sides."""
    rng = np.random.default_rng(0)
    counts = masks.encode(rng.random((480, 832)) > 0.5).counts[:100_000]
    one = {"metadata": {"path": "a.mp4"}, "annotation": {str(i): {"counts": counts} for i in range(4)}}
    data = json.dumps({str(i): one for i in range(100)}).encode()
    started = time.process_time()
    members = list(json_members(BytesIO(data)))
    found = time.process_time() - started
    started = time.process_time()
    json.loads(data)
    parsed = time.process_time() - started
    assert len(members) == 100
    print(f"members of a JSON object: {len(data) / found / 1e6:.0f} MB/s, {parsed / found:.2f} × json.loads")


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--samples", type=int, default=64)
    arguments.add_argument("--case")
    arguments.add_argument("--folder", type=Path)
    told = arguments.parse_args()
    if told.case:
        print(json.dumps(work(told.case, told.folder)))
        return
    few = max(SHARD, told.samples // 4)
    with tempfile.TemporaryDirectory() as scratch:
        folders = {count: Path(scratch) / str(count) for count in (few, told.samples)}
        for count, folder in folders.items():
            write_dataset(Store.at(folder / "data"), count)
            here()
            export_dataset("lumosx", str(folder / "data"), str(folder / "lumosx"))
        size = sum(f.stat().st_size for f in (folders[told.samples] / "data").rglob("*") if f.is_file())
        print(f"{told.samples} samples, {size / 1e6:.0f} MB")
        heads = ("samples/s", "MB/s", "× copy", "× validate", "peak MB", f"of {few}")
        print(f"{'a CPU second':24}" + "".join(f"{head:>11}" for head in heads))
        exports = ("export lumosx", "export webdataset", "export coco", "export wids")
        cases = ("copy", "validate", *exports, "import lumosx")
        found = {case: (*run(case, folders[told.samples]), run(case, folders[few])[1]) for case in cases}
        for case, (seconds, memory, small) in found.items():
            ratios = [found[peer][0] / seconds for peer in ("copy", "validate")]
            print(
                f"{case:24}{told.samples / seconds:11.1f}{size / seconds / 1e6:11.0f}{ratios[0]:11.3f}{ratios[1]:11.2f}"
                f"{memory:11.0f}{small:11.0f}"
            )
    scan()


if __name__ == "__main__":
    main()
