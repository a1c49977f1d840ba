"""Videos with captions enter a build at captioning: from tables and tars, with what was refused beside."""

import io
import tarfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from dataengine.config import BuildSettings, load
from dataengine.engine.sources import KnownSources, find, identify_all
from dataengine.records import Quarantined
from dataengine.shards.importers.table import VideoTable
from dataengine.shards.importers.tree import Tree
from dataengine.shards.reader import PairDataset
from dataengine.shards.validate import validate
from dataengine.store import Store
from dataengine.video import cut_clip
from pipelines.build import build
from pipelines.given import table_of_rows, table_of_tars

SETTINGS = ("decide.pairs.val_share=0", "stages.shots.detector=adaptive", "decide.clips.whole=true")


CAPTIONS = {
    "one.mp4": "An astronaut of the eighties: a woman with brown hair in an orange suit, against a plain wall.",
    "two.mp4": "A woman in an orange suit meets another woman, who is in a black uniform. The women talk.",
}


@pytest.fixture(scope="module")
def clips(sample_video, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second of one person, and of two, as videos."""
    folder = tmp_path_factory.mktemp("clips")
    shots = sample_video.truth.shots
    alone = next(s for s in shots if [p.person for p in s.people] == ["Eileen Collins"])
    together = next(s for s in shots if len(s.people) == 2)
    for name, shot in (("one.mp4", alone), ("two.mp4", together)):
        start = shot.start_s + 0.2
        (folder / name).write_bytes(cut_clip(sample_video.path, start, start + 1.25, fps=12, preset="ultrafast"))
    return folder


def test_captions_are_kept_and_their_words_are_tied(clips: Path, tmp_path: Path, ray_here: None) -> None:
    rows = [*CAPTIONS.items(), ("../../etc/passwd", "A man."), ("missing.mp4", "A man.")]
    table = tmp_path / "captions.csv"
    table.write_text("path,text\n" + "".join(f'{path},"{text}"\n' for path, text in rows))
    out = tmp_path / "out"
    place = table_of_rows(VideoTable(Tree.at(tmp_path), table.name, Tree.at(clips)), str(out))
    settings = load(BuildSettings, [], SETTINGS)
    summary = build([place], str(out), settings, console=Console(quiet=True))
    assert (summary.sources, summary.pairs, summary.quarantined) == (2, 2, 2)
    store = Store.at(out)
    assert validate(store).ok
    for sample in PairDataset(store):
        pair = sample.pair
        assert pair.caption == CAPTIONS[pair.source_names[0]]
        assert pair.clip.start_s == 0.0 and pair.clip.end_s == pytest.approx(pair.frames / pair.fps, abs=0.05)
        worn = [[a.phrase.text for a in s.attributes] for s in pair.subjects]
        both = [["orange suit"], ["black uniform"]]
        assert worn == (both if pair.source_names == ("two.mp4",) else [["brown hair", "orange suit"]])
    reasons = [row["message"] for row in pq.read_table(out / "quarantine.parquet").to_pylist()]
    assert any("leads out of the source" in r for r in reasons) and any("No such file" in r for r in reasons)

    # Another caption of one video gives that source a new id, and so new measurements; the other's are reused.
    table.write_text(table.read_text().replace("plain wall", "grey wall"))
    place = table_of_rows(VideoTable(Tree.at(tmp_path), table.name, Tree.at(clips)), str(out))
    known = {sample.pair.source_names[0]: sample.pair.clip.source_id for sample in PairDataset(store)}
    again = identify_all(find([place]), KnownSources(store.child("measurements/sources")), map)
    ids = {video.names[0]: video.source_id for video in again.videos}
    assert ids["two.mp4"] == known["two.mp4"] and ids["one.mp4"] != known["one.mp4"]


def test_tars_are_unpacked_by_names_of_our_own(clips: Path, tmp_path: Path) -> None:
    source = tmp_path / "tars"
    source.mkdir()
    with tarfile.open(source / "a.tar", "w") as tar:
        for name, data in (
            ("../../x.mp4", (clips / "one.mp4").read_bytes()),
            ("../../x.txt", CAPTIONS["one.mp4"].encode()),
            ("y.mp4", b"no caption"),
        ):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    out = tmp_path / "deep/out"
    place = table_of_tars(Tree.at(source), str(out))
    found = find([place])
    (file,) = found.files
    assert file.caption == CAPTIONS["one.mp4"] and file.name == "a.tar/../../x"
    assert Path(file.uri).parent == out / "import/videos"
    assert Path(file.uri).read_bytes() == (clips / "one.mp4").read_bytes()
    (refused,) = found.refused
    assert isinstance(refused, Quarantined) and "no caption" in refused.message
    assert sorted(p.name for p in tmp_path.iterdir()) == ["deep", "tars"]
