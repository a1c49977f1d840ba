"""What Qwen2.5-VL takes of a GPU, from its name and the settings alone."""

from __future__ import annotations

import pytest

from dataengine.config import QwenSettings, VllmSettings
from dataengine.models.qwen_weights import gpu_gib


@pytest.mark.parametrize(
    ("weights", "parallel", "least", "most"),
    [
        ("Qwen/Qwen2.5-VL-3B-Instruct", 1, 9, 12),
        ("Qwen/Qwen2.5-VL-7B-Instruct", 1, 17, 22),
        ("/models/Qwen2.5-VL-7B-Instruct-AWQ", 1, 6, 9),
        ("Qwen/Qwen2.5-VL-72B-Instruct", 4, 36, 42),
        ("/models/own", 1, 0, 0),
    ],
)
def test_memory_by_name(weights: str, parallel: int, least: float, most: float) -> None:
    assert least <= gpu_gib(QwenSettings(weights=weights, vllm=VllmSettings(tensor_parallel=parallel))) <= most


def test_nothing_on_the_cpu_and_more_for_longer_questions() -> None:
    seven = "Qwen/Qwen2.5-VL-7B-Instruct"
    assert gpu_gib(QwenSettings(weights=seven, device="cpu")) == 0
    longer = QwenSettings(weights=seven, vllm=VllmSettings(max_model_len=65536))
    assert gpu_gib(longer) - gpu_gib(QwenSettings(weights=seven)) == pytest.approx(2.625, abs=0.1)
