"""`cache latents`: training from what it stored is the same run, bit for bit; only what is missing is made."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest
from rich.console import Console
from tiny_runs import TINY, settings, train
from typer.testing import CliRunner

from dataengine.lumosx import components
from dataengine.lumosx.codec import DctCodec
from dataengine.lumosx.metrics import read_metrics
from dataengine.lumosx.settings import TrainSettings
from dataengine.lumosx.trainer import TrainError
from pipelines.cli import app
from pipelines.latents import Encoded, Place, encode

RANDOM = (
    "steps=4", "data.window=random", "data.flip_share=0.5", "data.buckets=[[48,80,5],[48,48,9]]",
    "data.text_dropout=0.3", "validation.every_steps=50", "checkpoint.every_steps=50",
)  # fmt: skip


def make(data: Path, chosen: TrainSettings, **options: bool) -> list[Encoded]:
    return encode(str(data), chosen, console=Console(quiet=True), **options)


def losses(run: Path) -> list[tuple[float | None, float | None]]:
    return [(metrics.loss, metrics.grad_norm) for metrics in read_metrics(run)[0]]


@pytest.mark.parametrize("overrides", [("steps=4",), RANDOM], ids=["window in the middle", "random, mirrored, buckets"])
def test_a_run_from_stored_latents_is_the_same_run(
    short, tmp_path: Path, overrides: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    place = f"stored.place={tmp_path / 'latents'}"
    online = train(short.out, tmp_path / "online", settings(*overrides))
    made = make(short.out, settings(*overrides, place))
    assert sum(one.made for one in made) > 0
    assert not any(one.failed for one in made)
    clips: list[int] = []
    encode_pixels = DctCodec.encode

    def counted(self, pixels):  # type: ignore[no-untyped-def]
        clips.append(pixels.shape[2])
        return encode_pixels(self, pixels)

    monkeypatch.setattr(DctCodec, "encode", counted)
    monkeypatch.setattr("dataengine.lumosx.stored.open_text", None)  # a call would fail: no caption is encoded
    with caplog.at_level(logging.WARNING):
        stored = train(short.out, tmp_path / "stored", settings(*overrides, place))
    assert losses(tmp_path / "stored") == losses(tmp_path / "online")
    assert stored.after == online.after
    assert "on line" not in caplog.text
    validated = 3  # training clips that validation looks at; nothing is held out
    assert sum(frames > 1 for frames in clips) <= validated, "no clip of a training step was encoded"
    assert components.open_codec is not None


def test_only_what_is_missing_is_made_again(short, tmp_path: Path) -> None:
    data = Path(shutil.copytree(short.out, tmp_path / "data"))
    place = f"stored.place={tmp_path / 'latents'}"
    contexts, latents = make(data, settings(place))
    assert (latents.stored, latents.made) == (0, 4)
    assert contexts.made == contexts.made
    again = make(data, settings(place, "optimizer.lr=0.1", "data.body_share=1"))
    assert [(one.stored, one.made) for one in again] == [(contexts.made, 0), (4, 0)]
    _, resized = make(data, settings(place, "data.height=64"))
    assert (resized.stored, resized.made) == (0, 4), "another size is another latent; contexts stay"
    parts = sorted((tmp_path / "latents/measurements/latents").glob("*/part-*.parquet"))
    assert len(parts) == 2
    parts[0].unlink()
    parts[1].unlink()
    _, redone = make(data, settings(place))
    assert (redone.stored, redone.made) == (0, 4), "what was deleted is made again"


def test_what_is_damaged_is_encoded_on_line_and_said(short, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    place = f"stored.place={tmp_path / 'latents'}"
    train(short.out, tmp_path / "online", settings("steps=2"))
    make(short.out, settings("steps=2", place))
    (part,) = (tmp_path / "latents/measurements/latents").glob("*/part-*.parquet")
    damaged = bytearray(part.read_bytes())
    for at in range(1000, len(damaged) - 4000, 997):
        damaged[at] ^= 255
    part.write_bytes(damaged)
    with caplog.at_level(logging.WARNING):
        train(short.out, tmp_path / "stored", settings("steps=2", place))
    assert "clips encoded on line" in caplog.text
    assert losses(tmp_path / "stored") == losses(tmp_path / "online")


def test_a_place_of_other_settings_stops_the_run(short, tmp_path: Path) -> None:
    place = f"stored.place={tmp_path / 'latents'}"
    make(short.out, settings(place))
    with pytest.raises(TrainError, match=r"no latents of codec dct.* height 64.*There are: .*height 48.*cache latents"):
        train(short.out, tmp_path / "run", settings(place, "data.height=64"))


def test_clips_that_cannot_be_encoded_are_named(short, tmp_path: Path) -> None:
    """Windows longer than the clips: the command says which, and ends with 3; training refuses them as ever."""
    arguments = ["cache", "latents", "--data", str(short.out), "--output", str(tmp_path / "l"), *TINY]
    result = CliRunner().invoke(app, [*arguments, "data.frames=161"])
    assert result.exit_code == 3, result.output
    assert "need 10.00 s" in result.output
    again = CliRunner().invoke(app, [*arguments, "data.frames=161"])
    assert "0 encoded" in again.output
    retried = CliRunner().invoke(app, [*arguments, "data.frames=161", "--retry"])
    assert "4 encoded" in retried.output


def test_a_place_is_named_in_a_uri() -> None:
    for shard in ("/data/shards/train#1.tar", "s3://bucket/out/shards/a.tar"):
        place = Place(shard, 512, 99_000, 1.25)
        assert Place.parse(place.uri) == place
