"""Where weights are, what pins them, and what is said when they are not there."""

from pathlib import Path

import pytest

from dataengine.weights import MissingWeightsError, Needs, Weights


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(bytes(3 << 20))
    return folder


def test_a_local_folder_and_file_are_found(checkpoint: Path) -> None:
    assert Weights(str(checkpoint), files=("*.json", "*.safetensors")).locate() == checkpoint
    assert Weights(str(checkpoint / "config.json")).locate() == checkpoint / "config.json"


def test_an_incomplete_folder_names_what_is_missing(checkpoint: Path) -> None:
    with pytest.raises(MissingWeightsError, match=r"tokenizer\.json is missing in .*tiny"):
        Weights(str(checkpoint), files=("tokenizer.json",)).locate()


def test_a_hub_id_that_is_not_cached_tells_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(MissingWeightsError, match=r"hf download some/model --revision abc --include '\*\.json'"):
        Weights("some/model", "abc", ("*.json",)).locate()


def test_a_missing_path_is_not_taken_for_a_hub_id(tmp_path: Path) -> None:
    with pytest.raises(MissingWeightsError, match="no such file or folder of weights"):
        Weights(str(tmp_path / "a" / "b.pth")).locate()


def test_identity_follows_the_content(checkpoint: Path) -> None:
    weights = Weights(str(checkpoint))
    before = weights.identity()
    assert weights.identity() == before and before.startswith("tiny#")
    data = bytearray((checkpoint / "model.safetensors").read_bytes())
    data[-1] = 1
    (checkpoint / "model.safetensors").write_bytes(data)
    assert weights.identity() != before


def test_needs_add_up() -> None:
    assert Needs((Weights("a"),), (), 1.5) + Needs((), ("vllm",), 2) == Needs((Weights("a"),), ("vllm",), 3.5)
