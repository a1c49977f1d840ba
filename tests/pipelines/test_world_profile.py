"""The profile of the world: the gpu profile but for paths and sizes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dataengine.config import BuildSettings
from pipelines.terminal import Kind, settings_of

SIZES = {
    "weights", "revision", "device", "resources", "images", "side", "frames", "max_pixels", "rounds", "vllm",
    "face_min_px",
}  # fmt: skip
"""Paths, and how much of something: nothing here names another network, prompt, stage or rule."""


def test_only_paths_and_sizes_differ_from_the_gpu_profile() -> None:
    gpu, world = (settings_of(Kind.BUILD, name, []).model_dump() for name in ("gpu", "world"))
    other = {key for key in _differences(gpu, world) if not SIZES & set(key.split("."))}
    assert other == {"stages.background.inpainter"}, "LaMa has no checkpoint in the world"


def test_all_that_is_named_is_committed() -> None:
    from dataengine.world.training import CHECKPOINTS

    settings = settings_of(Kind.BUILD, "world", [])
    assert isinstance(settings, BuildSettings)
    stages = settings.stages
    for place in (
        stages.caption.qwen.weights, stages.ground.grounding_dino.weights, stages.segment.sam.weights,
        stages.faces.grounding_dino.weights, stages.faces.centerface.weights, stages.faces.insightface.weights,
    ):  # fmt: skip
        assert (CHECKPOINTS.parents[2] / place).exists(), place
        assert place.startswith("dataengine/world/checkpoints/")


def _differences(one: Mapping[str, Any], other: Mapping[str, Any], path: str = "") -> Iterator[str]:
    for key in one:
        if isinstance(one[key], dict):
            yield from _differences(one[key], other[key], f"{path}{key}.")
        elif one[key] != other[key]:
            yield path + key
