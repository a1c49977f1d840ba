"""Where a published model's weights are on this machine. Nothing here downloads: weights are the user's to fetch."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError


class MissingWeightsError(RuntimeError):
    """A model's weights are not on this machine; the message holds the command that fetches them."""


def local_folder(model: str, revision: str, part: str) -> Path:
    """The folder of one part (`vae`, `text_encoder`, …) of a model in the diffusers layout.

    Args:
        model: a local folder (the whole model, or the part itself) or a Hugging Face id, looked up in the hub's cache.
        revision: branch, tag or commit; used with a hub id only.
        part: name of the part's sub-folder.

    Raises:
        MissingWeightsError: it is not there; says how to download it.
    """
    root = Path(model).expanduser()
    if not root.is_dir():
        try:
            root = Path(
                snapshot_download(model, revision=revision, allow_patterns=[f"{part}/*"], local_files_only=True)
            )
        except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
            raise MissingWeightsError(_message(model, revision, part)) from error
        if not (root / part).is_dir():
            raise MissingWeightsError(_message(model, revision, part))
    return root / part if (root / part).is_dir() else root


def _message(model: str, revision: str, part: str) -> str:
    return (
        f"{model}: no such folder, and its {part} (revision {revision}) is not in the Hugging Face cache. Download it "
        f"with: hf download {model} --revision {revision} --include '{part}/*'"
    )
