"""Where a network's weights are, what pins them, and what a model needs to run. Nothing here downloads."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

_HUB_ID = re.compile(r"^[\w.-]+/[\w.-]+$")
_MIB = 1 << 20


class MissingWeightsError(RuntimeError):
    """A model's weights are not on this machine; the message names them and the command that fetches them."""


@dataclass(frozen=True, slots=True)
class Weights:
    """A local file or folder, or a Hugging Face id with a revision (branch, tag or commit)."""

    source: str
    revision: str = "main"
    files: tuple[str, ...] = ()
    """Patterns of the files that are needed of a hub repository or folder; all of them by default."""
    hint: str = ""
    """How to get a local file that no hub id names."""

    def locate(self) -> Path:
        """The local file or folder. Raises `MissingWeightsError` when it is not here."""
        local = Path(self.source).expanduser()
        if local.exists():
            if local.is_dir():
                self._complete(local)
            return local
        if not _HUB_ID.match(self.source):
            raise self._missing(f"{self.source}: no such file or folder of weights")
        folder = self._cached()
        self._complete(folder)
        return folder

    def identity(self) -> str:
        """What pins the weights: the hub's commit, or a hash of the local files. Raises `MissingWeightsError`.

        Of a local file its size, first and last MiB are hashed: enough to tell one training from another.
        """
        place = self.locate()
        if not Path(self.source).expanduser().exists():
            return f"{self.source}@{place.name}"
        wanted = self.files or ("**/*",)
        files = [place] if place.is_file() else sorted({f for p in wanted for f in place.glob(p) if f.is_file()})
        digest = hashlib.sha256()
        for file in files:
            size = file.stat().st_size
            name = "" if file == place else file.relative_to(place).as_posix()
            digest.update(f"{name}\0{size}\0".encode())
            with file.open("rb") as stream:
                digest.update(stream.read(_MIB))
                if size > _MIB:
                    stream.seek(max(_MIB, size - _MIB))
                    digest.update(stream.read())
        return f"{place.name}#{digest.hexdigest()[:16]}"

    def _cached(self) -> Path:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

        try:
            found = snapshot_download(
                self.source, revision=self.revision, allow_patterns=list(self.files) or None, local_files_only=True
            )
        except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
            raise self._missing(f"{self.source}: neither a local path nor in the Hugging Face cache") from error
        return Path(found)

    def _complete(self, folder: Path) -> None:
        """The hub's cache may hold a part of a repository only, and a copy may have been cut off."""
        for pattern in self.files:
            if not any(folder.glob(pattern)):
                raise self._missing(f"{self.source}: {pattern} is missing in {folder}")

    def _missing(self, what: str) -> MissingWeightsError:
        if not _HUB_ID.match(self.source):
            return MissingWeightsError(f"{what}. {self.hint}".rstrip(". "))
        include = "".join(f" --include '{pattern}'" for pattern in self.files)
        return MissingWeightsError(
            f"{what} (revision {self.revision}). Download it with: "
            f"hf download {self.source} --revision {self.revision}{include}"
        )


@dataclass(frozen=True, slots=True)
class Needs:
    """What a stage must find where it runs; checked before a run starts."""

    weights: tuple[Weights, ...] = ()
    packages: tuple[str, ...] = ()
    """Modules that must be importable, beside those that the project always installs."""
    gpu_gib: float = 0.0
    """Memory on a GPU at the configured batch: weights, activations and CUDA itself; 0 on the CPU."""

    def __add__(self, other: Needs) -> Needs:
        return Needs(self.weights + other.weights, self.packages + other.packages, self.gpu_gib + other.gpu_gib)
