"""`cache latents`: what a run reads is made once, on Ray; training from it is the same run, bit for bit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from tiny_runs import TINY, settings, train
from typer.testing import CliRunner

from dataengine.engine.measurements import Measurements
from dataengine.engine.pipeline import Pipeline
from dataengine.engine.worker import StageWorker
from dataengine.lumosx.codec import DctCodec
from dataengine.lumosx.metrics import read_metrics
from dataengine.lumosx.order import Size
from dataengine.lumosx.windows import Window
from dataengine.records import SourceVideo
from dataengine.shards.index import Index
from dataengine.stage import BadInput, Row
from dataengine.store import Store
from pipelines import latents as module
from pipelines.cli import app
from pipelines.latents import Encoded, LatentStage, Place, encode

RANDOM = ("steps=3", "data.window=random", "data.text_dropout=0.3", "validation.samples=1")


def make(data: Path, place: Path, *overrides: str, **options: bool) -> list[Encoded]:
    return encode(str(data), settings(*overrides, f"stored.place={place}"), console=Console(quiet=True), **options)


def losses(run: Path) -> list[tuple[float | None, float | None]]:
    return [(metrics.loss, metrics.grad_norm) for metrics in read_metrics(run)[0]]


def same_run(short, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *overrides: str) -> list[Encoded]:  # type: ignore[no-untyped-def]
    """Of a run on line and one from what is stored; no clip or caption is encoded again."""
    place = tmp_path / "latents"
    online = train(short.out, tmp_path / "online", settings(*RANDOM, *overrides))
    made = make(short.out, place, *RANDOM, *overrides)
    assert sum(one.made for one in made[1:]) == 6, "3 steps of 2: each its own window"
    encoded: list[int] = []
    encode_pixels = DctCodec.encode

    def counted(codec: DctCodec, pixels: torch.Tensor) -> torch.Tensor:
        encoded.append(pixels.shape[2])
        return encode_pixels(codec, pixels)

    monkeypatch.setattr(DctCodec, "encode", counted)
    monkeypatch.setattr("dataengine.lumosx.stored.open_text", None)
    stored = train(short.out, tmp_path / "stored", settings(*RANDOM, *overrides, f"stored.place={place}"))
    assert losses(tmp_path / "stored") == losses(tmp_path / "online")
    assert stored.after == online.after
    assert sum(frames > 1 for frames in encoded) == 1, "the clip that validation looks at, and references"
    return made


def test_a_run_from_stored_latents_is_the_same_run(short, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Random windows and dropped captions are drawn as ever."""
    made = same_run(short, tmp_path, monkeypatch)
    assert [one.what.split()[0] for one in made] == ["contexts", "latents"]


# --- The same stages in this process: starting Ray's workers is what takes the time -----------------------------------


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(store: Store, pipeline: Pipeline, sources: Sequence[SourceVideo], *_: Any) -> None:
        measurements, (step,) = Measurements(store.child("measurements")), pipeline.steps
        ledger = measurements.ledger(step.stage.name, pipeline.fingerprints[step.stage.name])
        worker = StageWorker(pipeline, step, measurements, {step.stage.name: ledger})
        for start in range(0, len(sources), step.resources.batch):
            worker._measured([Row(source) for source in sources[start : start + step.resources.batch]])

    monkeypatch.setattr(module, "measure_sources", measure)
    monkeypatch.setattr(module, "connect", lambda *_: None)


def test_mirrored_clips_are_stored_mirrored(short, tmp_path: Path, here: None, monkeypatch: pytest.MonkeyPatch) -> None:
    made = same_run(short, tmp_path, monkeypatch, "data.flip_share=0.5")
    assert [one.what.split()[0] for one in made] == ["contexts", "latents", "latents"]
    assert all(one.made for one in made)


def test_only_what_is_missing_is_made(short, tmp_path: Path, here: None) -> None:
    place = tmp_path / "latents"
    contexts, latents = make(short.out, place)
    assert (latents.stored, latents.made) == (0, 4)
    again = make(short.out, place, "optimizer.lr=0.1", "data.body_share=1", "steps=9")
    assert [(one.stored, one.made) for one in again] == [(contexts.made, 0), (4, 0)]
    texts, resized = make(short.out, place, "data.height=64")
    assert (texts.made, resized.stored, resized.made) == (0, 0, 4), "another size is another latent; contexts stay"
    first = next((place / "measurements/latents").glob("*/part-*.parquet"))
    first.unlink()
    assert make(short.out, place)[1].made + make(short.out, place, "data.height=64")[1].made == 4


def test_clips_that_cannot_be_encoded_are_named(short, tmp_path: Path, here: None) -> None:
    arguments = ["cache", "latents", "--data", str(short.out), "--output", str(tmp_path), *TINY, "data.frames=161"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 3, result.output
    assert result.output.count("need 10.00 s") == 4
    assert "0 encoded (0 B), 4 were stored" in CliRunner().invoke(app, arguments).output
    assert "4 encoded" in CliRunner().invoke(app, [*arguments, "--retry"]).output


def test_a_shard_that_changed_is_not_encoded(short) -> None:
    out = Store.at(short.out)
    index, size = Index.read(out), Size(48, 80, 5)
    (row,) = module._clips(out, index, [Window(0, size, 0.25, False)])
    stage = LatentStage(settings(), size, False)
    stage.setup()
    (good,) = stage.process([Row(row)])
    assert not isinstance(good, BadInput)
    assert good.tensor().shape == (16, 2, 6, 10)
    place = Place.parse(row.uri)
    moved = row.model_copy(update={"uri": Place(place.shard, place.offset + 1, place.end, place.start_s).uri})
    (refused,) = stage.process([Row(moved)])
    assert isinstance(refused, BadInput)
    assert "dataengine validate" in str(refused)


@pytest.mark.parametrize("shard", ["/data/shards/train#1.tar", "s3://bucket/out/shards/a.tar"])
def test_a_place_is_named_in_a_uri(shard: str) -> None:
    place = Place(shard, 512, 99_000, 1.25)
    assert Place.parse(place.uri) == place
