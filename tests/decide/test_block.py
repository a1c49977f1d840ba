"""Block lists: by source and by face, and spans that must not come back however a source is cut."""

import numpy as np
import pytest

from dataengine.config import BlockRules, ConfigError
from dataengine.decide.block import BlockList, Forgotten
from dataengine.records import Clip, SourceVideo

SOURCE = SourceVideo(source_id="abc", uri="/x/a.mp4", names=("a.mp4", "copy/a.mp4"), size_bytes=1)


def test_sources_by_id_and_by_any_name():
    for named in ("abc", "a.mp4", "copy/a.mp4"):
        reason = BlockList.read(BlockRules(sources=(named,))).check_source(SOURCE)
        assert reason is not None and reason.rule == "block_sources" and named in reason.detail
    assert BlockList.read(BlockRules(sources=("b.mp4",))).check_source(SOURCE) is None


def test_faces_by_likeness(tmp_path):
    np.save(tmp_path / "faces.npy", np.array([[3.0, 0, 0], [0, 0, 2.0]], np.float64))
    blocked = BlockList.read(BlockRules(faces=str(tmp_path / "faces.npy"), face_similarity=0.6))
    alike, other = np.array([0.8, 0.6, 0], np.float32), np.array([0, 1, 0], np.float32)
    assert blocked.check_faces({0: other}) is None
    reason = blocked.check_faces({0: other, 1: alike})
    assert reason is not None and reason == ("block_faces", "person 1 is like somebody on the block list (0.80)")
    unknown = blocked.check_faces({0: other, 1: None})
    assert unknown is not None and "no embedding" in unknown.detail, "whom nobody can compare is not let through"
    with pytest.raises(ConfigError, match="3 numbers"):
        blocked.check_faces({0: np.ones(4, np.float32)})
    assert BlockList().check_faces({0: None}) is None


@pytest.mark.parametrize(
    "array", [np.zeros((2, 3)), np.array([[np.nan, 1]]), np.ones((1, 2, 3)), np.arange(3), np.empty((0, 3))]
)
def test_what_is_no_embedding(tmp_path, array):
    np.save(tmp_path / "faces.npy", array)
    with pytest.raises(ConfigError):
        BlockList.read(BlockRules(faces=str(tmp_path / "faces.npy")))


def test_spans_are_forgotten_however_a_source_is_cut():
    gone = Forgotten(sources=("whole",), spans=(Clip.of("abc", 2.0, 4.0),))
    assert gone.has(Clip.of("abc", 3.5, 9.0)) and gone.has(Clip.of("abc", 0.0, 2.1))
    assert not gone.has(Clip.of("abc", 4.0, 6.0)) and not gone.has(Clip.of("other", 2.0, 4.0))
    assert gone.has(Clip.of("whole", 0.0, 1.0))
    assert Forgotten.from_json(gone.to_json()) == gone
