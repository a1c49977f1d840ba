"""The command line: manual pages, refusals with the right name, exit codes."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from dataengine.config import BuildSettings
from dataengine.lumosx.settings import TrainSettings
from pipelines.cli import Exit, app

runner = CliRunner()
COMMANDS = (
    "build",
    "decide",
    "forget",
    "preflight",
    "validate",
    "repair",
    "card",
    "evaluate",
    "audit check",
    "audit report",
    "audit apply",
    "audit export",
    "audit import",
    "train",
    "sample",
    "sample-video",
    "run",
    "world make",
    "world pairs",
    "world ablate",
    "config render",
    "config schema",
)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_manual_page(command: str) -> None:
    result = runner.invoke(app, [*command.split(), "--help"])
    assert result.exit_code == Exit.DONE
    assert f"dataengine {command}" in result.stdout, "an example of its use"


def test_an_unknown_key_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    result = runner.invoke(app, ["build", "--input", str(tmp_path), "--output", "x", "decide.clips.min_sec=3"])
    assert result.exit_code == Exit.USAGE
    assert "did you mean decide.clips.min_s?" in result.output.replace("\n", " ")
    assert not (tmp_path / "x").exists()


def test_a_missing_input_is_named(tmp_path: Path) -> None:
    result = runner.invoke(app, ["build", "--input", str(tmp_path / "gone"), "--output", str(tmp_path / "x")])
    assert result.exit_code == Exit.USAGE
    assert "no such file or folder" in result.output.replace("\n", " ")


def test_input_and_output_are_needed() -> None:
    assert runner.invoke(app, ["build", "--output", "x"]).exit_code == Exit.USAGE


def test_an_unknown_profile_lists_the_ones_there_are() -> None:
    result = runner.invoke(app, ["config", "render", "--profile", "gpuu"])
    assert result.exit_code == Exit.USAGE
    assert "embedded" in result.output


def test_validating_what_is_no_dataset_fails(tmp_path: Path) -> None:
    assert runner.invoke(app, ["validate", str(tmp_path)]).exit_code == Exit.NOTHING


@pytest.mark.parametrize(("kind", "settings"), [("build", BuildSettings), ("train", TrainSettings)])
def test_render_shows_overrides_and_schema_knows_them(kind: str, settings: type) -> None:
    shown = runner.invoke(app, ["config", "render", "--kind", kind, "seed=41"])
    assert settings.model_validate(yaml.safe_load(shown.stdout)).seed == 41
    schema = runner.invoke(app, ["config", "schema", "--kind", kind])
    assert yaml.safe_load(schema.stdout)["properties"]["seed"]["type"] == "integer"
