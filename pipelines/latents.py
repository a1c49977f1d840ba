"""Latents of clips and contexts of captions, computed once for many epochs: two stages, each run on Ray by the engine.

Windows and captions are the engine's rows. A row's URI says where its bytes stand: `SHARD#bytes=OFFSET-END&t=SECONDS`
for a window of a clip, `data:,TEXT` for a caption. Parts, restarts, quarantine and workers are the engine's as well.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NoReturn
from urllib.parse import quote, unquote

from rich.console import Console

from dataengine.config import Prices
from dataengine.engine.cache import failures
from dataengine.engine.measurements import Measurements
from dataengine.engine.pipeline import Pipeline, Step
from dataengine.engine.run import connect
from dataengine.engine.survey import StageStanding
from dataengine.lumosx import stored
from dataengine.lumosx.order import Size
from dataengine.lumosx.settings import TrainSettings
from dataengine.lumosx.stored import StoredContext, StoredLatent, context_id, latent_id
from dataengine.lumosx.windows import SampleError, Window, mirrored, read_window, run_windows
from dataengine.records import Quarantined, Record, SourceVideo
from dataengine.shards.index import SHARDS, Index
from dataengine.stage import BadInput, Row, Stage
from dataengine.store import Store
from dataengine.video import VideoError
from pipelines.alone import alone, stoppable
from pipelines.measure import measure_sources


class LatentStage(Stage[StoredLatent]):
    """Encodes a window of a clip as the trainer would on line: alone, at its size, float32."""

    name: ClassVar[str] = stored.LATENTS
    version: ClassVar[int] = 1
    reads: ClassVar[tuple[type[Record], ...]] = ()
    writes: ClassVar[type[Record]] = StoredLatent

    def __init__(self, settings: TrainSettings, size: Size, turned: bool) -> None:
        self.settings, self.size, self.turned = settings, size, turned
        self.model = settings.codec.name

    @property
    def revision(self) -> str:
        return stored.codec_revision(self.settings.codec)

    def parameters(self) -> Mapping[str, Any]:
        return stored.latent_parameters(self.settings, self.size, self.turned)

    def setup(self) -> None:
        from dataengine.lumosx.components import open_codec

        self._codec = open_codec(self.settings.codec, _device(self.settings))

    def process(self, rows: Sequence[Row]) -> Sequence[StoredLatent | BadInput]:
        return [self._encode(row) for row in rows]

    def _encode(self, row: Row) -> StoredLatent | BadInput:
        import torch

        from dataengine.lumosx.codec import to_pixels

        place = Place.parse(row.source.uri)
        mp4 = place.read()
        if latent_id(hashlib.sha256(mp4).hexdigest(), place.start_s) != row.id:
            return BadInput(f"{row.source.names[0]}: the shard is not what its index says: run `dataengine validate`")
        try:
            frames = read_window(mp4, self.size, self.settings.data.fps, place.start_s)
        except (SampleError, VideoError) as error:
            return BadInput(f"{row.source.names[0]}: {error}")
        pixels = to_pixels(torch.from_numpy(mirrored(frames) if self.turned else frames)[None])
        return StoredLatent.of(self._codec.encode(pixels)[0])


class ContextStage(Stage[StoredContext]):
    """Encodes a caption, alone, float32."""

    name: ClassVar[str] = stored.CONTEXTS
    version: ClassVar[int] = 1
    reads: ClassVar[tuple[type[Record], ...]] = ()
    writes: ClassVar[type[Record]] = StoredContext

    def __init__(self, settings: TrainSettings) -> None:
        self.settings = settings
        self.model = settings.text.name

    @property
    def revision(self) -> str:
        return stored.text_revision(self.settings.text)

    def parameters(self) -> Mapping[str, Any]:
        return stored.context_parameters(self.settings.text)

    def setup(self) -> None:
        from dataengine.lumosx.components import open_text

        self._text = open_text(self.settings.text, _device(self.settings))

    def process(self, rows: Sequence[Row]) -> Sequence[StoredContext]:
        found = self._text.encode([unquote(row.source.uri.removeprefix("data:,")) for row in rows])
        return [
            StoredContext.of(one.context, offsets=tuple(map(tuple, one.offsets)), covered=one.covered) for one in found
        ]


def _device(settings: TrainSettings) -> Any:
    """The worker's GPU or the CPU, with as many threads as the trainer computes with: they decide the last bits."""
    import torch

    from dataengine.lumosx.components import best_device

    device = best_device()
    if device.type == "cpu":
        torch.set_num_threads(settings.cpu_threads)
    return device


@dataclass(frozen=True)
class Place:
    """Where a window's clip stands, and where the window begins."""

    shard: str
    offset: int
    end: int
    start_s: float

    @property
    def uri(self) -> str:
        return f"{self.shard}#bytes={self.offset}-{self.end}&t={self.start_s:.6f}"

    @classmethod
    def parse(cls, uri: str) -> Place:
        shard, _, fragment = uri.rpartition("#bytes=")
        span, _, start_s = fragment.partition("&t=")
        offset, _, end = span.partition("-")
        return cls(shard, int(offset), int(end), float(start_s))

    def read(self) -> bytes:
        folder, _, name = self.shard.rpartition("/")
        with Store.at(folder).open_input(name) as stream:
            return stream.read_at(self.end - self.offset, self.offset)


# --- All of a run -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Encoded:
    """What became of one stage's rows: those that were stored before, those made by this call, and failures."""

    what: str
    stored: int
    made: int
    failed: tuple[Quarantined, ...]
    bytes: int


def encode(
    data: str,
    settings: TrainSettings,
    *,
    ranks: int = 1,
    retry: bool = False,
    address: str | None = None,
    console: Console | None = None,
) -> list[Encoded]:
    """Store what a run under these settings reads: all its windows' latents, all captions' contexts.

    What is stored already, by this or another run's settings, is not made again. Call it again after a kill: it goes
    on where it was.

    Args:
        ranks: of the run. Only `data.window=random` needs it: the order then decides which windows there are.
        retry: try rows again that failed before.

    Raises:
        StoreError: no dataset, or a place that cannot be written.
        OrderError: the dataset lacks samples of a kind that is asked for.
        MissingWeightsError: the codec or text encoder is not on this machine.
        Busy: another run writes there.
    """
    assert settings.stored.place is not None, "the command line asks for it"
    console = console or Console()
    out, place = Store.at(data), Store.at(settings.stored.place)
    index = Index.read(out)
    per_step = settings.batch * settings.accumulate * ranks
    windows = _grouped(run_windows(index.where("train"), settings, per_step))
    texts = {*index.table["caption"].to_pylist(), "", settings.sampling.negative_prompt}
    jobs: list[tuple[Stage, list[SourceVideo]]] = [(ContextStage(settings), _captions(sorted(texts)))]
    for size, turned in stored.variants(settings):
        rows = _clips(out, index.where("train"), windows.get((size, turned), []))
        jobs.append((LatentStage(settings, size, turned), rows))
    steps = [_step(stage, settings) for stage, _ in jobs]
    with alone(place):
        connect(address, [max(steps, key=lambda step: step.resources.most_workers * step.resources.cpus)])
        for step in steps:  # one runs after the other
            connect(address, [step])
        with stoppable():
            return [_run(place, step, rows, retry, console) for step, (_, rows) in zip(steps, jobs, strict=True)]


def _step(stage: Stage, settings: TrainSettings) -> Step:
    return Step(stage, getattr(settings.stored, stage.name))


def _run(place: Store, step: Step, rows: list[SourceVideo], retry: bool, console: Console) -> Encoded:
    name = step.stage.name
    pipeline = Pipeline(source_steps=(step,), cut=_never_cut, clip_steps=(), finish=_never_decided, verdict=Record)
    print_ = pipeline.fingerprints[name]
    measurements = Measurements(place.child("measurements"))
    measurements.store.write(f"{name}/{print_}/{stored.ABOUT}", _about(step.stage))
    if retry:
        measurements.void(name, print_, failures(measurements, name, print_))
    before = measurements.ledger(name, print_)
    has = before.has([row.source_id for row in rows])
    missing = [row for row in rows if row.source_id not in has]
    standing = {name: StageStanding(stored=len(has), waiting=len(missing))}
    work = measure_sources(place, pipeline, missing, Prices(), console, standing) if missing else None
    measurements.fold(name, print_)
    failed = [i for i in failures(measurements, name, print_) if i in {row.source_id for row in rows}]
    told = measurements.records(measurements.ledger(name, print_), failed)
    return Encoded(
        what=_told(step.stage),
        stored=len(has),
        made=len(missing),
        failed=tuple(Quarantined.from_json(told[i].failure or "") for i in failed),
        bytes=0 if work is None else work.counts[name].bytes,
    )


def _about(stage: Stage) -> bytes:
    return json.dumps(dict(stage.parameters()), indent=1).encode()


def _told(stage: Stage) -> str:
    return f"{stage.name} ({', '.join(f'{name} {value}' for name, value in stage.parameters().items())})"


def _grouped(windows: Iterable[Window]) -> dict[tuple[Size, bool], list[Window]]:
    """Each window once, in the order of the index: neighbours are read together."""
    found: dict[tuple[Size, bool], list[Window]] = {}
    for window in sorted(set(windows)):
        found.setdefault((window.size, window.mirrored), []).append(window)
    return found


def _clips(out: Store, index: Index, windows: Sequence[Window]) -> list[SourceVideo]:
    """Windows as rows; copies of a clip once."""
    members, shards = index.table["members"], index.table["shard"]
    keys = index.table["key"]
    rows: dict[str, SourceVideo] = {}
    for window in windows:
        mp4 = next(m for m in members[window.sample].as_py() if m["name"] == "mp4")
        shard = f"{out.uri}/{SHARDS}/{shards[window.sample].as_py()}"
        place = Place(shard, mp4["offset"], mp4["offset"] + mp4["size"], window.start_s)
        name = latent_id(mp4["sha256"], window.start_s)
        rows.setdefault(
            name,
            SourceVideo(source_id=name, uri=place.uri, names=(keys[window.sample].as_py(),), size_bytes=mp4["size"]),
        )
    return list(rows.values())


def _captions(texts: Iterable[str]) -> list[SourceVideo]:
    return [
        SourceVideo(
            source_id=context_id(text), uri=f"data:,{quote(text)}", names=(text,), size_bytes=len(text.encode())
        )
        for text in texts
    ]


def _never_cut(row: Row) -> NoReturn:
    raise AssertionError(f"{row.id}: nothing is cut here")


def _never_decided(row: Row) -> NoReturn:
    raise AssertionError(f"{row.id}: nothing is decided here")
