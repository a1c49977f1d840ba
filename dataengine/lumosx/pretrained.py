"""The parts of a published model in the diffusers layout: where one is on this machine."""

from __future__ import annotations

from pathlib import Path

from dataengine.weights import Weights


def local_folder(model: str, revision: str, part: str) -> Path:
    """The folder of one part (`vae`, `text_encoder`, …) of a model.

    Args:
        model: a local folder (the whole model, or the part itself) or a Hugging Face id, looked up in the hub's cache.
        revision: branch, tag or commit; used with a hub id only.
        part: name of the part's sub-folder.

    Raises:
        MissingWeightsError: it is not there; says how to download it.
    """
    given = Path(model).expanduser()
    if given.is_dir() and not (given / part).is_dir():
        return given
    return Weights(model, revision, (f"{part}/*",)).locate() / part
