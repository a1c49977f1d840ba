"""Streams: every sample once, whoever shares them; the same order for the same epoch."""

from __future__ import annotations

import re
from collections import Counter
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from dataengine.shards import PairDataset, PairStream, stream
from dataengine.shards.tar import ShardError
from dataengine.shards.torch_stream import TorchPairStream
from dataengine.store import Store, StoreError

DOCUMENT = Path(__file__).parents[2] / "docs" / "reading.md"


@pytest.fixture
def runs_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "RUN", 2)


def keys(samples) -> list[str]:
    return [sample.pair.key for sample in samples]


def test_a_pass_is_every_sample_once(dataset, made_samples, runs_of_two):
    made = {s.pair.key: dict(s.members) for s in made_samples}
    for shuffle in (0, 1, 3, 100):
        read = list(PairStream(dataset, shuffle=shuffle))
        assert {s.pair.key: s.members for s in read} == made and len(read) == 7
    assert keys(PairStream(dataset, shuffle=0)) == keys(PairDataset(dataset))


def test_an_epoch_has_its_order(dataset, runs_of_two):
    order = []
    for epoch in (0, 0, 1, 2):
        found = PairStream(dataset, seed=4, shuffle=3)
        found.epoch = epoch
        order.append(keys(found))
    assert order[0] == order[1] and len({tuple(o) for o in order}) == 3


@pytest.mark.parametrize("world", [1, 2, 3, 9])
def test_ranks_share_without_loss_or_repeat(dataset, runs_of_two, world):
    shares = [keys(PairStream(dataset, rank=rank, world=world)) for rank in range(world)]
    assert sorted(chain.from_iterable(shares)) == sorted(keys(PairDataset(dataset)))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loaders_workers_share_too(dataset, runs_of_two, workers):
    shares = []
    for rank in range(2):
        loader = DataLoader(
            TorchPairStream(dataset, shuffle=2, rank=rank, world=2), batch_size=None, num_workers=workers
        )
        shares += keys(loader)
    assert sorted(shares) == sorted(keys(PairDataset(dataset)))


def test_a_split_or_a_number_of_subjects(dataset):
    read = list(PairStream(dataset, "train", subjects=(2,)))
    assert read and {(s.pair.split, len(s.pair.subjects)) for s in read} == {("train", 2)}


def test_the_shuffle_moves_samples_far(make_dataset, made_samples):
    """With 2,000 positions a sample's place in an epoch says next to nothing of its place in the shards."""
    order = stream._order(2000, (0, 0), True)
    assert sorted(order) == list(range(2000))
    assert abs(np.corrcoef(order, np.arange(2000))[0, 1]) < 0.3


@given(st.integers(0, 300), st.integers(1, 9))
def test_shares_are_even(count, world):
    order = stream._order(count, (1, 2), True)
    shares = [order[r * count // world : (r + 1) * count // world] for r in range(world)]
    assert Counter(np.concatenate(shares).tolist() if count else []) == Counter(range(count))


def test_refusals(dataset, spoilt, tmp_path):
    with pytest.raises(StoreError):
        PairStream(Store.at(tmp_path / "none"))
    with pytest.raises(ValueError, match="rank 2 is not one of 2"):
        PairStream(dataset, rank=2, world=2)
    shard = sorted((spoilt / "shards").glob("*.tar"))[0]
    shard.write_bytes(shard.read_bytes()[:3000])
    with pytest.raises(ShardError, match="the shard ends before it"):
        list(PairStream(Store.at(spoilt), shuffle=0))


def test_the_documented_examples_run(dataset, monkeypatch, capsys, tmp_path):
    (tmp_path / "shards").symlink_to(dataset.uri)
    monkeypatch.chdir(tmp_path)
    snippets = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    assert len(snippets) == 2
    for code in snippets:
        exec(code, {})
    printed = capsys.readouterr().out.splitlines()
    train = PairDataset(dataset, "train")
    assert len(printed) == 2 * sum(len(sample.pair.subjects) for sample in train)
    assert any("torch.Size([12, 180, 320, 3]) woman (40, 40, 3) ['orange top'" in line for line in printed)
