"""Validation and previews: of every size, the same on any number of ranks, and no shared random number is drawn."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_runs import settings

from dataengine.lumosx import validation as module
from dataengine.lumosx.codec import DctCodec
from dataengine.lumosx.components import model_config, new_model
from dataengine.lumosx.data import BatchEncoder
from dataengine.lumosx.distributed import Ranks
from dataengine.lumosx.metrics import HELD_OUT, LEARNED
from dataengine.lumosx.order import Size
from dataengine.lumosx.preview import Previewer
from dataengine.lumosx.text import MiniLmEncoder
from dataengine.lumosx.transformer import DiT
from dataengine.lumosx.validation import Validator, spread
from dataengine.shards.reader import PairDataset
from dataengine.store import Store

# Clips of 1.25 s and of 0.7 s, all 160×96: those go into the long bucket that are long enough.
SIZES = ("data.buckets=[[48,80,5],[48,80,17]]", "validation.samples=4", "validation.sample_clips=2", "sampling.steps=2")


@pytest.fixture(scope="module")
def mixed(make_dataset, make_sample, tmp_path_factory: pytest.TempPathFactory) -> PairDataset:  # type: ignore[no-untyped-def]
    samples = [make_sample(n, ("red",), seconds=0.7 if n % 3 == 0 else 1.25) for n in range(6)]
    folder = make_dataset(tmp_path_factory.mktemp("mixed"), samples)
    return PairDataset(Store.at(folder), "train")


@pytest.fixture(scope="module")
def model() -> DiT:
    chosen = settings()
    made = new_model(chosen.model, model_config(chosen.model, 384, chosen.text.max_tokens), 3, "cpu")
    with torch.no_grad():
        made.head.head.weight.normal_(std=0.2, generator=torch.Generator().manual_seed(6))
    return made


@pytest.fixture(scope="module")
def encoder() -> BatchEncoder:
    return BatchEncoder(DctCodec(), MiniLmEncoder(48))


def test_every_size_has_its_share(mixed: PairDataset, dataset: Path) -> None:
    chosen = spread(mixed, settings(*SIZES).data, 4)
    assert sorted({size for _, size in chosen}) == [(48, 80, 5), (48, 80, 17)]
    assert [size.frames for _, size in chosen].count(5) == 1
    assert len({index for index, _ in chosen}) == len(chosen)
    assert len(spread(mixed, settings(*SIZES).data, 1)) == 2, "one at least"
    one_size = spread(PairDataset(Store.at(dataset), "train"), settings().data, 3)
    assert [index for index, _ in one_size] == [0, 1, 3], "evenly"
    assert spread(PairDataset(Store.at(dataset), "nothing"), settings().data, 3) == []


def test_losses_are_told_by_size_and_no_number_is_drawn(mixed: PairDataset, model: DiT, encoder: BatchEncoder) -> None:
    empty = PairDataset(mixed.out, "val")
    before = torch.get_rng_state()
    (event,) = Validator(mixed, empty, encoder, settings(*SIZES))(model, 7)
    previews = dict(Previewer(mixed, encoder, DctCodec(), MiniLmEncoder(48), settings(*SIZES))(model))
    assert torch.equal(torch.get_rng_state(), before)
    assert (event.step, event.clips) == (7, LEARNED)
    assert event.by_size.keys() == {"48x80x5", "48x80x17"}
    short, long = event.by_size["48x80x5"], event.by_size["48x80x17"]
    assert short != long
    assert event.loss == pytest.approx((short + 3 * long) / 4, rel=1e-6)
    assert len(previews) == 2
    again = Validator(mixed, empty, encoder, settings(*SIZES))(model, 7)
    assert again == (event,)


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_share_the_clips(
    world: int, mixed: PairDataset, model: DiT, encoder: BatchEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each rank's own part, one after the other; their sums are what one rank measures. All run the model as often."""
    chosen = settings(*SIZES, "batch=1")
    expected = Validator(mixed, mixed, encoder, chosen)(model, 1)
    sums: dict[int, list[torch.Tensor]] = {}
    calls: list[int] = []

    def run(ranks: Ranks, summed) -> tuple:  # type: ignore[no-untyped-def, type-arg]
        monkeypatch.setattr(module, "summed", summed)
        return Validator(mixed, mixed, encoder, chosen, ranks)(model, 1)

    hook = model.register_forward_hook(lambda *_: calls.append(1))
    for rank in range(world):
        calls.append(0)
        run(Ranks(rank, world), lambda tensor, ranks: sums.setdefault(ranks.rank, []).append(tensor.clone()) or tensor)
        calls.append(-1)
    hook.remove()
    counts = [len([c for c in part.split() if c == "1"]) for part in " ".join(map(str, calls)).split("-1")]
    assert len(set(counts[:world])) == 1, "no rank waits for another for ever"
    whole = iter([sum(parts) for parts in zip(*sums.values(), strict=True)])
    found = run(Ranks(0, 1), lambda tensor, ranks: next(whole))
    for event, other in zip(found, expected, strict=True):
        assert event.by_timestep == pytest.approx(other.by_timestep, rel=1e-5)
        assert event.by_size == pytest.approx(other.by_size, rel=1e-5)
    assert [event.clips for event in found] == [LEARNED, HELD_OUT]


def test_ranks_share_the_previews(mixed: PairDataset, model: DiT, encoder: BatchEncoder) -> None:
    made = {
        rank: list(Previewer(mixed, encoder, DctCodec(), MiniLmEncoder(48), settings(*SIZES), Ranks(rank, 3))(model))
        for rank in range(3)
    }
    keys = [key for sheets in made.values() for key, _ in sheets]
    assert sorted(keys) == sorted(Previewer(mixed, encoder, DctCodec(), MiniLmEncoder(48), settings(*SIZES)).keys)
    assert made[2] == [], "it did another's again, and told nothing"
    assert Size(48, 80, 5).frames == 5
