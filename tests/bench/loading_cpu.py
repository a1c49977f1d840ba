"""Samples a second from shards to what the model takes, against what a training step uses up.

`python tests/bench/loading_cpu.py`. Shards are written as a build does, with clips of 480×832 at 24 fps and references
of two people. Measured alone on one core: reading and decoding with augmentation, the same with latents that were
stored by `dataengine cache latents`, and, for the peer, PyAV decoding the same clips' frames in order and nothing else
(no reference, no resize): the bound that decoding sets. `--step` is the seconds a sample takes the model on the GPU at
hand.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from io import BytesIO
from pathlib import Path

import av
import cv2
import numpy as np
import torch
from PIL import Image

from dataengine.config import ShardSettings
from dataengine.engine.measurements import Measurements, Outcome
from dataengine.lumosx.codec import LATENT_CHANNELS, latent_frames
from dataengine.lumosx.data import Example, ExampleMaker
from dataengine.lumosx.settings import AugmentSettings, DataSettings, StoreSettings, TrainSettings
from dataengine.lumosx.stored import ABOUT, StoredLatent, StoredLatents, latent_id, latent_parameters, variants
from dataengine.lumosx.windows import run_windows
from dataengine.records import Box, Clip, Pair, Phrase, Provenance, Reference, Span, Subject
from dataengine.shards.assembly import Member
from dataengine.shards.index import write_index
from dataengine.shards.plan import SampleName, plan_shards
from dataengine.shards.reader import PairDataset
from dataengine.shards.writer import write_shard
from dataengine.store import Store
from dataengine.video import encode_clip

WIDTH, HEIGHT, FPS, SECONDS = 832, 480, 24, 5.2
CAPTION = "a man in a red coat beside a woman in a blue coat in a park"


def clip(number: int) -> bytes:
    """Structure that moves: a drawn texture under a slow pan, with noise in it."""
    rng = np.random.default_rng(number)
    texture = cv2.resize(rng.integers(0, 255, (60, 120, 3), dtype=np.uint8), (2 * WIDTH, HEIGHT + 40))
    frames = []
    for k in range(round(SECONDS * FPS)):
        view = texture[k // 8 : k // 8 + HEIGHT, 2 * k : 2 * k + WIDTH].astype(np.int16)
        frames.append(np.clip(view + rng.integers(-4, 5, view.shape), 0, 255).astype(np.uint8))
    return encode_clip(frames, Fraction(FPS), preset="veryfast")


def sample(number: int, video: bytes) -> tuple[Pair, list[Member]]:
    """Two people, each with a face and a coat, and a background."""
    members = [Member("mp4", video)]
    rng = np.random.default_rng(number)

    def reference(entity: str, kind: str, words: str, size: tuple[int, int]) -> Reference:
        start = CAPTION.index(words)
        stream = BytesIO()
        pixels = cv2.resize(rng.integers(0, 255, (12, 12, 3), dtype=np.uint8), size)
        Image.fromarray(pixels).save(stream, "PNG")
        members.append(Member(f"{entity}.png", stream.getvalue()))
        return Reference(
            entity=entity, kind=kind, phrase=Phrase(text=words, span=Span(start, start + len(words))),
            member=f"{entity}.png", mask_member=None, still=0, time_s=0.0, box=Box(0, 0, *size),
            area_share=size[0] * size[1] / (WIDTH * HEIGHT), score=1.0,
        )  # fmt: skip

    subjects = tuple(
        Subject(
            index=i, noun=face.phrase, face=face, attributes=(coat,), body=None, owner_share=1.0
        )
        for i, (face, coat) in enumerate(
            (
                reference(f"s{i}.face", "face", noun, (120, 120)),
                reference(f"s{i}.a0", "attribute", f"{colour} coat", (220, 300)),
            )
            for i, (noun, colour) in enumerate((("a man", "red"), ("a woman", "blue")))
        )
    )  # fmt: skip
    pair = Pair(
        key=f"clip_{number:04d}", split="train", pairing="in_clip", clip=Clip.of(f"source{number}", 0.0, SECONDS),
        source_names=(f"{number}.mp4",), width=WIDTH, height=HEIGHT, fps=FPS, frames=round(SECONDS * FPS),
        caption=CAPTION, subjects=subjects, objects=(),
        background=reference("bg", "background", "a park", (WIDTH, HEIGHT)),
        provenance=Provenance(stages=(), decided_by="bench"),
    )  # fmt: skip
    return pair, [*members, Member("json", pair.to_json().encode())]


def write(folder: Path, count: int) -> PairDataset:
    """A dataset of `count` samples over four clips."""
    store, rows = Store.at(folder), []
    videos = [clip(number) for number in range(min(4, count))]
    made = {pair.key: (pair, members) for pair, members in (sample(k, videos[k % len(videos)]) for k in range(count))}
    for plan in plan_shards((SampleName.of(pair) for pair, _ in made.values()), ShardSettings(samples=8)):
        with store.open_output(f"shards/{plan.name}") as stream:
            rows += write_shard(stream, plan.name, [made[key] for key in plan.keys])
    with store.open_output("index.parquet") as stream:
        write_index(stream, rows)
    return PairDataset(store, "train")


def store_latents(samples: PairDataset, place: Path, settings: DataSettings) -> StoredLatents:
    """A latent of the Wan VAE's shape for every window of one epoch, in parts of eight as the engine writes them."""
    chosen = TrainSettings(
        data=settings, stored=StoreSettings(place=str(place)), batch=1, steps=len(samples), seed=0
    )  # fmt: skip
    measurements = Measurements(Store.at(place).child("measurements"))
    ((size, turned),) = variants(chosen)
    about = json.dumps(latent_parameters(chosen, size, turned)).encode()
    measurements.store.write(f"latents/bench/{ABOUT}", about)
    shape = (LATENT_CHANNELS, latent_frames(size.frames), size.height // 8, size.width // 8)
    rows = []
    for window in run_windows(samples.index, chosen, 1):
        name = latent_id(samples.index[window.sample].member("mp4").sha256, window.start_s)
        rows.append(Outcome(name, StoredLatent.of(torch.randn(shape)), 0.0))
    for start in range(0, len(rows), 8):
        measurements.commit("latents", "bench", rows[start : start + 8])
    measurements.fold("latents", "bench")
    found = StoredLatents.of(chosen)
    assert found is not None
    return found


def rate(count: int, work: Callable[[int], object]) -> float:
    """Samples a second, of processor time: other processes on the machine do not count."""
    started = time.process_time()
    for index in range(count):
        work(index)
    return count / (time.process_time() - started)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--step", type=float, default=2.4, help="seconds of the model a sample; the aim on an H100")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    settings = DataSettings(height=HEIGHT, width=WIDTH, frames=81, fps=16, window="random", cache_mb=0, body_share=0)
    with tempfile.TemporaryDirectory() as folder:
        samples = write(Path(folder), options.samples)

        def decode_alone(index: int) -> None:
            with av.open(BytesIO(samples[index].members["mp4"])) as container:
                container.streams.video[0].thread_type = "NONE"
                for frame in container.decode(video=0):
                    frame.to_ndarray(format="rgb24")

        def make(augmented: bool, stored: StoredLatents | None = None) -> Callable[[int], None]:
            chosen = settings.model_copy(update={"augment": AugmentSettings(enabled=augmented)})
            maker = ExampleMaker(samples, chosen, 0, stored)

            def one(index: int) -> None:
                made = maker.make(index, 0, index)
                assert isinstance(made, Example)
                assert (made.latent is None) == (stored is None), made.missed

            return one

        latents = store_latents(samples, Path(folder) / "latents", settings)
        bound = rate(options.samples, decode_alone)
        rows = {
            "reading alone": rate(options.samples, lambda index: samples[index]),
            "decoding alone, in order (bound)": bound,
            "examples without augmentation": rate(options.samples, make(False)),
            "examples with augmentation": (full := rate(options.samples, make(True))),
            "the same from stored latents": (stored := rate(options.samples, make(True, latents))),
        }
    print(f"{options.samples} samples of {HEIGHT}×{WIDTH}, {SECONDS} s, 5 references; samples a second and core")
    for name, value in rows.items():
        print(f"  {name:36}{value:8.2f}{value / bound:9.2f} of the bound")
    print(
        f"  a model that takes {options.step} s a sample needs {1 / options.step:.2f}: "
        f"{1 / options.step / full:.2f} cores, from stored latents {1 / options.step / stored:.2f}; "
        f"stored latents give {stored / full:.2f} × the samples a core"
    )


if __name__ == "__main__":
    main()
