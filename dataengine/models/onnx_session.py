"""ONNX files in onnxruntime, on the device that the configuration names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dataengine.config import NetworkSettings


def providers_of(settings: NetworkSettings) -> list[str]:
    """What onnxruntime is to run on, in order; `auto` is CUDA where the installed onnxruntime has it.

    Raises `RuntimeError` when the configuration says CUDA and it has not.
    """
    import onnxruntime

    there = onnxruntime.get_available_providers()
    wanted = settings.device.split(":")[0]
    if wanted == "cuda" and "CUDAExecutionProvider" not in there:
        raise RuntimeError(
            f"device {settings.device}: onnxruntime {onnxruntime.__version__} as installed runs on the CPU only; "
            "install onnxruntime-gpu in its place, or set the device to cpu"
        )
    if wanted != "cpu" and "CUDAExecutionProvider" in there:
        return ["CUDAExecutionProvider", "CPUExecutionProvider"]
    return ["CPUExecutionProvider"]


def open_session(file: Path, settings: NetworkSettings) -> Any:
    """An `onnxruntime.InferenceSession`. Raises what `providers_of` raises."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # the machine's cores are shared out by running several workers
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(file), options, providers=providers_of(settings))
