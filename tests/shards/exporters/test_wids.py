"""The wids index says of the shards what is true of them. (wids itself is no longer part of webdataset 1.x.)"""

import hashlib
import json
import tarfile
from pathlib import Path

import pytest

from dataengine.shards.exporters.wids import WidsExport
from dataengine.shards.index import Index
from dataengine.shards.reader import iter_samples
from dataengine.store import Store


@pytest.fixture(scope="module")
def exported(dataset: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("wids")
    for shard in sorted(set(Index.read(dataset).table["shard"].to_pylist())):
        WidsExport().shard(dataset, shard, Store.at(target))
    WidsExport().finish(Index.read(dataset), Store.at(target))
    return target


def test_every_shard_with_its_samples_size_and_hash(exported: Path, dataset: Store) -> None:
    index = json.loads((exported / "index.json").read_text())
    assert (index["__kind__"], index["wids_version"]) == ("wids-shard-index-v1", 1)
    samples = 0
    for shard in index["shardlist"]:
        data = (exported / shard["url"]).read_bytes()
        assert (len(data), hashlib.md5(data).hexdigest()) == (shard["filesize"], shard["md5sum"])
        # wids counts a sample as neighbouring members with one name before the first dot.
        with tarfile.open(exported / shard["url"]) as tar:
            keys = [member.name.partition(".")[0] for member in tar]
        assert len([k for k, before in zip(keys, [None, *keys], strict=False) if k != before]) == shard["nsamples"]
        with (exported / shard["url"]).open("rb") as stream:
            samples += sum(1 for _ in iter_samples(stream, shard["url"]))
    assert samples == len(Index.read(dataset))


def test_an_index_a_split(exported: Path, dataset: Store) -> None:
    for split in ("train", "val"):
        told = json.loads((exported / f"{split}.json").read_text())["shardlist"]
        assert sum(shard["nsamples"] for shard in told) == len(Index.read(dataset).where(split))
        assert all(shard["url"].startswith(f"shards/{split}-") for shard in told)
