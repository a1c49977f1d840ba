"""R2PE: the three-axis rotary table of a packed sequence, built once per step, and how queries and keys are rotated."""

from __future__ import annotations

import torch
from torch import Tensor

from dataengine.lumosx.structure import SampleStructure

THETA = 10000.0


def axis_channels(head_dim: int) -> tuple[int, int, int]:
    """Complex channels given to (time, rows, columns): a third each, time takes the rest."""
    channels = head_dim // 2
    third = channels // 3
    return channels - 2 * third, third, third


def positions(structure: SampleStructure, r2pe: bool = True) -> Tensor:
    """Integer (time, row, column) of every token of a sample, [L, 3] int32 on the host; `r2pe`: see `DiTConfig`."""
    h, w = structure.grid
    offsets = torch.tensor(structure.frame_offsets(r2pe), dtype=torch.int32)
    rows, columns = torch.meshgrid(
        torch.arange(h, dtype=torch.int32), torch.arange(w, dtype=torch.int32), indexing="ij"
    )
    within = torch.stack((torch.zeros_like(rows), rows, columns), dim=-1).view(1, h * w, 3)
    return (offsets[:, None, :] + within).view(-1, 3)


def rope_table(positions: Tensor, head_dim: int, device: torch.device | str = "cpu") -> Tensor:
    """Unit rotations of every token as (cos, sin), [L, 1, head_dim/2, 2] float32 on `device`.

    Angles are formed in float64 (as the released code does) and only the finished rotation is rounded: the
    columns of an attribute reach several hundred, where a float32 angle is already wrong in the fifth digit.
    A position takes few values on an axis, so each axis is computed once per value and then looked up.

    Args:
        positions: [L, 3] integer (time, row, column) on the host: their largest values size the lookup tables.
        head_dim: even.
    """
    sizes = (positions.amax(dim=0) + 1).tolist()
    index = positions.pin_memory() if torch.device(device).type == "cuda" else positions
    index = index.to(device, non_blocking=True)
    parts = []
    for axis, (size, channels) in enumerate(zip(sizes, axis_channels(head_dim), strict=True)):
        exponent = torch.arange(channels, dtype=torch.float64, device=device) / max(channels, 1)
        angle = torch.outer(torch.arange(size, dtype=torch.float64, device=device), THETA**-exponent)
        rotation = torch.stack((angle.cos(), angle.sin()), dim=-1).float()
        parts.append(rotation.index_select(0, index[:, axis]))
    return torch.cat(parts, dim=1).unsqueeze(1)


def apply_rope(x: Tensor, table: Tensor) -> Tensor:
    """Rotate the interleaved channel pairs of queries or keys in float32.

    Args:
        x: [L, heads, head_dim], any float dtype (kept).
        table: [L, 1, head_dim/2, 2] float32 from `rope_table`.
    """
    pairs = x.float().unflatten(-1, (-1, 2))
    if torch.compiler.is_compiling():  # inductor fuses real arithmetic, and cannot generate code for complex numbers
        cos, sin = table.unbind(-1)
        real, imaginary = pairs.unbind(-1)
        rotated = torch.stack((real * cos - imaginary * sin, real * sin + imaginary * cos), dim=-1)
    else:  # one complex product: the fewest passes over memory in eager mode
        rotated = torch.view_as_real(torch.view_as_complex(pairs) * torch.view_as_complex(table))
    return rotated.flatten(-2).to(x.dtype)
