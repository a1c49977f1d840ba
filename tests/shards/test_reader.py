"""Reading: what was written, by us and by others; and nothing that we did not write."""

import io
import json
import pickle
import tarfile
from pathlib import Path

import pytest
import torch
import webdataset as wds

from dataengine.shards import reader
from dataengine.shards.index import Index
from dataengine.shards.reader import PairDataset, iter_samples
from dataengine.shards.tar import ShardError
from dataengine.store import Store, StoreError


def shards(dataset: Store) -> list[Path]:
    return sorted(Path(dataset.uri, "shards").glob("*.tar"))


def test_by_position_and_by_key(dataset, made_samples):
    data, made = PairDataset(dataset), {s.pair.key: s for s in made_samples}
    assert len(data) == len(made) == 7
    read = [data[i] for i in range(len(data))]
    assert {s.pair.key for s in read} == made.keys()
    for sample in read:
        assert sample.pair == made[sample.pair.key].pair
        assert sample.members == dict(made[sample.pair.key].members)
        assert data.find(sample.pair.key) == sample
    assert data[-1] == read[-1]
    with pytest.raises(IndexError):
        data[7]
    with pytest.raises(KeyError, match="no sample 'none' among 7"):
        data.find("none")


def test_pictures_are_decoded_on_demand(dataset, made_samples):
    sample = PairDataset(dataset)[0]
    subject = sample.pair.subjects[0]
    for reference in (subject.face, *subject.attributes):
        assert sample.image(reference).shape == (reference.box.height, reference.box.width, 3)
    attribute = subject.attributes[0]
    mask = sample.mask(attribute)
    assert mask.dtype == bool and mask.shape == (sample.pair.height, sample.pair.width)
    outside = ~mask[int(attribute.box.y0) : int(attribute.box.y1), int(attribute.box.x0) : int(attribute.box.x1)]
    assert (sample.image(attribute)[outside] == 255).all(), "masked on white"
    assert sample.mask(subject.face) is None
    frames = list(sample.frames())
    assert len(frames) == sample.pair.frames and frames[0].shape == (sample.pair.height, sample.pair.width, 3)


def test_a_picture_that_is_missing_or_broken_is_named(dataset):
    sample = PairDataset(dataset)[0]
    face = sample.pair.subjects[0].face
    with pytest.raises(ValueError, match=f"{sample.pair.key} has no {face.member}"):
        reader.Sample(sample.pair, {}).image(face)
    with pytest.raises(ValueError, match=f"{face.member} cannot be decoded"):
        reader.Sample(sample.pair, {face.member: b"GIF89a"}).image(face)


def test_a_sample_costs_one_read(dataset, monkeypatch):
    data = PairDataset(dataset)
    reads = []
    real = reader.read_range
    monkeypatch.setattr(reader, "read_range", lambda *place: reads.append(place) or real(*place))
    assert data[3].members
    assert len(reads) == 1


def test_splits_and_subjects(dataset, made_samples):
    train, val = PairDataset(dataset, split="train"), PairDataset(dataset, split="val")
    assert len(train) + len(val) == 7 and len(train) and len(val)
    assert {train[i].pair.split for i in range(len(train))} == {"train"}
    two = PairDataset(dataset, subjects=(2, 3))
    assert sorted(len(two[i].pair.subjects) for i in range(len(two))) == [2, 2, 2, 2, 3]
    key = two[0].pair.key
    assert two.find(key).pair.key == key, "positions are of the filtered index"


def test_loads_in_workers(dataset):
    data = PairDataset(dataset)
    assert pickle.loads(pickle.dumps(data))[0] == data[0]
    loader = torch.utils.data.DataLoader(data, batch_size=None, num_workers=1)
    assert [s.pair.key for s in loader] == [data[i].pair.key for i in range(7)]


def test_streaming_equals_random_access(dataset):
    data = PairDataset(dataset)
    streamed = []
    for path in shards(dataset):
        with path.open("rb") as stream:
            streamed += list(iter_samples(stream, path.name))
    assert streamed == [data[i] for i in range(7)]


def test_plain_webdataset_reads_it(dataset, made_samples):
    made = {s.pair.key: dict(s.members) for s in made_samples}
    seen = {}
    for sample in wds.WebDataset([str(p) for p in shards(dataset)], shardshuffle=False):
        seen[sample["__key__"]] = {name: data for name, data in sample.items() if not name.startswith("__")}
    assert seen == made


def test_webdataset_decodes_it(dataset):
    sample = next(iter(wds.WebDataset(str(shards(dataset)[0]), shardshuffle=False).decode("rgb8")))
    box = sample["json"]["subjects"][0]["face"]["box"]
    assert sample["s0.face.png"].shape == (box[3] - box[1], box[2] - box[0], 3)


def test_plain_tarfile_reads_it(dataset, made_samples):
    made = {f"{s.pair.key}.{name}": data for s in made_samples for name, data in s.members}
    seen = {}
    for path in shards(dataset):
        with tarfile.open(path) as tar:
            seen |= {info.name: tar.extractfile(info).read() for info in tar}
    assert seen == made


def test_an_index_of_something_else_is_refused(dataset, tmp_path):
    with pytest.raises(StoreError):
        PairDataset(Store.at(tmp_path))
    (tmp_path / "index.parquet").write_bytes(b"no parquet")
    with pytest.raises(ValueError, match="cannot be read"):
        PairDataset(Store.at(tmp_path))
    out = Store.at(tmp_path)
    import pyarrow.parquet as pq

    with out.open_output("index.parquet") as stream:
        pq.write_table(Index.read(dataset).table.drop_columns(["members"]), stream)
    with pytest.raises(ValueError, match=r"differs .* \(members\)"):
        PairDataset(out)


def test_a_shard_that_is_shorter_than_its_index(spoilt):
    data = PairDataset(Store.at(spoilt))
    shard = spoilt / "shards" / data.index[6].shard
    shard.write_bytes(shard.read_bytes()[:2000])
    with pytest.raises(ShardError, match="the shard ends before it"):
        data[6]


def refusal(*files: tuple[str, bytes], **limits: int) -> str:
    """What is said of a tar with these files."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    stream.seek(0)
    with pytest.raises(ShardError) as error:
        list(iter_samples(stream, "x.tar", **limits))
    return str(error.value)


def test_samples_must_be_whole(made_samples):
    one, two = made_samples[0].pair, made_samples[1].pair
    record, other = (f"{one.key}.json", one.to_json().encode()), (f"{two.key}.json", two.to_json().encode())
    assert "it has no json" in refusal((f"{one.key}.mp4", b""))
    assert f"its json is of sample {one.key}" in refusal(("other.json", record[1]))
    assert "not a pair" in refusal(("other.json", b"[]"))
    said = json.loads(record[1]) | {"caption": "Something else entirely, long enough for every span " * 3}
    assert "the caption says" in refusal((record[0], json.dumps(said).encode()))
    assert "comes twice" in refusal(record, record)
    assert "do not stand together" in refusal(record, other, (f"{one.key}.mp4", b""))


def test_a_sample_is_bounded(made_samples):
    many = [(f"x.m{i}", b"0" * 400) for i in range(3)]
    assert "larger than 1000 bytes" in refusal(*many, max_bytes=1000)
