"""One sequence over two ranks: outputs and gradients are those of one rank, for ragged batches and every structure,
whatever is recomputed."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from dataengine.lumosx.distributed import Ranks
from dataengine.lumosx.sequence import parallel_forward
from dataengine.lumosx.structure import Kind, Reference, SampleStructure
from dataengine.lumosx.transformer import Checkpointing, DiT, DiTConfig

CONFIG = DiTConfig(
    dim=32, ffn_dim=48, heads=4, layers=3, in_channels=4, out_channels=4, text_dim=8, text_len=12, freq_dim=16
)
FACES = SampleStructure(
    frames=2,
    grid=(5, 9),
    references=(
        Reference(Kind.BACKGROUND, (10, 11)), Reference(Kind.OBJECT, (8,)),
        Reference(Kind.FACE, (1,), 0), Reference(Kind.ATTRIBUTE, (3, 4), 0),
        Reference(Kind.FACE, (2,), 1), Reference(Kind.ATTRIBUTE, (5, 7), 1), Reference(Kind.ATTRIBUTE, (6,), 1),
    ),
    group_count=2,
)  # fmt: skip
PLAIN = SampleStructure(frames=3, grid=(4, 3))
# So that a rank ends inside a sample, between two, or holds no video row at all.
BATCHES = ([FACES], [FACES, PLAIN], [PLAIN, FACES, FACES], [SampleStructure(1, (1, 1), FACES.references, 2)])


def model(checkpointing: Checkpointing = "none") -> DiT:
    torch.manual_seed(3)
    made = DiT(CONFIG, checkpointing=checkpointing)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made


def inputs(structures: list[SampleStructure]) -> tuple:
    drawn = torch.Generator().manual_seed(5)
    sides = [(2 * s.grid[0], 2 * s.grid[1]) for s in structures]
    counts = [len(s.references) for s in structures]
    latents = [torch.randn(4, s.frames, *side, generator=drawn) for s, side in zip(structures, sides, strict=True)]
    clean = [torch.randn(4, n, *side, generator=drawn) if n else None for n, side in zip(counts, sides, strict=True)]
    context = [torch.randn(12, 8, generator=drawn) for _ in structures]
    return latents, clean, context, torch.arange(len(structures)) * 300 + 50


def run(rank: int, port: int) -> None:
    """What each process does; an assertion that fails ends it with an error."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    kept: tuple[Checkpointing, ...] = ("none", "full", "keep_attention", "none")
    for structures, checkpointing in zip(BATCHES, kept, strict=True):
        arguments = inputs(structures)
        alone, shared = model(), model(checkpointing)
        layout = alone.layout(structures)
        expected = alone(*arguments, layout)
        found = parallel_forward(shared, *arguments, layout, Ranks.here())
        for left, right in zip(found, expected, strict=True):
            torch.testing.assert_close(left, right, atol=2e-5, rtol=0)
        for output in (expected, found):
            sum((one * one).mean() for one in output).backward()
        for (name, left), right in zip(shared.named_parameters(), alone.parameters(), strict=True):
            gradient = torch.zeros_like(left) if left.grad is None else left.grad
            dist.all_reduce(gradient)
            torch.testing.assert_close(gradient, right.grad, atol=5e-5, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}")
    if rank == 0:
        odd = DiT(DiTConfig(dim=30, ffn_dim=8, heads=3, layers=1))
        with pytest.raises(ValueError, match="3 heads cannot be shared by 2 ranks"):
            parallel_forward(odd, [], [], [], torch.zeros(0), layout, Ranks.here())
    dist.destroy_process_group()


def test_two_ranks_compute_as_one() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    sys.path.insert(0, str(Path(__file__).parent))  # the children import this file by its name
    try:
        mp.spawn(run, args=(port,), nprocs=2)
    finally:
        sys.path.pop(0)
