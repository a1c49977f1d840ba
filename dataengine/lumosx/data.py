"""Shard samples to training examples: frames by time, augmented references, and the token structure the model needs.

Which sample stands where says `order`; all randomness is a function of (seed, epoch, key).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from io import BytesIO
from typing import Protocol

import numpy as np
import torch
from PIL import Image as PilImage
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from dataengine.lumosx.augment import Image, augment, letterbox
from dataengine.lumosx.codec import Codec, to_pixels
from dataengine.lumosx.order import Order, Size, sizes
from dataengine.lumosx.settings import AugmentSettings, DataSettings
from dataengine.lumosx.stored import Missed, NotStored, StoredLatents
from dataengine.lumosx.structure import Kind, Reference, SampleStructure
from dataengine.lumosx.text import PhraseError, TextEmbedding, TextEncoder
from dataengine.lumosx.transfer import to_device
from dataengine.lumosx.transformer import token_grid
from dataengine.lumosx.windows import (
    Draws,
    SampleError,
    generator,
    is_mirrored,
    mirrored,
    read_window,
    window_start,
)
from dataengine.records import Pair, Span
from dataengine.records import Reference as PairReference
from dataengine.shards.tar import ShardError
from dataengine.video import VideoError

MAX_REFERENCE_PIXELS = 64_000_000


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
        video: uint8 [F, H, W, 3]; no frames (F = 0) where `latent` is given.
        references: uint8 [N, H, W, 3], letterboxed on white.
        bindings: N, in the model's order.
        groups: G, subject groups.
        latent: float32 [16, T, h, w] of the video, where it was stored.
        missed: why it was not, where it should have been.
    """

    key: str
    position: int
    caption: str
    text_dropped: bool
    video: Tensor
    references: Tensor
    bindings: tuple[Binding, ...]
    groups: int
    latent: Tensor | None = None
    missed: str = ""


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
        stored: latents that were computed before.
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
        stored: StoredLatents | None = None,
    ) -> None:
        self._order = order
        self._maker = ExampleMaker(samples, settings, seed, stored)
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
class _Opened:
    """A sample with its references decoded, and its frames too once they were needed and their window is fixed."""

    pair: Pair
    mp4: bytes
    references: Mapping[str, Image]
    video: Image | None = None

    @property
    def nbytes(self) -> int:
        pictures = sum(image.nbytes for image in self.references.values())
        return len(self.mp4) + pictures + (0 if self.video is None else self.video.nbytes)


@dataclass(frozen=True, slots=True, eq=False)
class _Clip:
    """A window as an example has it: its frames, or its latent."""

    video: Image
    latent: Tensor | None = None
    missed: str = ""


class ExampleMaker:
    """Decodes, resamples and augments samples; keeps decoded ones up to `cache_mb` when their window is fixed.

    With `stored` latents, a clip is only decoded where its latent is not among them. All else stays what it is.
    """

    def __init__(
        self, samples: Samples, settings: DataSettings, seed: int, stored: StoredLatents | None = None
    ) -> None:
        self._samples = samples
        self._settings = settings
        self._seed = seed
        self._stored = stored
        self._cache: OrderedDict[int, _Opened] = OrderedDict()
        self._cached_bytes = 0

    def make(self, index: int, epoch: int, position: int, size: Size | None = None) -> Example | Refused:
        """The training example of sample `index`, with this epoch's random choices; None: in the first size."""
        size = size or sizes(self._settings)[0]
        settings = self._settings
        # A place that cannot be read (`StoreError`) is not the sample's fault: it stops the run, which can be resumed.
        key = f"sample {index}"
        try:
            source = self._source(index)
            pair, key = source.pair, source.pair.key
            opened = self._opened(source)
            draws = Draws.of(self._seed, epoch, pair.key)
            turned = is_mirrored(draws, pair.caption, settings)
            start_s = window_start(pair.frames / pair.fps, size, settings, self._seed, epoch, pair.key)
            clip = self._clip(index, opened, size, start_s, turned)
            bindings, groups = bind(pair, bodies=draws.body < settings.body_share)
            if draws.references < settings.reference_dropout:
                bindings, groups = (), 0
            shown = [opened.references[b.entity] for b in bindings]
            images = [
                self._augmented(mirrored(image) if turned else image, b, pair.key, epoch, size)
                for image, b in zip(shown, bindings, strict=True)
            ]
            text_dropped = draws.text < settings.text_dropout
            return _example(position, pair, clip, bindings, groups, images, size, text_dropped)
        except (SampleError, ShardError, VideoError) as error:
            return Refused(key, position, str(error))

    def plain(self, index: int, size: Size | None = None) -> Example:
        """The example without any random choice, decoded: for validation and sampling. None: in the first size.

        Without references where training never shows one (`reference_dropout` of 1).

        Raises:
            SampleError, VideoError: the sample cannot be used.
        """
        size = size or sizes(self._settings)[0]
        opened = self._opened(self._samples[index])
        pair = opened.pair
        start_s = window_start(pair.frames / pair.fps, size, self._settings)
        video = read_window(opened.mp4, size, self._settings.fps, start_s)
        bindings, groups = bind(pair, bodies=False) if self._settings.reference_dropout < 1 else ((), 0)
        images = [letterbox(opened.references[b.entity], size.height, size.width) for b in bindings]
        return _example(index, pair, _Clip(video), bindings, groups, images, size, text_dropped=False)

    def _augmented(self, image: Image, binding: Binding, key: str, epoch: int, size: Size) -> Image:
        settings: AugmentSettings = self._settings.augment
        if settings.enabled:
            rng = generator(self._seed, epoch, f"{key}/{binding.entity}")
            image = augment(image, settings, rng, background=binding.kind is Kind.BACKGROUND)
        return letterbox(image, size.height, size.width)

    def _source(self, index: int) -> Sample | _Opened:
        """The sample as it is kept: opened if it was used before, else as the shard has it."""
        if index not in self._cache:
            return self._samples[index]
        self._cache.move_to_end(index)
        return self._cache[index]

    def _opened(self, source: Sample | _Opened) -> _Opened:
        if isinstance(source, _Opened):
            return source
        pair = source.pair
        references = {r.entity: _read_image(_member(source, r.member), pair.key, r.member) for r in pair.references}
        return _Opened(pair, _member(source, "mp4"), references)

    def _clip(self, index: int, opened: _Opened, size: Size, start_s: float, turned: bool) -> _Clip:
        missed = ""
        if self._stored is not None:
            try:
                latent = self._stored.find(opened.mp4, size, start_s, turned)
                self._remember(index, opened)
                return _Clip(np.zeros((0, size.height, size.width, 3), np.uint8), latent)
            except NotStored as error:
                missed = str(error)
        video = opened.video
        if video is None:
            video = read_window(opened.mp4, size, self._settings.fps, start_s)
            self._remember(index, replace(opened, video=video))
        return _Clip(mirrored(video) if turned else video, missed=missed)

    def _remember(self, index: int, opened: _Opened) -> None:
        limit = self._settings.cache_mb * 1_000_000
        if self._settings.window != "center" or opened.nbytes > limit:
            return
        before = self._cache.pop(index, None)
        self._cache[index] = opened
        self._cached_bytes += opened.nbytes - (0 if before is None else before.nbytes)
        while self._cached_bytes > limit:
            _, oldest = self._cache.popitem(last=False)
            self._cached_bytes -= oldest.nbytes


def _example(
    position: int,
    pair: Pair,
    clip: _Clip,
    bindings: tuple[Binding, ...],
    groups: int,
    images: Sequence[Image],
    size: Size,
    text_dropped: bool,
) -> Example:
    shape = (0, size.height, size.width, 3)
    return Example(
        key=pair.key,
        position=position,
        caption=pair.caption,
        text_dropped=text_dropped,
        video=torch.from_numpy(clip.video),
        references=torch.from_numpy(np.stack(images)) if images else torch.zeros(shape, dtype=torch.uint8),
        bindings=bindings,
        groups=groups,
        latent=clip.latent,
        missed=clip.missed,
    )


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
        codec, text: frozen.
        device: where the batch will be.
        captions_mb: embeddings kept there, the least recently used dropped first.
    """

    def __init__(
        self, codec: Codec, text: TextEncoder, device: torch.device | str = "cpu", captions_mb: int = 256
    ) -> None:
        self._codec = codec
        self._text = text
        self._device = torch.device(device)
        self._limit = captions_mb * 1_000_000
        self._captions: OrderedDict[str, TextEmbedding] = OrderedDict()
        self._held = 0
        self._missed = Missed("clips")

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
            latent = self._latent(example)
            batch.keys.append(example.key)
            batch.positions.append(example.position)
            batch.latents.append(latent)
            batch.references.append(self._encode_references(example.references))
            batch.contexts.append(self._embed("").context if example.text_dropped else embedding.context)
            grid = token_grid(latent.shape[-2:])
            batch.structures.append(SampleStructure(latent.shape[1], grid, bound, example.groups))
        return batch, refused

    def _latent(self, example: Example) -> Tensor:
        if example.missed:
            self._missed.note(example.key, example.missed)
        if example.latent is not None:
            return to_device(example.latent, self._device)
        return self._codec.encode(to_pixels(to_device(example.video, self._device))[None])[0]

    def _encode_references(self, images: Tensor) -> Tensor | None:
        """[N, H, W, 3] to [16, N, h, w]; each is a video of one frame."""
        if not len(images):
            return None
        return self._codec.encode(to_pixels(to_device(images, self._device)[:, None]))[:, :, 0].movedim(0, 1)

    def _embed(self, caption: str) -> TextEmbedding:
        if caption not in self._captions:
            (found,) = self._text.encode([caption])
            self._captions[caption] = replace(found, context=to_device(found.context, self._device))
            self._held += found.context.nbytes
            while self._held > self._limit and len(self._captions) > 1:
                _, oldest = self._captions.popitem(last=False)
                self._held -= oldest.context.nbytes
        self._captions.move_to_end(caption)
        return self._captions[caption]
