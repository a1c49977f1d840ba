"""The commands: what they write, print and return."""

from collections.abc import Callable
from pathlib import Path

import pytest
from small_dataset import write
from typer.testing import CliRunner

from dataengine.shards.losses import Losses
from dataengine.shards.validate import validate
from dataengine.store import Store
from pipelines import cli, exports, formats


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory, measured_clip: Callable) -> str:
    out = Store.at(tmp_path_factory.mktemp("ours"))
    write(out, measured_clip, people=(1, 2))
    return out.uri


def run(*words: object) -> tuple[int, str]:
    done = CliRunner().invoke(cli.app, [str(word) for word in words])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.output


def test_every_exporter_has_its_command() -> None:
    assert {format.value for format in formats.Format} == set(exports.EXPORTERS)


@pytest.mark.parametrize("name", list(exports.EXPORTERS))
def test_exports_say_what_was_lost(name: str, ours: str, tmp_path: Path) -> None:
    code, told = run("export", name, ours, "--output", tmp_path / "x")
    assert code == 0 and "2 samples" in told
    losses = Losses.from_json((tmp_path / "x/losses.json").read_text())
    assert (losses.format, losses.samples) == (name, 2)
    assert losses.losses and losses.losses[0].what.split()[0] in told


def test_a_folder_with_something_in_it_is_not_exported_into(ours: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, _ = run("export", "coco", ours, "--output", tmp_path)
    assert code == 2
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_an_import_and_its_exit_codes(ours: str, tmp_path: Path) -> None:
    run("export", "lumosx", ours, "--output", tmp_path / "x")
    source = tmp_path / "x/samples"
    code, told = run("import", "lumosx", source, "--output", tmp_path / "good", "--licence", "cc0")
    assert code == 0 and "2 samples with 3 subjects" in told
    assert validate(Store.at(tmp_path / "good")).ok
    (source / "empty").mkdir()
    code, told = run("import", "lumosx", source, "--output", tmp_path / "partly")
    assert code == 3 and "1 refused" in told
    for folder in source.iterdir():
        (folder / "clip.mp4").unlink(missing_ok=True)
    code, told = run("import", "lumosx", source, "--output", tmp_path / "none")
    assert code == 1 and "3 refused" in told


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("import", "lumosx", "{missing}"), 2),
        (("import", "lumosx-train", "{empty}"), 2),
        (("import", "opens2v", "{empty}"), 2),
        (("import", "opens2v", "{empty}", "decide.filters.no_such=1"), 2),
        (("import", "webdataset", "{empty}"), 2),
        (("import", "table", "{empty}/t.csv"), 2),
        (("export", "lumosx", "{empty}"), 1),
        (("export", "zip", "{empty}"), 2),
    ],
)
def test_wrong_sources_end_in_one_message(words: tuple[str, ...], code: int, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/t.csv").write_text("a,b\n1,2\n")
    places = {"missing": tmp_path / "missing", "empty": tmp_path / "empty"}
    found, _ = run(*(word.format(**places) for word in words), "--output", tmp_path / "out")
    assert found == code
