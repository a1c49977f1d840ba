"""Tars: ours are read, whatever else is named and refused."""

import io
import pickle
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataengine.shards import tar
from dataengine.shards.tar import Entry, ShardError, entries


@given(st.lists(st.binary(max_size=2000), max_size=5))
def test_what_is_written_is_read(contents):
    stream = io.BytesIO()
    expected = []
    for number, data in enumerate(contents):
        expected.append((Entry(f"k{number}", "s0.face.png", stream.tell() + 512, len(data)), data))
        stream.write(tar.header(f"k{number}.s0.face.png", len(data)) + data + tar.padding(len(data)))
    stream.write(tar.end(stream.tell()))
    assert stream.tell() % tarfile.RECORDSIZE == 0
    stream.seek(0)
    assert list(entries(stream, "x.tar", 2000)) == expected


def tar_of(*files: tuple[str, bytes], kind: bytes = tarfile.REGTYPE, form: int = tarfile.USTAR_FORMAT) -> io.BytesIO:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=form) as archive:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size, info.type = len(data), kind
            info.linkname = "/etc/passwd" if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE) else ""
            archive.addfile(info, io.BytesIO(data))
    stream.seek(0)
    return stream


def refusal(stream: io.BytesIO, max_bytes: int = 1 << 30) -> str:
    with pytest.raises(ShardError) as error:
        list(entries(stream, "x.tar", max_bytes))
    return str(error.value)


@pytest.mark.parametrize(
    "name", ["../../etc/cron.d/x.json", "/x.json", "a/b.json", "x", ".json", "x.", "X.json", "x.js on", "x.\udcff"]
)
def test_names_are_never_paths(name):
    assert "is not a plain file named KEY.MEMBER" in refusal(tar_of((name, b"{}")))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_are_refused(kind):
    assert "is not a plain file" in refusal(tar_of(("x.json", b""), kind=kind))


def test_extension_headers_are_refused_unread():
    long_name = "x" * 200 + ".json"
    assert "is not a plain file" in refusal(tar_of((long_name, b"{}"), form=tarfile.PAX_FORMAT))
    assert "is not a plain file" in refusal(tar_of((long_name, b"{}"), form=tarfile.GNU_FORMAT))
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, 8 << 30
    claims = io.BytesIO(header.tobuf(tarfile.GNU_FORMAT))
    assert "is not a plain file" in refusal(claims), "its size is not believed"


def test_sizes_are_bounded():
    assert "has 2000 bytes, more than 1000" in refusal(tar_of(("x.mp4", b"0" * 2000)), max_bytes=1000)
    header = tarfile.TarInfo("x.mp4")
    header.size = 1 << 40
    assert "more than" in refusal(io.BytesIO(header.tobuf(tarfile.GNU_FORMAT)))


def test_damage_is_named():
    whole = tar_of(("x.json", b"{}"), ("x.mp4", b"0" * 3000)).getvalue()
    assert "it ends at byte 700 inside a file" in refusal(io.BytesIO(whole[:700]))
    assert "it ends at byte 0" in refusal(io.BytesIO(b""))
    assert "no tar header at byte 0" in refusal(io.BytesIO(b"\1" * 1024))
    assert "data behind its end" in refusal(io.BytesIO(whole + whole))


def test_errors_survive_a_process_boundary():
    error = ShardError("x.tar", "k", "broken", "mend it")
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error) == "x.tar, sample k: broken; mend it" and again.key == "k"


# --- Salvage ----------------------------------------------------------------------------------------------------------


@given(st.lists(st.binary(max_size=2000), min_size=1, max_size=5), st.data())
def test_salvage_finds_all_files_but_the_damaged_one(contents, data):
    stream = io.BytesIO()
    for number, content in enumerate(contents):
        stream.write(tar.header(f"k{number}.mp4", len(content)) + content + tar.padding(len(content)))
    stream.write(tar.end(stream.tell()))
    whole = list(entries(io.BytesIO(stream.getvalue()), "x.tar", 2000))
    assert list(tar.salvage(io.BytesIO(stream.getvalue()), 2000)) == whole
    victim, _ = whole[data.draw(st.integers(0, len(whole) - 1))]
    damaged = bytearray(stream.getvalue())
    damaged[victim.offset - 512 : victim.offset - 500] = b"\xff" * 12
    found = list(tar.salvage(io.BytesIO(bytes(damaged)), 2000))
    assert [f for f in found if not isinstance(f, tar.Gap)] == [f for f in whole if f[0] != victim]
    (gap,) = [f for f in found if isinstance(f, tar.Gap)]
    assert gap.start == victim.offset - 512 and gap.end >= victim.offset + victim.size


def test_salvage_of_what_is_no_tar_is_one_gap():
    assert list(tar.salvage(io.BytesIO(b"x" * 1300), 100)) == [tar.Gap(0, 1300)]
    assert list(tar.salvage(io.BytesIO(b""), 100)) == []
    long = io.BytesIO(tar.header("k0.mp4", 600) + b"y" * 600 + tar.padding(600) + tar.end(1536))
    assert list(tar.salvage(long, 100)) == [tar.Gap(0, 1536)], "larger than allowed"
