"""Configuration: precedence, strictness, and messages that name the right key."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dataengine.config import CONF, AuditSettings, BuildSettings, ConfigError, digest, load, profile_file, render


def test_later_sources_win(tmp_path: Path) -> None:
    defaults, profile = tmp_path / "a.yaml", tmp_path / "b.yaml"
    defaults.write_text("seed: 1\ndecide: {clips: {min_s: 2, max_s: 7}}\n")
    profile.write_text("build: {decide: {clips: {min_s: 3}}}\ntrain: {steps: 5}\n")
    settings = load(BuildSettings, [(defaults, None), (profile, "build")], ["seed=9"])
    assert (settings.seed, settings.decide.clips.min_s, settings.decide.clips.max_s) == (9, 3, 7)


def test_half_of_a_nested_default_can_be_overridden() -> None:
    before = BuildSettings().stages.shots.resources
    after = load(BuildSettings, [], ["stages.shots.resources.workers=7"]).stages.shots.resources
    assert after == before.model_copy(update={"workers": 7})
    assert before.fused
    assert before.row_timeout_s == 3600


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("decide.clip.min_s=2", "did you mean decide.clips?"),
        ("stages.shots.threshhold=1", "did you mean decide.clips.threshold?"),
        ("min_s=1", "did you mean decide.clips.min_s?"),
        ("zebra=1", "config schema"),
        ("decide.clips.min_s=soon", "valid number"),
        ("decide.clips.min_s=-1", "greater than 0"),
        ("decide.clips", "key=value"),
    ],
)
def test_wrong_keys_and_values_are_refused_with_help(override: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(expected)):
        load(BuildSettings, [], [override])


def test_environment_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "hunter2")
    settings = load(BuildSettings, [], ["stages.encode.preset=${oc.env:SECRET}"])
    assert settings.stages.encode.preset == "${oc.env:SECRET}"


def test_missing_and_malformed_files_name_themselves(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.yaml"):
        load(BuildSettings, [(tmp_path / "gone.yaml", None)])
    (tmp_path / "list.yaml").write_text("- 1\n- 2\n")
    with pytest.raises(ConfigError, match=r"list\.yaml: expected"):
        load(BuildSettings, [(tmp_path / "list.yaml", None)])
    (tmp_path / "code.yaml").write_text("seed: !!python/object/apply:os.getcwd []\n")
    with pytest.raises(ConfigError, match=r"code\.yaml"):
        load(BuildSettings, [(tmp_path / "code.yaml", None)])


def test_profiles_are_found_by_name_and_listed_when_not() -> None:
    assert profile_file("embedded").is_file()
    with pytest.raises(ConfigError, match="embedded"):
        profile_file("embeded")


def test_rendered_defaults_read_back_equal_and_are_committed() -> None:
    text = render(BuildSettings())
    assert (CONF / "build.yaml").read_text() == text, "run `make schemas`"
    assert load(BuildSettings, [(CONF / "build.yaml", None)]) == BuildSettings()


def test_audit_settings_are_committed_too() -> None:
    assert (CONF / "audit.yaml").read_text() == render(AuditSettings()), "run `make schemas`"
    assert load(AuditSettings, [(CONF / "audit.yaml", None)]) == AuditSettings()


def test_resources_do_not_enter_a_stages_parameters() -> None:
    fast = load(BuildSettings, [], ["stages.faces.resources.workers=7"])
    other = load(BuildSettings, [], ["stages.faces.floor=0.31"])
    assert fast.stages.faces.parameters() == BuildSettings().stages.faces.parameters()
    assert other.stages.faces.parameters() != BuildSettings().stages.faces.parameters()


def test_digest_follows_values() -> None:
    rules = BuildSettings().decide
    assert digest(rules) == digest(load(BuildSettings, [], ["seed=4"]).decide)
    assert digest(rules) != digest(load(BuildSettings, [], ["decide.clips.min_s=9"]).decide)
