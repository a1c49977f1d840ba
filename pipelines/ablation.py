"""`dataengine world ablate`: pairs, a base, every variant from it, pictures, their readings, the table and the grid."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from itertools import chain, cycle
from pathlib import Path

import numpy as np
from PIL import Image as PilImage
from rich.table import Table

from dataengine.lumosx import checkpoint
from dataengine.lumosx.codec import Codec, to_frames, to_pixels
from dataengine.lumosx.components import open_codec
from dataengine.lumosx.data import Example, ExampleMaker
from dataengine.lumosx.sampling import ClipGenerator
from dataengine.lumosx.settings import CodecSettings
from dataengine.lumosx.trained import Trained, read_trained
from dataengine.lumosx.trainer import CHECKPOINTS, train
from dataengine.shards.index import INDEX
from dataengine.shards.reader import PairDataset, Sample
from dataengine.store import Store
from dataengine.world.ablation import (
    VARIANTS,
    Asked,
    Course,
    Size,
    Variant,
    captioned_clips,
    held_out,
    settings,
    single_references,
    training_samples,
)
from dataengine.world.ablation_picture import Line, Tile, grid, webp
from dataengine.world.ablation_preference import rises
from dataengine.world.ablation_reading import Reading, read
from dataengine.world.ablation_result import Ablation, Readings, Share, summed_up
from dataengine.world.drawing import Image
from dataengine.world.pairs import write_samples

REAL, EXCHANGED, OTHERS = "true pictures", "garments exchanged", "another pair's picture"
"""Rows that tell whether the measure works: what is best, what is worst, and chance."""
TOLD, OTHERS_TOLD = "words alone", "another pair's words"
"""Rows that tell whether the base reads: what it makes of captions that name colours, before it sees a reference."""
_TOGETHER = 20
"""Pairs that are sampled in one batch."""
_SHOWN = 4
"""Pairs in the grid of each number of people, halved."""


class Experiment:
    """An ablation in a folder. Whatever is finished there is not done again, so that it goes on where it stopped.

    Attributes:
        folder: `words/`, `single/`, `pairs/` the datasets, `runs/`, by run `readings/NAME.json`, `rises/NAME.json`
            and `pictures/NAME/KEY.png`.
    """

    def __init__(self, folder: Path, name: str, size: Size, seeds: Sequence[int], say: Callable[[str], None]) -> None:
        self.folder, self.name, self.size, self.seeds, self._say = folder, name, size, tuple(seeds), say
        self.asked: list[Asked] = []

    def run(self) -> Ablation:
        """Everything that is not done yet, and the result: `ablation.json` and `ablation.webp` too."""
        self._prepare()
        words = self._train("words", "words", VARIANTS[0], 0, None)
        self._read_words()
        base = self._train("base", "single", VARIANTS[0], 0, words)
        for seed in self.seeds:
            for variant in VARIANTS:
                name = f"{variant.name}-{seed}"
                if not self._readings(name).exists():
                    self._train(name, "pairs", variant, seed, base)
                    with self._timed(f"generate {name}"):
                        self._generate(name, name)
                        found = self._read(name)
                    self._say(f"{name}: {_told(found)}")
                if not self._rises(name).exists():
                    with self._timed(f"prefer {name}"):
                        self._prefer(name)
        result = self._result()
        (self.folder / "ablation.json").write_text(result.to_json() + "\n", encoding="utf-8")
        (self.folder / "ablation.webp").write_bytes(webp(self._grid()))
        return result

    # --- Steps --------------------------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        self.asked = held_out(self.size)
        self._make("words", captioned_clips(self.size))
        self._make("single", single_references(self.size))
        self._make("pairs", chain(training_samples(self.size), (asked.sample for asked in self.asked)))

    def _make(self, name: str, samples: Iterable[Sample]) -> None:
        place = Store.at(self.folder / name)
        if not place.exists(INDEX):
            with self._timed(name):
                made = write_samples(place, samples)
            self._say(f"{name}: {made} samples")

    def _train(self, name: str, course: Course, variant: Variant, seed: int, base: Path | None) -> Path:
        """Train, or go on, and return the averaged weights."""
        run = self.folder / "runs" / name
        wanted = settings(self.size, course, variant, seed, base=base)
        newest = checkpoint.found(run / CHECKPOINTS) if (run / CHECKPOINTS).exists() else []
        if not newest or checkpoint.read_progress(newest[0]).step < wanted.steps:
            started = time.monotonic()
            with self._timed(f"train {name}"):
                result = train(Store.at(self.folder / course).uri, run, wanted)
            assert result is not None, "one rank"
            losses = ", ".join(f"{clips} {loss:.3f}" for clips, loss in result.after.items())
            self._say(f"{name}: {wanted.steps} steps in {time.monotonic() - started:.0f} s; loss on {losses}")
            newest = checkpoint.found(run / CHECKPOINTS)
        return newest[0] / checkpoint.EMA

    def _generate(self, name: str, run: str, words: Mapping[str, str] | None = None) -> None:
        """The middle frame of a clip for every held-out pair, from the same noise whatever is generated from.

        Args:
            name: of the pictures.
            words: captions by key instead of the pairs' own, for the base, which is shown no reference.
        """
        trained = read_trained(self.folder / "runs" / run)
        generator = ClipGenerator.of(trained)
        folder = self.folder / "pictures" / name
        folder.mkdir(parents=True, exist_ok=True)
        examples = self._examples(trained)
        if words is not None:
            examples = [replace(example, caption=words[example.key]) for example in examples]
        for part in _batches(examples):
            for example, frames in zip(part, generator.generate_together(part, trained.settings.sampling), strict=True):
                PilImage.fromarray(frames[len(frames) // 2]).save(folder / f"{example.key}.png")

    def _prefer(self, name: str) -> None:
        """Ask a variant whose face is whose; see `ablation_preference`."""
        trained = read_trained(self.folder / "runs" / name)
        generator = ClipGenerator.of(trained)
        found: dict[str, float] = {}
        for part in _batches(self._examples(trained)):
            found.update(zip((e.key for e in part), rises(generator.model, generator.encoder, part), strict=True))
        file = self._rises(name)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(found) + "\n", encoding="utf-8")

    def _examples(self, trained: Trained) -> list[Example]:
        """The held-out pairs as a run is shown them, in order."""
        data = PairDataset(Store.at(self.folder / "pairs"), "val")
        maker = ExampleMaker(data, trained.settings.data, seed=0)
        return [maker.plain(index) for index in range(len(data))]

    def _read_words(self) -> None:
        """What the base makes of captions alone, and of those of other pairs with as many people."""
        told = {asked.sample.pair.key: asked.words for asked in self.asked}
        others = {one.sample.pair.key: other.words for one, other in self._followed()}
        for name, captions in ((TOLD, told), (OTHERS_TOLD, others)):
            if not self._readings(name).exists():
                with self._timed(name):
                    self._generate(name, "words", captions)
                    self._read(name)

    def _read(self, name: str) -> list[Reading]:
        found = [_reading(self._picture(name, asked), asked) for asked in self.asked]
        file = self._readings(name)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps([asdict(reading) for reading in found]) + "\n", encoding="utf-8")
        return found

    # --- Results ------------------------------------------------------------------------------------------------------

    def _result(self) -> Ablation:
        rows = [
            Readings(variant.name, True, [self._stored(f"{variant.name}-{seed}") for seed in self.seeds])
            for variant in VARIANTS
        ]
        rows += [Readings(name, False, [self._stored(name)]) for name in (TOLD, OTHERS_TOLD)]
        rows += [Readings(name, False, [readings]) for name, readings in self._controls()]
        spent = sum(float(file.read_text()) for file in (self.folder / "cpu").iterdir())
        return summed_up(
            rows,
            size=self.name,
            seeds=self.seeds,
            base_steps=self.size.words_steps + self.size.single_steps,
            steps=self.size.steps,
            cpu_minutes=spent / 60,
        )

    def _controls(self) -> Iterator[tuple[str, list[Reading]]]:
        """What the measure says of pictures that are known, seen through the codec as generated ones are."""
        codec = open_codec(CodecSettings(), "cpu")
        true = {asked.sample.pair.key: _coded(codec, asked.true) for asked in self.asked}
        yield REAL, [_reading(true[asked.sample.pair.key], asked) for asked in self.asked]
        yield EXCHANGED, [_reading(_coded(codec, asked.exchanged), asked) for asked in self.asked]
        yield OTHERS, [_reading(true[other.sample.pair.key], one) for one, other in self._followed()]

    def _followed(self) -> list[tuple[Asked, Asked]]:
        """Every pair with the next one of as many people, in order."""
        same = {n: [asked for asked in self.asked if asked.subjects == n] for n in (2, 3)}
        places = {n: cycle([*group[1:], *group[:1]]) for n, group in same.items()}
        return [(asked, next(places[asked.subjects])) for asked in self.asked]

    def _grid(self) -> PilImage.Image:
        chosen = [asked for n in (2, 3) for asked in [one for one in self.asked if one.subjects == n][: _SHOWN // 2]]
        lines = []
        for asked in chosen:
            tiles = [Tile(asked.true)]
            for variant in VARIANTS:
                picture = self._picture(f"{variant.name}-{self.seeds[0]}", asked)
                reading = _reading(picture, asked)
                tiles.append(Tile(picture, (reading.bound, reading.subjects)))
            lines.append(Line(asked.sample, tiles))
        return grid(["true", *(variant.name for variant in VARIANTS)], lines)

    # --- Files --------------------------------------------------------------------------------------------------------

    def _readings(self, name: str) -> Path:
        return self.folder / "readings" / f"{name}.json"

    def _rises(self, name: str) -> Path:
        return self.folder / "rises" / f"{name}.json"

    def _stored(self, name: str) -> list[Reading]:
        """A run's readings, with what it was asked of faces where it is a variant's."""
        found = [Reading(**values) for values in json.loads(self._readings(name).read_text(encoding="utf-8"))]
        if not self._rises(name).exists():
            return found
        told = json.loads(self._rises(name).read_text(encoding="utf-8"))
        keys = (asked.sample.pair.key for asked in self.asked)
        return [replace(reading, rise=told[key]) for reading, key in zip(found, keys, strict=True)]

    def _picture(self, name: str, asked: Asked) -> Image:
        with PilImage.open(self.folder / "pictures" / name / f"{asked.sample.pair.key}.png") as image:
            return np.asarray(image.convert("RGB"))

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        """Note the CPU seconds of a step once it is done."""
        started = time.process_time()
        yield
        file = self.folder / "cpu" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{time.process_time() - started:.1f}\n")


def _reading(picture: Image, asked: Asked) -> Reading:
    return read(picture, asked.expected, asked.background)


def _batches(examples: list[Example]) -> Iterator[list[Example]]:
    return (examples[start : start + _TOGETHER] for start in range(0, len(examples), _TOGETHER))


def _coded(codec: Codec, picture: Image) -> Image:
    import torch

    pixels = to_pixels(torch.from_numpy(picture.copy())[None, None])
    return to_frames(codec.decode(codec.encode(pixels)))[0, 0].cpu().numpy()


def _told(readings: Sequence[Reading]) -> str:
    people = sum(reading.subjects for reading in readings)
    return f"{sum(reading.bound for reading in readings)} of {people} people bound"


def table(found: Ablation) -> Table:
    """Shares with intervals, a row a variant and a row each picture that is known."""
    shown = Table(
        title=f"{found.held_out} held-out pairs, seeds {', '.join(map(str, found.seeds))}", title_justify="left"
    )
    shown.add_column("variant")
    measures = [share.measure for share in found.rows[0].shares]
    for measure in measures:
        shown.add_column(measure, justify="right")
    for row in found.rows:
        shown.add_row(row.name, *map(_cell, row.shares))
    return shown


def _cell(share: Share) -> str:
    digits = 3 if share.measure == "rise" else 2
    return f"{share.value:.{digits}f} [{share.low:.{digits}f}, {share.high:.{digits}f}]"
