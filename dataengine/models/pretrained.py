"""Networks of transformers, loaded so that every weight is in its place."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def load_exactly(kind: Any, folder: Path) -> Any:
    """A `kind` with the weights of a folder, in float32 on the CPU.

    Raises `ValueError` naming what is missing, unknown or of the wrong shape: transformers itself only warns, and
    leaves what is missing at random values. Pickles are not read.
    """
    import torch

    model, report = kind.from_pretrained(
        folder, local_files_only=True, use_safetensors=True, dtype=torch.float32, output_loading_info=True
    )
    wrong = {what: sorted(map(str, names)) for what, names in report.items() if names}
    if wrong:
        raise ValueError(f"{folder}: the weights do not fit {kind.__name__}: {wrong}")
    return model
