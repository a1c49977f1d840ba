"""Who and what must not be in the dataset."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dataengine.config import BlockRules, ConfigError
from dataengine.records import Clip, Reason, Record, SourceVideo


class Forgotten(Record):
    """What was taken out of a dataset for good: whole sources, and spans of others. Ids only, nobody's face."""

    sources: tuple[str, ...] = ()
    spans: tuple[Clip, ...] = ()

    def has(self, clip: Clip) -> bool:
        """Whether any of a clip's time was forgotten, however its source is cut today."""
        return clip.source_id in self.sources or any(
            span.source_id == clip.source_id and span.start_s < clip.end_s and clip.start_s < span.end_s
            for span in self.spans
        )


@dataclass(frozen=True)
class BlockList:
    sources: frozenset[str] = frozenset()
    """Source ids, or names below the input folder."""
    faces: NDArray[np.float32] | None = None
    """(n, d), rows of unit length."""
    similarity: float = 1.0

    @classmethod
    def read(cls, rules: BlockRules) -> BlockList:
        """Raises `ConfigError` for a file that holds no embeddings."""
        faces = read_embeddings(Path(rules.faces)) if rules.faces else None
        return cls(frozenset(rules.sources), faces, rules.face_similarity)

    def check_source(self, source: SourceVideo) -> Reason | None:
        """Why nothing of a source may be used."""
        named = self.sources & {source.source_id, *source.names}
        return Reason("block_sources", f"{min(named)} is on the block list") if named else None

    def check_faces(self, people: Mapping[int, NDArray[np.float32] | None]) -> Reason | None:
        """Why a clip that shows these people may not be used; None stands for a person without an embedding.

        Raises `ConfigError` when the lengths of the embeddings differ: they are another network's.
        """
        if self.faces is None:
            return None
        for person, embedding in sorted(people.items()):
            if embedding is None:
                return Reason("block_faces", f"person {person} has no embedding that could be compared")
            if len(embedding) != self.faces.shape[1]:
                raise ConfigError(
                    f"decide.block.faces holds embeddings of {self.faces.shape[1]} numbers, the faces here have "
                    f"{len(embedding)}: make them with the network that measured this dataset"
                )
            nearest = self.nearest(embedding)
            if nearest >= self.similarity:
                return Reason("block_faces", f"person {person} is like somebody on the block list ({nearest:.2f})")
        return None

    def nearest(self, embedding: NDArray[np.float32]) -> float:
        """The largest cosine to anybody on the list. Needs `faces`, of that length."""
        assert self.faces is not None
        return float((self.faces @ embedding).max())


def read_embeddings(file: Path) -> NDArray[np.float32]:
    """Embeddings of a .npy file, (n, d) or (d,), scaled to unit length. No code in it is run.

    Raises `ConfigError` saying what is wrong with it.
    """
    try:
        found = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ConfigError(f"{file}: cannot be read as a .npy file of embeddings: {error}") from error
    if not isinstance(found, np.ndarray) or found.ndim not in (1, 2) or found.dtype.kind != "f" or not found.size:
        raise ConfigError(f"{file}: expected numbers of shape (n, d), one row a face")
    faces = np.atleast_2d(found).astype(np.float32)
    lengths = np.linalg.norm(faces, axis=1, keepdims=True)
    if not np.isfinite(faces).all() or not lengths.all():
        raise ConfigError(f"{file}: an embedding in it is zero or not finite")
    return faces / lengths
