"""LaMa's files: of one size and of any, with white as 255 and as 1; what is no LaMa is refused."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from dataengine.config import LamaSettings
from dataengine.models.lama import FILE, Lama
from dataengine.weights import MissingWeightsError
from tiny import lama


def loaded(file: Path) -> Lama:
    model = Lama(LamaSettings(weights=str(file), device="cpu"))
    model.load()
    return model


@pytest.fixture
def scene() -> tuple[np.ndarray, np.ndarray]:
    image = np.random.default_rng(3).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    hole = np.zeros((64, 64), bool)
    hole[20:40, 10:30] = True
    return image, hole


@pytest.mark.parametrize("white", [1, 255])
@pytest.mark.parametrize("side", [None, 64])
def test_the_answer_is_that_of_the_file(side, white, tmp_path: Path, scene) -> None:
    image, hole = scene
    file = lama.build(tmp_path / "any.onnx", side, white)
    given = {
        "image": (image * ~hole[..., None]).transpose(2, 0, 1)[None].astype(np.float32) / 255,
        "mask": hole[None, None].astype(np.float32),
    }
    answer = onnxruntime.InferenceSession(str(file)).run(None, given)[0][0].transpose(1, 2, 0) * (255 / white)
    painted = loaded(file).inpaint(image, hole)
    assert np.abs(painted[hole] - answer[hole]).max() <= 0.51


def test_the_file_is_found_in_a_folder(tmp_path: Path, scene) -> None:
    lama.build(tmp_path / FILE)
    assert (loaded(tmp_path).inpaint(*scene) == loaded(tmp_path / FILE).inpaint(*scene)).all()


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    file = lama.build(tmp_path / "four.onnx", split=False)
    with pytest.raises(ValueError, match=r"four\.onnx: expected an image .* found input \['batch', 4, 64, 64\]"):
        loaded(file)


def test_cuda_without_its_provider_names_the_package(tmp_path: Path) -> None:
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    file = lama.build(tmp_path / "any.onnx")
    with pytest.raises(RuntimeError, match="onnxruntime-gpu"):
        Lama(LamaSettings(weights=str(file), device="cuda")).load()


def test_missing_weights_tell_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(MissingWeightsError, match=rf"hf download Carve/LaMa-ONNX .*{FILE}"):
        Lama(LamaSettings()).load()


def test_the_revision_follows_the_file(tmp_path: Path) -> None:
    one = Lama(LamaSettings(weights=str(lama.build(tmp_path / "a" / "x.onnx")))).revision
    assert one == Lama(LamaSettings(weights=str(lama.build(tmp_path / "b" / "x.onnx")))).revision
    assert one != Lama(LamaSettings(weights=str(lama.build(tmp_path / "c" / "x.onnx", white=1)))).revision
    assert onnxruntime.__version__ in one
