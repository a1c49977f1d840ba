"""Forgetting: nothing of it is left in the new version, and a later build does not bring it back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from dataengine.config import ConfigError
from dataengine.decide.facts import Measured
from dataengine.shards.reader import PairDataset
from dataengine.shards.validate import validate
from dataengine.store import Store
from drawn import DrawnClip, draw, source_of, unit
from pipelines.forget import forget
from pipelines.inventory import read_forgotten
from pipelines.redecide import redecide

ANNA, BERT, CARL = unit(1.0, 0.0, 0.0), unit(0.0, 1.0, 0.0), unit(0.0, 0.0, 1.0)
CLIPS = (
    DrawnClip((ANNA, BERT)),
    DrawnClip((CARL, unit(0.9, 0.0, 0.3))),
    DrawnClip((CARL, BERT)),
    DrawnClip((BERT, CARL)),
)


@pytest.fixture(scope="module")
def out(ray_here: None, measured_clip: Callable[..., Measured], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("forget") / "out"
    draw(folder, CLIPS, lambda number: measured_clip(number, media=True), "decide.licence=CC BY 4.0")
    return folder


def sources(folder: Path) -> set[int]:
    return {int(sample.pair.clip.source_id, 16) for sample in PairDataset(Store.at(folder))}


def everything(folder: Path) -> bytes:
    """All bytes and all text of a folder: parquet columns are compressed."""
    found = [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    found += [str(pq.read_table(path).to_pylist()).encode() for path in folder.rglob("*.parquet")]
    return b"".join(found)


def test_a_source(out: Path, tmp_path: Path) -> None:
    target = tmp_path / "without"
    removed = forget(str(out), str(target), sources=["day0/2.mp4"])
    gone = source_of(2).source_id
    assert removed.sources == (gone,) and len(removed.clips) == len(removed.samples) == 1
    assert removed.outcomes == 10, "a result of every stage"
    assert sources(target) == {0, 1, 3} and sources(out) == {0, 1, 2, 3}
    assert validate(Store.at(target)).findings == ()
    listed = pq.read_table(target / "forgotten.parquet").to_pylist()
    assert [row["what"] for row in listed] == ["source", "clip", "sample"]
    # Only the two lists of what must not come back know its ids; nothing knows its name.
    (target / "forgotten.parquet").unlink()
    assert read_forgotten(Store.at(target)).sources == (gone,)
    (target / "measurements" / "forgotten.json").unlink()
    left = everything(target)
    for trace in (gone, removed.clips[0][0].clip_id, "day0/2.mp4"):
        assert trace.encode() not in left, trace
    assert source_of(1).source_id.encode() in left


def test_a_face(out: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "anna.npy", np.array([2.0, 0.0, 0.0], np.float32))
    target = tmp_path / "without"
    removed = forget(str(out), str(target), faces=[str(tmp_path / "anna.npy")])
    assert {int(clip.source_id, 16) for clip, _ in removed.clips} == {0, 1}, "as the left and as the right person"
    assert sources(target) == {2, 3} and removed.unknown == 0
    forgotten = read_forgotten(Store.at(target))
    assert forgotten.sources == () and len(forgotten.spans) == 2
    summary, waiting = redecide(str(target), [])
    assert (summary.pairs, waiting) == (2, 0), "what was forgotten does not wait to be measured again"
    again = forget(str(target), str(tmp_path / "more"), sources=[source_of(2).source_id])
    assert len(read_forgotten(Store.at(tmp_path / "more")).spans) == 2 and again.summary.pairs == 1


def test_what_cannot_be_found_out_is_refused(out: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "short.npy", np.ones(2, np.float32))
    np.save(tmp_path / "objects.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    (tmp_path / "text.npy").write_text("no array")
    (tmp_path / "face.png").write_bytes(b"")
    np.save(tmp_path / "other.npy", np.array([-1.0, -1.0, -1.0], np.float32))

    def told(**asked) -> str:
        with pytest.raises(ConfigError) as refused:
            forget(str(out), str(tmp_path / "never"), **asked)
        assert not (tmp_path / "never").exists()
        return str(refused.value)

    assert "no source 'nobody.mp4'" in told(sources=["nobody.mp4"])
    assert "embeddings of 2 numbers" in told(faces=[str(tmp_path / "short.npy")])
    for name in ("objects.npy", "text.npy", "gone.npy"):
        assert "cannot be read as a .npy file" in told(faces=[str(tmp_path / name)])
    assert "gives no embeddings of pictures" in told(faces=[str(tmp_path / "face.png")])
    assert "nothing was written" in told(faces=[str(tmp_path / "other.npy")])
    with pytest.raises(ConfigError, match="not empty"):
        forget(str(out), str(out), sources=["day0/2.mp4"])


def test_blocked_sources_and_faces(out: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "anna.npy", np.array([ANNA], np.float32))
    summary, _ = redecide(str(out), [f"decide.block.faces={tmp_path}/anna.npy", "decide.block.sources=[day1/3.mp4]"])
    assert summary.pairs == 1 and summary.rejected == {"block_faces": 2, "block_sources": 1}
    back, _ = redecide(str(out), ["decide.block.faces=''", "decide.block.sources=[]"])
    assert back.pairs == 4


def test_licences_are_carried_to_samples_index_and_card(out: Path, tmp_path: Path) -> None:
    table = tmp_path / "licences.csv"
    table.write_text("source,licence\nday1/,CC0\nday1/3.mp4,all rights reserved\n")
    redecide(str(out), [f"decide.licences={table}"])
    told = {int(s.pair.clip.source_id, 16): s.pair.licence for s in PairDataset(Store.at(out))}
    assert told == {0: "CC BY 4.0", 1: "CC0", 2: "CC BY 4.0", 3: "all rights reserved"}
    index = pq.read_table(out / "index.parquet", columns=["source_id", "licence"]).to_pylist()
    assert {int(row["source_id"], 16): row["licence"] for row in index} == told
    card = (out / "README.md").read_text()
    assert "| CC BY 4.0 | 2 |" in card and "| CC0 | 1 |" in card
    redecide(str(out), ["decide.licences=''"])
