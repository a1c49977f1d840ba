"""Which sample stands where in a run: epochs, mixing by number of subjects, buckets of one size.

Everything is a pure function of (seed, position): nothing needs saving to resume, and neither the number of loader
processes nor the number of ranks changes which sample stands where. Shuffling is a full permutation of all samples of a
kind, drawn anew for every epoch (not a buffer): within an epoch each stands once, every order is as likely as another,
and epochs are independent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from dataengine.lumosx.settings import DataSettings
from dataengine.shards.index import Index

_BLOCK = 4096  # choices drawn at once; part of what defines an order


class OrderError(ValueError):
    """There is no order as asked for; the message says why."""


class Size(NamedTuple):
    """Of a training clip, in pixels and frames."""

    height: int
    width: int
    frames: int


@dataclass(frozen=True, slots=True)
class Place:
    """What stands at a position. No sample comes twice with the same `epoch`: random choices are drawn from both."""

    index: int
    epoch: int
    size: Size


class Order(Protocol):
    """An endless sequence of samples. Rank r of W trains on the positions p ≡ r (mod W)."""

    def place(self, position: int, /) -> Place: ...


# --- Pieces -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Walk:
    """An endless walk over `count` things, every epoch in another order. Position p is in epoch p // count."""

    count: int
    seed: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.count < 1:
            raise OrderError("there are no samples to train on")

    def at(self, position: int) -> tuple[int, int]:
        """What stands at a position, and its epoch."""
        epoch, offset = divmod(position, self.count)
        return int(_permutation(self.count, (*self.seed, epoch))[offset]), epoch


@lru_cache(maxsize=64)
def _permutation(count: int, seed: tuple[int, ...]) -> NDArray[np.int64]:
    return np.random.default_rng(seed).permutation(count)


class Choices:
    """An endless random sequence of choices with given shares.

    Drawn in blocks, evenly spaced within each: of n choices, one with share s was made n·s times, give or take one or
    two for every 4096 (independent draws would stray by the square root).
    """

    def __init__(self, shares: Sequence[float], seed: Sequence[int]) -> None:
        self._edges = np.cumsum(np.asarray(shares, dtype=np.float64) / sum(shares))[:-1]
        self._seed = tuple(seed)
        self._before = [np.zeros(len(shares), dtype=np.int64)]  # choices made before each block
        self._held: tuple[int, NDArray[np.int64], NDArray[np.int64]] | None = None

    def at(self, position: int) -> tuple[int, int]:
        """The choice at a position, and how often it was made before."""
        if not len(self._edges):
            return 0, position
        block, offset = divmod(position, _BLOCK)
        if self._held is None or self._held[0] != block:
            self._held = (block, *self._numbered(block))
        _, chosen, numbers = self._held
        return int(chosen[offset]), int(numbers[offset])

    def _numbered(self, block: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        count = len(self._edges) + 1
        while len(self._before) <= block:
            counts = np.bincount(self._drawn(len(self._before) - 1), minlength=count)
            self._before.append(self._before[-1] + counts)
        chosen = self._drawn(block)
        numbers = np.empty(_BLOCK, dtype=np.int64)
        for choice in range(count):
            made = chosen == choice
            numbers[made] = self._before[block][choice] + np.arange(made.sum())
        return chosen, numbers

    def _drawn(self, block: int) -> NDArray[np.int64]:
        rng = np.random.default_rng((*self._seed, block))
        return np.searchsorted(self._edges, (rng.permutation(_BLOCK) + rng.random()) / _BLOCK, side="right")


# --- A run's order ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Traits:
    """What decides a sample's place, one entry a sample: number of subjects, seconds, pixels."""

    subjects: NDArray[np.int64]
    seconds: NDArray[np.float64]
    width: NDArray[np.int64]
    height: NDArray[np.int64]

    @classmethod
    def of(cls, index: Index) -> Traits:
        columns = (index.table[name].to_numpy() for name in ("subjects", "seconds", "width", "height"))
        return cls(*columns)

    def __len__(self) -> int:
        return len(self.subjects)


def sizes(settings: DataSettings) -> tuple[Size, ...]:
    """The sizes that clips are trained in."""
    return tuple(Size(*bucket) for bucket in settings.buckets) or (
        Size(settings.height, settings.width, settings.frames),
    )


def buckets(traits: Traits, settings: DataSettings) -> NDArray[np.int64]:
    """The number of each sample's size.

    Of the sizes that the clip is long enough for, the nearest in aspect, then the longest, then the largest. A clip
    that is too short for all gets the shortest, and is refused when its turn comes.
    """
    offered = sizes(settings)
    aspects = np.abs(np.log(traits.width / traits.height)[:, None] - [np.log(s.width / s.height) for s in offered])
    seconds = np.array([(size.frames - 1) / settings.fps for size in offered])
    too_long = np.maximum(0.0, seconds[None] - traits.seconds[:, None] - 1e-6)
    frames = np.broadcast_to([-size.frames for size in offered], aspects.shape)
    area = np.broadcast_to([-size.height * size.width for size in offered], aspects.shape)
    ranked = np.lexsort((area, frames, aspects.round(6), too_long), axis=1)
    return ranked[:, 0]


@dataclass(frozen=True, eq=False)
class _Stratum:
    """Samples of one kind, and their walk."""

    members: NDArray[np.int64]
    walk: Walk


@dataclass(frozen=True, eq=False)
class _Bucket:
    """What is trained in one size: strata, and which of them stands where."""

    size: Size
    strata: Sequence[_Stratum]
    choices: Choices
    share: float

    def place(self, position: int, epochs: int) -> Place:
        stratum, number = self.choices.at(position)
        offset, epoch = self.strata[stratum].walk.at(number)
        return Place(int(self.strata[stratum].members[offset]), epochs + epoch, self.size)


class _Stage:
    """A part of a run with one mixture. A step's samples are all of one bucket, drawn by its share of the samples."""

    def __init__(
        self, kinds: Sequence[tuple[float, NDArray[np.bool_]]], found: NDArray[np.int64], offered: Sequence[Size],
        seed: Sequence[int],
    ) -> None:  # fmt: skip
        self.buckets: list[_Bucket] = []
        for number, size in enumerate(offered):
            strata, shares = [], []
            for kind, (weight, chosen) in enumerate(kinds):
                members = np.flatnonzero(chosen & (found == number))
                if len(members) and weight:
                    strata.append(_Stratum(members, Walk(len(members), (*seed, number, kind))))
                    shares.append(weight * len(members) / chosen.sum())
            if strata:
                choices = Choices(shares, (*seed, number, len(kinds)))
                self.buckets.append(_Bucket(size, strata, choices, sum(shares)))
        self._choices = Choices([bucket.share for bucket in self.buckets], (*seed, len(offered)))

    def place(self, step: int, slot: int, per_step: int, epochs: int) -> Place:
        bucket, number = self._choices.at(step)
        return self.buckets[bucket].place(number * per_step + slot, epochs)


class Curriculum:
    """A run's order: one-subject samples first, then the mixture; every step of one size.

    Args:
        traits: of the samples.
        settings: sizes, mixture.
        per_step: samples of a step, over all ranks.
        seed: of the run.

    Raises:
        OrderError: the dataset lacks samples of a kind that is asked for.
    """

    def __init__(self, traits: Traits, settings: DataSettings, per_step: int, seed: int) -> None:
        if not len(traits):
            raise OrderError("there are no samples to train on")
        mixture, found, offered = settings.mixture, buckets(traits, settings), sizes(settings)
        self._per_step, self._first_steps = per_step, mixture.one_subject_steps
        one = traits.subjects == 1
        if self._first_steps and not one.any():
            raise OrderError("data.mixture.one_subject_steps: the dataset has no sample with one subject")
        self._first = _Stage([(1.0, one)], found, offered, (seed, 1)) if self._first_steps else None
        if mixture.weights is None:
            kinds = [(1.0, np.ones(len(traits), dtype=np.bool_))]
        else:
            kinds = [(weight, traits.subjects == number) for number, weight in enumerate(mixture.weights, 1)]
            missing = [str(n) for n, (weight, chosen) in enumerate(kinds, 1) if weight and not chosen.any()]
            if missing:
                raise OrderError(f"data.mixture.weights: the dataset has no sample with {', '.join(missing)} subjects")
        self._mixed = _Stage(kinds, found, offered, (seed, 2))
        # Epochs of the mixture are counted on from the first stage's: no sample comes twice with the same one.
        smallest = min((len(s.members) for b in self._first.buckets for s in b.strata), default=1) if self._first else 1
        self._first_epochs = -(-self._first_steps * per_step // smallest)

    def place(self, position: int) -> Place:
        """The sample at a position of the run."""
        step, slot = divmod(position, self._per_step)
        if self._first is not None and step < self._first_steps:
            return self._first.place(step, slot, self._per_step, 0)
        return self._mixed.place(step - self._first_steps, slot, self._per_step, self._first_epochs)
