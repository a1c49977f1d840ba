"""Shards: the bytes of a plain tar, the same every time, and an index that tells where everything is."""

import hashlib
import io
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from dataengine.shards.assembly import Member
from dataengine.shards.index import Index, read_member
from dataengine.shards.writer import write_shard


def shard_of(samples) -> tuple[bytes, tuple]:
    stream = io.BytesIO()
    rows = write_shard(stream, "train-1s-00000.tar", ((s.pair, s.members) for s in samples))
    return stream.getvalue(), rows


def test_the_bytes_are_those_of_tarfile(made_samples):
    reference = io.BytesIO()
    with tarfile.open(fileobj=reference, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for sample in made_samples:
            for name, data in sample.members:
                info = tarfile.TarInfo(f"{sample.pair.key}.{name}")
                info.size, info.mode = len(data), 0o644
                tar.addfile(info, io.BytesIO(data))
    written, _ = shard_of(made_samples)
    assert written == reference.getvalue()


def test_two_writes_are_equal(made_samples, make_dataset):
    one, two = make_dataset(made_samples, "one"), make_dataset(tuple(reversed(made_samples)), "two")
    assert len(one.names()) > 5 and one.names() == two.names()
    assert all(one.read(name) == two.read(name) for name in one.names())


def test_headers_say_nothing_of_the_machine(made_samples):
    written, _ = shard_of(made_samples)
    with tarfile.open(fileobj=io.BytesIO(written)) as tar:
        for info in tar:
            assert (info.mtime, info.uid, info.gid, info.uname, info.gname) == (0, 0, 0, "", "")
            assert (info.mode, info.type) == (0o644, tarfile.REGTYPE)
            assert info.offset_data % 512 == 0


def test_members_of_a_sample_are_adjacent(made_samples):
    _, rows = shard_of(made_samples)
    for row in rows:
        for before, after in zip(row.members, row.members[1:], strict=False):
            padded = before.offset + before.size + -before.size % 512
            assert after.offset == padded + 512, "nothing but the next header lies between"


def test_any_member_is_one_read_of_the_file(dataset, made_samples):
    samples = {sample.pair.key: dict(sample.members) for sample in made_samples}
    seen = 0
    for row in Index.read(dataset):
        shard = os.open(f"{dataset.uri}/shards/{row.shard}", os.O_RDONLY)
        try:
            for at in row.members:
                data = os.pread(shard, at.size, at.offset)
                assert data == samples[row.key][at.name] == read_member(dataset, row, at.name)
                assert hashlib.sha256(data).hexdigest() == at.sha256
                seen += 1
        finally:
            os.close(shard)
    assert seen == sum(map(len, samples.values()))


@pytest.mark.skipif(shutil.which("tar") is None, reason="no tar on this machine")
def test_plain_tar_extracts_it(dataset, made_samples, tmp_path):
    shard = sorted(Path(dataset.uri, "shards").iterdir())[0]
    subprocess.run(["tar", "-xf", shard, "-C", tmp_path], check=True, capture_output=True)
    samples = {f"{s.pair.key}.{name}": data for s in made_samples for name, data in s.members}
    extracted = sorted(tmp_path.glob("*.*"))
    assert extracted and all(file.read_bytes() == samples[file.name] for file in extracted)


def test_what_tar_cannot_hold_is_an_error(made_samples):
    pair = made_samples[0].pair
    with pytest.raises(ValueError, match="has no files"):
        write_shard(io.BytesIO(), "x.tar", [(pair, ())])
    with pytest.raises(ValueError, match="too long"):
        write_shard(io.BytesIO(), "x.tar", [(pair, (Member("a" * 100, b""),))])


def test_an_interrupted_shard_leaves_nothing(made_samples, make_dataset):
    out = make_dataset((), "interrupted")

    def failing():
        yield made_samples[0].pair, made_samples[0].members
        raise RuntimeError("a worker died")

    with pytest.raises(RuntimeError), out.open_output("shards/x.tar") as stream:
        write_shard(stream, "x.tar", failing())
    assert out.names("shards") == [] and not list(Path(out.uri, "shards").iterdir())
