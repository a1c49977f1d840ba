"""Which people of different clips are one person, from their face embeddings.

Nearest neighbours link people; links are followed from the surest on, and two groups become one only when their *means*
are alike too, so that one picture between two people does not chain them together (single linkage would). People of one
clip are never one person: twins who stand beside each other stay two.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

EXACT = 8_192
"""So many are all compared with each other; more go through an inverted index (faiss), which misses a few."""
_BLOCK = 2_048
_TRAIN = 40
"""Points a cell that the index is trained on."""
_PROBES = 24
_SURE = 4
"""Decimals of a cosine that count for the order of links: the rest is rounding."""


def cluster(
    embeddings: NDArray[np.float16], clips: Sequence[str], threshold: float, neighbours: int = 16
) -> NDArray[np.int64]:
    """For each row the smallest row that is the same person.

    `embeddings`: (n, d), rows of unit length; `clips`: (n,), the clip that each person is in. Memory: the embeddings,
    as much again for the index, and the means of groups (4 d bytes for each person that is in one). The result depends
    on the rows and their order alone.
    """
    if embeddings.ndim != 2 or len(embeddings) != len(clips):
        raise ValueError(f"{len(clips)} clips for embeddings of shape {embeddings.shape}")
    links = _links(embeddings, threshold, neighbours)
    # The surest first; equal ones by row, so that nothing depends on how they were found.
    order = np.lexsort((links["b"], links["a"], -np.round(links["likeness"], _SURE)))
    parent = np.arange(len(clips))
    sums: dict[int, NDArray[np.float32]] = {}
    seen: dict[int, set[str]] = {}

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = int(parent[row])
        return row

    for link in order.tolist():
        a, b = root(int(links["a"][link])), root(int(links["b"][link]))
        if a == b:
            continue
        a, b = min(a, b), max(a, b)
        one, other = (sums.get(row, embeddings[row].astype(np.float32)) for row in (a, b))
        if one @ other < threshold * float(np.linalg.norm(one)) * float(np.linalg.norm(other)):
            continue
        here, there = seen.get(a, {clips[a]}), seen.get(b, {clips[b]})
        if not here.isdisjoint(there):
            continue
        small, large = sorted((here, there), key=len)
        large |= small
        parent[b], sums[a], seen[a] = a, one + other, large
        sums.pop(b, None)
        seen.pop(b, None)
    return np.array([root(row) for row in range(len(clips))], np.int64)


_LINK = np.dtype([("a", np.int64), ("b", np.int64), ("likeness", np.float32)])


def _links(embeddings: NDArray[np.float16], threshold: float, neighbours: int) -> NDArray:
    """Pairs a < b at least `threshold` alike, of each row with its nearest ones."""
    found = [np.empty(0, _LINK)]
    for start, likeness, others in _nearest(embeddings, neighbours + 1):
        rows = np.arange(start, start + len(others))[:, None]
        good = (likeness >= threshold) & (others >= 0) & (others != rows)
        a, b = np.broadcast_to(rows, others.shape)[good], others[good]
        link = np.empty(len(a), _LINK)
        link["a"], link["b"], link["likeness"] = np.minimum(a, b), np.maximum(a, b), likeness[good]
        found.append(link)
    links = np.concatenate(found)
    _, first = np.unique(links["a"] * len(embeddings) + links["b"], return_index=True)
    return links[first]


def _nearest(
    embeddings: NDArray[np.float16], count: int
) -> Iterator[tuple[int, NDArray[np.float32], NDArray[np.int64]]]:
    """Blocks of rows: the first row, and for each row its `count` nearest ones with their cosines, itself included."""
    size, width = embeddings.shape
    count = min(count, size)
    if size <= EXACT:
        everybody = embeddings.astype(np.float32)
        for start in range(0, size, _BLOCK):
            likeness = everybody[start : start + _BLOCK] @ everybody.T
            others = np.argpartition(-likeness, count - 1, axis=1)[:, :count]
            yield start, np.take_along_axis(likeness, others, axis=1), others
        return
    import faiss  # where it is used: every process of a build imports this module

    cells = int(min(4 * size**0.5, size / _TRAIN))
    index: Any = faiss.index_factory(width, f"IVF{cells},SQfp16", faiss.METRIC_INNER_PRODUCT)
    step = max(1, size // (_TRAIN * cells))
    threads = faiss.omp_get_max_threads()
    try:
        # Sums of several threads would depend on their number.
        faiss.omp_set_num_threads(1)
        index.cp.niter, index.cp.seed = 4, 0
        index.train(embeddings[::step].astype(np.float32))
        for start in range(0, size, _BLOCK):
            index.add(embeddings[start : start + _BLOCK].astype(np.float32))
    finally:
        faiss.omp_set_num_threads(threads)
    index.nprobe = _PROBES
    for start in range(0, size, _BLOCK):
        yield start, *index.search(embeddings[start : start + _BLOCK].astype(np.float32), count)


def purity(labels: Sequence[int], truth: Sequence[int]) -> float:
    """Share of the rows whose group is mostly their own person."""
    return _agreement(labels, truth)


def completeness(labels: Sequence[int], truth: Sequence[int]) -> float:
    """Share of the rows whose person is mostly in their own group."""
    return _agreement(truth, labels)


def _agreement(groups: Sequence[int], of: Sequence[int]) -> float:
    pairs, counts = np.unique(np.stack([np.asarray(groups), np.asarray(of)], axis=1), axis=0, return_counts=True)
    best: dict[int, int] = {}
    for (group, _), count in zip(pairs.tolist(), counts.tolist(), strict=True):
        best[group] = max(best.get(group, 0), count)
    return sum(best.values()) / len(groups) if len(groups) else 1.0
