"""Shard samples to training examples: frames by time, augmented references, and the token structure the model needs.

Which sample stands where says `order`; all randomness is a function of (seed, epoch, key).
"""

from __future__ import annotations

import hashlib
import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from typing import Protocol

import numpy as np
import torch
from PIL import Image as PilImage
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from dataengine.lumosx.augment import Image, augment, cover, letterbox
from dataengine.lumosx.codec import Codec, to_pixels
from dataengine.lumosx.order import Order, Size, sizes
from dataengine.lumosx.settings import AugmentSettings, DataSettings
from dataengine.lumosx.structure import Kind, Reference, SampleStructure
from dataengine.lumosx.text import PhraseError, TextEmbedding, TextEncoder
from dataengine.lumosx.transformer import token_grid
from dataengine.records import Pair, Span
from dataengine.records import Reference as PairReference
from dataengine.shards.tar import ShardError
from dataengine.video import Video, VideoError

MAX_REFERENCE_PIXELS = 64_000_000
_SIDES = re.compile(r"\b(left|right|(counter|anti)?-?clockwise|east|west)(most|wards?|ern|-\w+)?\b", re.IGNORECASE)


class SampleError(ValueError):
    """A sample cannot be trained on; the message says why."""


class Sample(Protocol):
    """What a shard reader gives: the record, and its media by member name (`mp4`, `s0.face.png`, …)."""

    @property
    def pair(self) -> Pair: ...

    @property
    def members(self) -> Mapping[str, bytes]: ...


class Samples(Protocol):
    """Random access to a split's samples (`shards.reader.PairDataset`, or a list)."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Sample: ...


@dataclass(frozen=True, slots=True)
class Binding:
    """What a reference shows, the words it is bound to, and the subject group it belongs to."""

    entity: str
    kind: Kind
    span: Span
    group: int | None


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """One training example in pixels, on the CPU.

    Attributes:
        key: of the pair.
        position: in the run's order (see `order`).
        caption: always the full caption: positions are taken from it even when the text is dropped.
        text_dropped: the model sees the empty caption's context.
        video: uint8 [F, H, W, 3].
        references: uint8 [N, H, W, 3], letterboxed on white.
        bindings: N, in the model's order.
        groups: G, subject groups.
    """

    key: str
    position: int
    caption: str
    text_dropped: bool
    video: Tensor
    references: Tensor
    bindings: tuple[Binding, ...]
    groups: int


@dataclass(frozen=True, slots=True)
class Refused:
    """A sample that gives no example, and why. It keeps its place in the order: nothing is substituted for it."""

    key: str
    position: int
    reason: str


# --- The stream of examples -------------------------------------------------------------------------------------------


class ExampleStream(IterableDataset[Example | Refused]):
    """The examples of one rank from a position on, endless. Loader processes share them without loss or duplication.

    Worker w of n takes every n-th example of its rank; a `DataLoader` with `batch_size=None` asks its workers in turn,
    so the stream is the same for any number of them.

    Args:
        samples: of the training split.
        order: which of them stands where.
        settings: sizes, dropout, augmentation.
        seed: of the run.
        start: examples that this rank has already taken.
        rank, world: this process among those that train together.
    """

    def __init__(
        self,
        samples: Samples,
        order: Order,
        settings: DataSettings,
        seed: int,
        *,
        start: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self._order = order
        self._maker = ExampleMaker(samples, settings, seed)
        self._start, self._rank, self._world = start, rank, world

    def __iter__(self) -> Iterator[Example | Refused]:
        worker = get_worker_info()
        first, stride = (0, 1) if worker is None else (worker.id, worker.num_workers)
        taken = self._start + first
        while True:
            position = taken * self._world + self._rank
            place = self._order.place(position)
            yield self._maker.make(place.index, place.epoch, position, place.size)
            taken += stride

    def loader(self, workers: int) -> DataLoader[Example | Refused]:
        """The stream through `workers` processes; 0: in this one."""
        return DataLoader(
            self,
            batch_size=None,
            num_workers=workers,
            prefetch_factor=4 if workers else None,
            multiprocessing_context="spawn" if workers else None,
        )


# --- From a sample to an example --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class _Decoded:
    pair: Pair
    video: Image
    references: Mapping[str, Image]

    def mirrored(self) -> _Decoded:
        """Left and right exchanged in the clip and in every reference."""
        turned = {entity: np.ascontiguousarray(image[:, ::-1]) for entity, image in self.references.items()}
        return _Decoded(self.pair, np.ascontiguousarray(self.video[:, :, ::-1]), turned)

    @property
    def nbytes(self) -> int:
        return self.video.nbytes + sum(image.nbytes for image in self.references.values())


class ExampleMaker:
    """Decodes, resamples and augments samples; keeps decoded ones up to `cache_mb` when their window is fixed."""

    def __init__(self, samples: Samples, settings: DataSettings, seed: int) -> None:
        self._samples = samples
        self._settings = settings
        self._seed = seed
        self._cache: OrderedDict[int, _Decoded] = OrderedDict()
        self._cached_bytes = 0

    def make(self, index: int, epoch: int, position: int, size: Size | None = None) -> Example | Refused:
        """The training example of sample `index`, with this epoch's random choices; None: in the first size."""
        size = size or sizes(self._settings)[0]
        # A place that cannot be read (`StoreError`) is not the sample's fault: it stops the run, which can be resumed.
        key = f"sample {index}"
        try:
            source = self._source(index)
            pair, key = source.pair, source.pair.key
            decoded = self._decoded(index, source, epoch, size)
            rng = generator(self._seed, epoch, pair.key)
            choose_bodies, drop_references, drop_text, flip = rng.random(4)
            if flip < self._settings.flip_share and not names_sides(pair.caption):
                decoded = decoded.mirrored()
            bindings, groups = bind(pair, bodies=bool(choose_bodies < self._settings.body_share))
            if drop_references < self._settings.reference_dropout:
                bindings, groups = (), 0
            images = [self._augmented(decoded.references[b.entity], b, pair.key, epoch, size) for b in bindings]
            return self._example(
                position, decoded, bindings, groups, images, size, drop_text < self._settings.text_dropout
            )
        except (SampleError, ShardError, VideoError) as error:
            return Refused(key, position, str(error))

    def plain(self, index: int) -> Example:
        """The example without any random choice, in the first size: for validation and sampling.

        Raises:
            SampleError, VideoError: the sample cannot be used.
        """
        size = sizes(self._settings)[0]
        decoded = self._decoded(index, self._source(index), None, size)
        bindings, groups = bind(decoded.pair, bodies=False)
        images = [letterbox(decoded.references[b.entity], size.height, size.width) for b in bindings]
        return self._example(index, decoded, bindings, groups, images, size, text_dropped=False)

    def _example(
        self,
        position: int,
        decoded: _Decoded,
        bindings: tuple[Binding, ...],
        groups: int,
        images: Sequence[Image],
        size: Size,
        text_dropped: bool,
    ) -> Example:
        pair = decoded.pair
        shape = (0, size.height, size.width, 3)
        references = torch.from_numpy(np.stack(images)) if images else torch.zeros(shape, dtype=torch.uint8)
        video = torch.from_numpy(decoded.video)
        return Example(pair.key, position, pair.caption, bool(text_dropped), video, references, bindings, groups)

    def _augmented(self, image: Image, binding: Binding, key: str, epoch: int, size: Size) -> Image:
        settings: AugmentSettings = self._settings.augment
        if settings.enabled:
            rng = generator(self._seed, epoch, f"{key}/{binding.entity}")
            image = augment(image, settings, rng, background=binding.kind is Kind.BACKGROUND)
        return letterbox(image, size.height, size.width)

    def _source(self, index: int) -> Sample | _Decoded:
        """The sample as it is kept: decoded if it was used before, else as the shard has it."""
        if index not in self._cache:
            return self._samples[index]
        self._cache.move_to_end(index)
        return self._cache[index]

    def _decoded(self, index: int, source: Sample | _Decoded, epoch: int | None, size: Size) -> _Decoded:
        """With this epoch's window; None: the one in the middle."""
        if isinstance(source, _Decoded):
            return source
        pair = source.pair
        drawn = epoch is not None and self._settings.window == "random"
        rng = generator(self._seed, epoch or 0, f"{pair.key}/window") if drawn else None
        video = read_window(_member(source, "mp4"), size, self._settings.fps, rng)
        references = {r.entity: _read_image(_member(source, r.member), pair.key, r.member) for r in pair.references}
        decoded = _Decoded(pair, video, references)
        if self._settings.window == "center":
            self._remember(index, decoded)
        return decoded

    def _remember(self, index: int, decoded: _Decoded) -> None:
        limit = self._settings.cache_mb * 1_000_000
        if decoded.nbytes > limit:
            return
        self._cache[index] = decoded
        self._cached_bytes += decoded.nbytes
        while self._cached_bytes > limit:
            _, oldest = self._cache.popitem(last=False)
            self._cached_bytes -= oldest.nbytes


def generator(seed: int, epoch: int, name: str) -> np.random.Generator:
    """Random numbers that depend on the run's seed, the epoch and a content name, and on nothing else."""
    digest = hashlib.sha256(f"{seed}:{epoch}:{name}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))


def bind(pair: Pair, *, bodies: bool) -> tuple[tuple[Binding, ...], int]:
    """A pair's references in the model's order, and its number of subject groups.

    Background, objects, then each subject's face and attributes as a group. With `bodies`, subjects are shown by their
    whole body instead, ungrouped; a pair in which some subject has none keeps its faces and attributes.
    """
    alone = (*(() if pair.background is None else (pair.background,)), *pair.objects)
    bindings = [_binding(reference, None) for reference in alone]
    whole = [subject.body for subject in pair.subjects if subject.body is not None]
    if bodies and whole and len(whole) == len(pair.subjects):
        return (*bindings, *(_binding(body, None) for body in whole)), 0
    for group, subject in enumerate(pair.subjects):
        bindings += [_binding(reference, group) for reference in (subject.face, *subject.attributes)]
    return tuple(bindings), len(pair.subjects)


def _binding(reference: PairReference, group: int | None) -> Binding:
    assert reference.phrase.span is not None, "Pair refuses a reference without a span"
    return Binding(reference.entity, Kind(reference.kind), reference.phrase.span, group)


def names_sides(caption: str) -> bool:
    """Whether a caption says left or right: mirrored, its clip would not be what it says."""
    return _SIDES.search(caption) is not None


def read_window(mp4: bytes, size: Size, fps: float, rng: np.random.Generator | None) -> Image:
    """Frames at `fps` of a clip, resampled by time, scaled and cropped to fill the size: uint8 [F, H, W, 3].

    Args:
        rng: draws where the window starts; None: in the middle.

    Raises:
        SampleError: the clip is shorter than the window.
        VideoError: it cannot be decoded.
    """
    span = (size.frames - 1) / fps
    with Video(BytesIO(mp4), on_error="raise") as video:
        spare = video.info.duration_s - span
        if spare < -1 / video.info.fps:  # less than a frame short: the last frame is held
            raise SampleError(
                f"the clip has {video.info.duration_s:.2f} s, and {size.frames} frames at {fps:g} fps "
                f"need {span:.2f} s; lower data.frames, or leave short clips out when building"
            )
        start = max(0.0, spare) * (0.5 if rng is None else rng.random())
        last = max(0.0, video.info.duration_s - 0.5 / video.info.fps)
        times = [min(start + k / fps, last) for k in range(size.frames)]
        frames = video.frames_at(times)
    return np.stack([cover(frame.rgb, size.height, size.width) for frame in frames])


def _member(sample: Sample, name: str) -> bytes:
    try:
        return sample.members[name]
    except KeyError as error:
        raise SampleError(
            f"{sample.pair.key}: the shard has no member {name}; `dataengine validate` names others"
        ) from error


def _read_image(data: bytes, key: str, member: str) -> Image:
    try:
        with PilImage.open(BytesIO(data), formats=("PNG", "JPEG")) as image:
            if image.width * image.height > MAX_REFERENCE_PIXELS:
                raise SampleError(f"{key}.{member}: {image.width}×{image.height} pixels are too many for a reference")
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, PilImage.DecompressionBombError) as error:
        raise SampleError(f"{key}.{member}: not a readable image: {error}") from error


# --- From examples to what the model takes ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Encoded examples, one entry a sample in every list. Samples may have different numbers of references.

    Attributes:
        keys: of the pairs.
        positions: in the run's order.
        latents: clean video latents, [16, T, h, w] each.
        references: clean reference latents, [16, N, h, w] each; None for a sample without.
        contexts: [tokens, dim] each.
        structures: what the tokens are.
    """

    keys: list[str] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    latents: list[Tensor] = field(default_factory=list)
    references: list[Tensor | None] = field(default_factory=list)
    contexts: list[Tensor] = field(default_factory=list)
    structures: list[SampleStructure] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.keys)


class BatchEncoder:
    """Examples to a batch: codec, text encoder and structure. Captions are encoded once each.

    Args:
        codec, text: frozen; their device is where the batch will be.
        captions: embeddings kept, the least recently used dropped first.
    """

    def __init__(self, codec: Codec, text: TextEncoder, captions: int = 4096) -> None:
        self._codec = codec
        self._text = text
        self._limit = captions
        self._captions: OrderedDict[str, TextEmbedding] = OrderedDict()

    def encode(self, examples: Sequence[Example | Refused]) -> tuple[Batch, list[Refused]]:
        """The examples that can be used, in order, and those that cannot. The batch may be empty."""
        batch, refused = Batch(), []
        for example in examples:
            if isinstance(example, Refused):
                refused.append(example)
                continue
            try:
                embedding = self._embed(example.caption)
                bound = tuple(Reference(b.kind, embedding.positions(b.span), b.group) for b in example.bindings)
            except PhraseError as error:
                refused.append(Refused(example.key, example.position, str(error)))
                continue
            latent = self._codec.encode(to_pixels(example.video)[None])[0]
            batch.keys.append(example.key)
            batch.positions.append(example.position)
            batch.latents.append(latent)
            batch.references.append(self._encode_references(example.references))
            batch.contexts.append(self._embed("").context if example.text_dropped else embedding.context)
            grid = token_grid(latent.shape[-2:])
            batch.structures.append(SampleStructure(latent.shape[1], grid, bound, example.groups))
        return batch, refused

    def _encode_references(self, images: Tensor) -> Tensor | None:
        """[N, H, W, 3] to [16, N, h, w]; each is a video of one frame."""
        if not len(images):
            return None
        return self._codec.encode(to_pixels(images[:, None]))[:, :, 0].movedim(0, 1)

    def _embed(self, caption: str) -> TextEmbedding:
        if caption not in self._captions:
            (self._captions[caption],) = self._text.encode([caption])
            if len(self._captions) > self._limit:
                self._captions.popitem(last=False)
        self._captions.move_to_end(caption)
        return self._captions[caption]
