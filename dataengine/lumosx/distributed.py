"""Several ranks as one trainer: who takes part, FSDP2 over them, and sums that all of them see.

Started by `torchrun` or Ray Train; with one rank nothing here does anything.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among those that train together."""

    rank: int = 0
    world: int = 1

    @classmethod
    def here(cls) -> Ranks:
        """Of the process group, if there is one."""
        return cls(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else cls()

    @property
    def first(self) -> bool:
        return self.rank == 0


ALONE = Ranks()


@contextmanager
def joined() -> Iterator[Ranks]:
    """Join the other processes when `torchrun` started this one; NCCL with a GPU each, gloo without."""
    if "TORCHELASTIC_RUN_ID" not in os.environ or dist.is_initialized():
        yield Ranks.here()
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("cuda:nccl,cpu:gloo" if torch.cuda.is_available() else "gloo")
    try:
        yield Ranks.here()
    finally:
        dist.destroy_process_group()


def shard(model: nn.Module, blocks: Iterable[nn.Module], ranks: Ranks, *, bf16: bool) -> None:
    """Split parameters, gradients and optimizer over the ranks (FSDP2). Each block is gathered when it computes.

    With `bf16` blocks are gathered and computed in bfloat16; master weights, gradient sums, and what is outside of the
    blocks (time, text, head) stay in float32.
    """
    if ranks.world == 1:
        return
    mesh = _mesh(ranks)
    # Inputs keep their type: the residual stream is float32 in every case.
    policy = MixedPrecisionPolicy(torch.bfloat16 if bf16 else None, torch.float32, cast_forward_inputs=False)
    for block in blocks:
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=MixedPrecisionPolicy(None, torch.float32, cast_forward_inputs=False))


def _mesh(ranks: Ranks) -> DeviceMesh:
    return init_device_mesh("cuda" if torch.cuda.is_available() else "cpu", (ranks.world,))


def local(tensor: Tensor) -> Tensor:
    """The part of a tensor that this rank has, sharing its memory; the tensor itself if it is not split."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor. Every rank must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def like(tensor: Tensor, target: Tensor) -> Tensor:
    """A whole tensor split, placed and typed as `target` is."""
    moved = tensor.to(target.device, target.dtype)
    if isinstance(target, DTensor):
        return distribute_tensor(moved, target.device_mesh, target.placements, src_data_rank=None)
    return moved


def summed(tensor: Tensor, ranks: Ranks) -> Tensor:
    """The sum over all ranks, in place."""
    if ranks.world > 1:
        dist.all_reduce(tensor)
    return tensor


def together(ranks: Ranks) -> None:
    """Wait until all ranks are here."""
    if ranks.world > 1:
        dist.barrier()


def agreed(value: int, ranks: Ranks) -> int:
    """What rank 0 says."""
    if ranks.world == 1:
        return value
    device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    told = torch.tensor([value], device=device)
    dist.broadcast(told, src=0)
    return int(told.item())
