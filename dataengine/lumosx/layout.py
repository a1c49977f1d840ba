"""How a batch of samples with different structures is packed into one sequence, with every table its attention needs.

Packed, not padded: samples differ in their number of references (0 to about 15 frames), so padding to the longest
would waste up to a third of all tokens, and every mask that hides padding would cost the fused attention kernels.
Pointwise layers run on all rows of the batch at once; attention runs on host-known row ranges of each sample, so a
sample never meets another one and the batch equals its samples run alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dataengine.lumosx.rope import positions, rope_table
from dataengine.lumosx.structure import SampleStructure
from dataengine.lumosx.transfer import to_device

CellMap = Literal["exact", "released"]
POOL = 8  # side of MCAM's pooled cells, in tokens


@dataclass(frozen=True, slots=True)
class SegmentRun:
    """Adjacent segments of equal length: one batched attention call over `count` blocks of `length` rows."""

    start: int
    count: int
    length: int


@dataclass(frozen=True, slots=True)
class SampleRows:
    """Rows of one sample in the packed sequence (all host integers).

    Attributes:
        start, video_end, end: video rows are [start, video_end), reference rows [video_end, end).
        runs: the block-diagonal part of CSAM, covering the reference rows in order; none where all see all.
        references: N.
    """

    start: int
    video_end: int
    end: int
    runs: tuple[SegmentRun, ...]
    references: int


@dataclass(frozen=True, slots=True)
class PhraseTables:
    """What MCAM needs of one sample, on the device.

    Attributes:
        pool: [cells, h·w] float32, row c averages the queries of 8x8 cell c; padding counts, so always 1/64.
        spread: [h·w, cells] float32 one-hot, the pooled cell whose bias each token reads. Cells are padded to a
            multiple of 8 (empty columns), which keeps the widened heads of `attention.phrase_attention` aligned.
        coefficients: [N, text_len] float32.
    """

    pool: Tensor
    spread: Tensor
    coefficients: Tensor


@dataclass(frozen=True, slots=True)
class Layout:
    """A batch's structure, ready for the model: host-side row ranges and device tables. Build one per step.

    Attributes:
        structures: the samples, in batch order.
        samples: their rows.
        rope: [L, 1, head_dim/2, 2] float32, rotations of all rows.
        phrases: MCAM tables per sample, None for a sample without references.
        text_len: text tokens per sample, padding included.
    """

    structures: tuple[SampleStructure, ...]
    samples: tuple[SampleRows, ...]
    rope: Tensor
    phrases: tuple[PhraseTables | None, ...]
    text_len: int

    @property
    def lengths(self) -> list[int]:
        """Rows of each sample."""
        return [rows.end - rows.start for rows in self.samples]

    @property
    def video_lengths(self) -> list[int]:
        """Video rows of each sample."""
        return [rows.video_end - rows.start for rows in self.samples]

    def video_rows(self, x: Tensor) -> Tensor:
        """The video rows of a packed tensor [L, ...], samples in order."""
        return _concatenate([x[rows.start : rows.video_end] for rows in self.samples])

    @classmethod
    def build(
        cls,
        structures: Sequence[SampleStructure],
        *,
        head_dim: int,
        text_len: int,
        cell_map: CellMap,
        r2pe: bool = True,
        csam: bool = True,
        device: torch.device | str = "cpu",
    ) -> Layout:
        """Lay out a batch. Integer metadata is made on the host and moved once; nothing waits for the device.

        Args:
            structures: one per sample; grids and lengths may differ.
            head_dim: of the model.
            text_len: text tokens per sample after padding.
            cell_map: how a token finds its pooled cell, see `cell_of_token`.
            r2pe, csam: as `DiTConfig` has them.

        Raises:
            StructureError: a phrase lies beyond `text_len`.
            ValueError: no sample, or an unknown cell map.
        """
        if not structures:
            raise ValueError("a batch needs at least one sample")
        device = torch.device(device)
        samples: list[SampleRows] = []
        phrases: list[PhraseTables | None] = []
        start = 0
        cells = {grid: _cell_tables(grid, cell_map, device) for grid in {s.grid for s in structures}}
        for structure in structures:
            samples.append(_rows(structure, start, csam))
            start = samples[-1].end
            if structure.references:
                coefficients = torch.tensor(structure.phrase_coefficients(text_len), dtype=torch.float32)
                pool, spread = cells[structure.grid]
                phrases.append(PhraseTables(pool, spread, to_device(coefficients, device)))
            else:
                phrases.append(None)
        rope = rope_table(torch.cat([positions(structure, r2pe) for structure in structures]), head_dim, device)
        return cls(tuple(structures), tuple(samples), rope, tuple(phrases), text_len)


def cell_of_token(grid: tuple[int, int], cell_map: CellMap) -> Tensor:
    """The pooled cell that each token of a reference reads its bias from, [h·w] int64 on the host.

    `exact`: (r // 8, c // 8). `released`: the published code repeats cells back to the padded h'xw' grid but then
    crops the *flattened* grid, so token p = r·w + c reads (p // w' // 8, p % w' // 8): a shear unless 8 divides w.
    Published weights were trained with it (w = 52 at 480x832).
    """
    h, w = grid
    token = torch.arange(h * w)
    if cell_map == "exact":
        width = w
    elif cell_map == "released":
        width = _cells(w) * POOL
    else:
        raise ValueError(f"unknown cell map {cell_map!r}: choose 'exact' or 'released'")
    return (token // width // POOL) * _cells(w) + (token % width) // POOL


def _cells(side: int) -> int:
    return -(-side // POOL)


def _cell_tables(grid: tuple[int, int], cell_map: CellMap, device: torch.device) -> tuple[Tensor, Tensor]:
    count = -(-_cells(grid[0]) * _cells(grid[1]) // 8) * 8
    pooled = to_device(cell_of_token(grid, "exact"), device)
    read = to_device(cell_of_token(grid, cell_map), device)
    cell = torch.arange(count, device=device)
    pool = (cell[:, None] == pooled[None, :]).float() / POOL**2
    spread = (read[:, None] == cell[None, :]).float()
    return pool, spread


def _rows(structure: SampleStructure, start: int, csam: bool) -> SampleRows:
    video_end = start + structure.video_tokens
    runs: list[SegmentRun] = []
    for segment in structure.segments if csam else ():
        length = segment.count * structure.frame_tokens
        if runs and runs[-1].length == length:
            runs[-1] = SegmentRun(runs[-1].start, runs[-1].count + 1, length)
        else:
            runs.append(SegmentRun(video_end + segment.start * structure.frame_tokens, 1, length))
    return SampleRows(start, video_end, start + structure.tokens, tuple(runs), len(structure.references))


def _concatenate(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)
