"""Stored latents and contexts: found by content, compared with their hash, told apart by what they were made under."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
from tiny_runs import settings, store_all, train

from dataengine.engine.measurements import Measurements, Outcome
from dataengine.lumosx.metrics import read_metrics
from dataengine.lumosx.stored import (
    ABOUT,
    Missed,
    NotStored,
    Stored,
    StoredContext,
    StoredLatent,
    StoredText,
    context_id,
    latent_id,
    latent_parameters,
    variants,
)
from dataengine.lumosx.text import MiniLmEncoder, TextEncoder
from dataengine.lumosx.trainer import TrainError
from dataengine.records import Quarantined, Span
from dataengine.store import Store

PARAMETERS = {"codec": "dct", "height": 48}


def latent(number: int) -> torch.Tensor:
    return torch.randn(16, 2, 6, 10, generator=torch.Generator().manual_seed(number))


@pytest.fixture
def place(tmp_path: Path) -> Store:
    """Two parts in a summary, one that came after it, and one failure, written by the engine."""
    store = Store.at(tmp_path)
    measurements = Measurements(store.child("measurements"))
    measurements.store.write(f"latents/f1/{ABOUT}", json.dumps(PARAMETERS).encode())
    for first in (0, 2):
        rows = [Outcome(latent_id(str(n), 0.5), StoredLatent.of(latent(n)), 1.0) for n in (first, first + 1)]
        measurements.commit("latents", "f1", rows)
    failure = Quarantined(
        id=latent_id("bad", 0.5), stage="latents", error="BadInput", message="clip 7: too short", attempts=1,
        source_names=("7",), start_s=None, end_s=None,
    )  # fmt: skip
    measurements.commit("latents", "f1", [Outcome(failure.id, failure, 1.0)])
    measurements.fold("latents", "f1")
    measurements.commit("latents", "f1", [Outcome(latent_id("late", 0.5), StoredLatent.of(latent(9)), 1.0)])
    return store


def opened(store: Store) -> Stored[StoredLatent]:
    return Stored.open(store, "latents", PARAMETERS, StoredLatent)


def test_every_entry_comes_back_bit_for_bit(place: Store) -> None:
    stored = opened(place)
    assert len(stored) == 6
    for n in range(4):
        assert torch.equal(stored.find(latent_id(str(n), 0.5)).tensor(), latent(n))
    assert torch.equal(stored.find(latent_id("late", 0.5)).tensor(), latent(9))
    odd = torch.tensor([float("-0.0"), float("inf"), 1e-42])
    assert StoredLatent.of(odd).tensor().numpy().tobytes() == odd.numpy().tobytes()


def test_what_is_not_there_says_why(place: Store) -> None:
    stored = opened(place)
    assert stored.has([latent_id("0", 0.5), latent_id("0", 0.6)]).tolist() == [True, False]
    with pytest.raises(NotStored, match="not stored"):
        stored.find(latent_id("0", 0.6))
    with pytest.raises(NotStored, match="could not be made: clip 7: too short"):
        stored.find(latent_id("bad", 0.5))
    with pytest.raises(NotStored, match=r"no latents of codec dct, height 96\. There are: codec dct, height 48"):
        Stored.open(place, "latents", {**PARAMETERS, "height": 96}, StoredLatent)
    with pytest.raises(NotStored, match="There are: none at all"):
        Stored.open(place, "contexts", PARAMETERS, StoredContext)


def test_damage_is_found(place: Store, caplog: pytest.LogCaptureFixture) -> None:
    stored = opened(place)
    one, other = latent_id("0", 0.5), latent_id("2", 0.5)
    entry = stored.find(one)
    turned = bytearray(entry.data)
    turned[100] ^= 1
    with pytest.raises(NotStored, match="sha256 differs"):
        entry.model_copy(update={"data": bytes(turned)}).tensor()
    with pytest.raises(NotStored, match="shape"):
        entry.model_copy(update={"shape": (3, 3)}).tensor()
    part = Path(place.uri) / stored.parts[stored.part[list(stored.ids).index(one.encode())]]
    part.write_bytes(part.read_bytes()[:200])
    with pytest.raises(NotStored, match="cannot be read"):
        stored.find(one)
    part.unlink()
    with pytest.raises(NotStored, match="cannot be read"):
        stored.find(one)
    assert torch.equal(stored.find(other).tensor(), latent(2))
    late = Path(place.uri) / stored.parts[stored.part[list(stored.ids).index(latent_id("late", 0.5).encode())]]
    late.write_bytes(b"PAR1" + bytes(60) + b"PAR1")
    assert not opened(place).has([latent_id("late", 0.5)]).any()
    assert f"{late.name} is damaged and left out" in caplog.text
    assert not opened(place).has([one]).any(), "a part that is gone takes its rows in a summary along"


def test_parameters_are_what_decides_a_latent() -> None:
    plain = settings()
    size = (48, 80, 5)
    (variant,) = variants(plain)
    assert variant == (size, False)
    found = latent_parameters(plain, *variant)
    same = settings("optimizer.lr=1", "data.text_dropout=0.5", "model.layers=3", "data.augment.enabled=true")
    assert latent_parameters(same, *variants(same)[0]) == found
    for changed in ("data.height=64", "data.frames=9", "data.fps=8"):
        other = settings(changed)
        assert latent_parameters(other, *variants(other)[0]) != found, changed
    assert variants(settings("data.flip_share=0.5")) == [(size, False), (size, True)]


@pytest.fixture(scope="module")
def real() -> MiniLmEncoder:
    return MiniLmEncoder(64)


def test_the_text_encoder_is_opened_for_what_is_missing_alone(
    tmp_path: Path, real: MiniLmEncoder, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store.at(tmp_path)
    measurements = Measurements(store.child("measurements"))
    measurements.store.write(f"contexts/f1/{ABOUT}", b"{}")
    known = ("", "a man in a red top")
    for one in real.encode(known):
        entry = StoredContext.of(one.context, offsets=tuple(map(tuple, one.offsets)), covered=one.covered)
        measurements.commit("contexts", "f1", [Outcome(context_id(one.caption), entry, 0.0)])
    asked = []

    def open_encoder() -> TextEncoder:
        asked.append(1)
        return real

    text = StoredText(Stored.open(store, "contexts", {}, StoredContext), open_encoder)
    assert text.dim == real.dim
    for found, expected in zip(text.encode(known), real.encode(known), strict=True):
        assert torch.equal(found.context, expected.context)
        assert (found.caption, found.offsets, found.covered) == (expected.caption, expected.offsets, expected.covered)
    assert text.tokens(known[1]).positions(Span(2, 5)) == real.tokens(known[1]).positions(Span(2, 5))
    assert not asked
    with caplog.at_level(logging.WARNING):
        (made,) = text.encode(["a new caption"])
    assert torch.equal(made.context, real.encode(["a new caption"])[0].context)
    assert asked == [1]
    assert "1 captions encoded on line" in caplog.text
    assert "dataengine cache latents" in caplog.text


def test_what_is_missed_is_told_and_not_for_ever(caplog: pytest.LogCaptureFixture) -> None:
    missed = Missed("clips")
    for n in range(20):
        missed.note(f"clip {n}", "it is not stored")
    assert [record.args[0] for record in caplog.records] == [1, 2, 4, 8, 16]  # type: ignore[index]


# --- A run that reads them --------------------------------------------------------------------------------------------


def test_what_is_damaged_is_encoded_on_line_and_said(
    dataset: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    part = store_all(dataset, tmp_path / "place")
    chosen = ("steps=3", "validation.samples=1", "data.cache_mb=0")
    train(dataset, tmp_path / "online", settings(*chosen))
    with caplog.at_level(logging.WARNING):
        train(dataset, tmp_path / "stored", settings(*chosen, f"stored.place={tmp_path / 'place'}"))
    assert "on line" not in caplog.text
    damaged = bytearray(part.read_bytes())
    for at in range(500, len(damaged) - 4000, 211):
        damaged[at] ^= 255
    part.write_bytes(damaged)
    with caplog.at_level(logging.WARNING):
        train(dataset, tmp_path / "damaged", settings(*chosen, f"stored.place={tmp_path / 'place'}"))
    assert "clips encoded on line" in caplog.text
    expected = [(m.loss, m.grad_norm) for m in read_metrics(tmp_path / "online")[0]]
    for run in ("stored", "damaged"):
        assert [(m.loss, m.grad_norm) for m in read_metrics(tmp_path / run)[0]] == expected, run


def test_a_place_of_other_settings_stops_the_run(dataset: Path, place: Store, tmp_path: Path) -> None:
    with pytest.raises(TrainError, match=r"no latents of codec dct.* height 48.*There are: .*`dataengine cache lat"):
        train(dataset, tmp_path / "run", settings(f"stored.place={place.uri}"))
