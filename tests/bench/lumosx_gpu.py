"""The 1.3B LumosX DiT on one GPU: seconds a training sample, MFU, memory, seconds a sampling step, and where time goes.

`python tests/bench/lumosx_gpu.py` on a plain checkout; it needs torch, triton and safetensors alone. One sample is
480x832x81 with 8 references (groups of 3 and 3, 2 singles): 45,240 tokens. Full fine-tune: float32 masters, bfloat16
compute, AdamW. `--tiny` runs the same code in seconds on a CPU, to check the script itself.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

sys.path.insert(0, str(Path(__file__).parents[2]))  # a plain checkout on a bare machine: nothing is installed

from dataengine.lumosx.attention import attend
from dataengine.lumosx.layout import Layout
from dataengine.lumosx.objective import model_timesteps, noised, sample_losses
from dataengine.lumosx.structure import Kind, Reference, SampleStructure
from dataengine.lumosx.transformer import PRESETS, Checkpointing, DiT, DiTConfig

BACKENDS = {"cudnn": SDPBackend.CUDNN_ATTENTION, "flash": SDPBackend.FLASH_ATTENTION}
FALLBACKS = [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]  # for shapes a backend refuses; order is preference


@dataclass(frozen=True)
class Task:
    """A model with one sample on a device."""

    model: DiT
    layout: Layout
    latent: Tensor
    references: Tensor
    context: Tensor
    timestep: Tensor

    @classmethod
    def build(cls, config: DiTConfig, frames: int, grid: tuple[int, int], device: torch.device) -> Task:
        """Random weights (so that no gradient vanishes), random sample, two subjects of 3 and 2 singles."""
        torch.manual_seed(0)
        with device:
            model = DiT(config)
            members = [
                Reference(Kind.FACE if member == 0 else Kind.ATTRIBUTE, (10 + 3 * group + member,), group)
                for group in range(2)
                for member in range(3)
            ]
            alone = [Reference(Kind.BACKGROUND, (1, 2)), Reference(Kind.OBJECT, (4,))]
            structure = SampleStructure(frames, grid, (*alone, *members), group_count=2)
            hw = (2 * grid[0], 2 * grid[1])
            return cls(
                model,
                model.layout([structure], device),
                torch.randn(config.in_channels, frames, *hw),
                torch.randn(config.in_channels, len(structure.references), *hw),
                torch.randn(config.text_len, config.text_dim),
                torch.tensor([500.5]),
            )

    def velocity(self, latent: Tensor) -> Tensor:
        """One forward under bfloat16 autocast."""
        with torch.autocast(latent.device.type, torch.bfloat16):
            timesteps = model_timesteps(self.timestep)
            return self.model([latent], [self.references], [self.context], timesteps, self.layout)[0]

    def forward_flops(self) -> float:
        """FLOPs of a forward that skips nothing: 400 TFLOP at full size, three times that for a training step."""
        config, structure = self.model.config, self.layout.structures[0]
        tokens = structure.tokens
        linear = 2 * tokens * config.dim * (6 * config.dim + 2 * config.ffn_dim)  # text keys and values are negligible
        pairs = structure.video_tokens * tokens + tokens * config.text_len
        pairs += sum((segment.count * structure.frame_tokens) ** 2 for segment in structure.segments)
        return config.layers * (linear + 4 * pairs * config.dim)


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(work: Callable[[], object], device: torch.device, rounds: int) -> float:
    """Median wall time of `work` after one warm-up."""
    work()
    times = []
    for _ in range(rounds):
        synchronize(device)
        begin = time.perf_counter()
        work()
        synchronize(device)
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


@contextlib.contextmanager
def backend(name: str, device: torch.device) -> Iterator[None]:
    """Prefer one SDPA backend on a GPU; a CPU has no choice."""
    if device.type != "cuda":
        yield
        return
    with sdpa_kernel([BACKENDS[name], *FALLBACKS], set_priority=True):
        yield


def matmul_ceiling(device: torch.device, size: int) -> float:
    """Measured bfloat16 matmul rate, FLOP/s: what the hardware gives in practice."""
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    return 2 * size**3 / seconds_of(lambda: a @ b, device, 5)


def attention_rates(task: Task, device: torch.device) -> tuple[float, float]:
    """FLOP/s of the dense CSAM call alone: forward, and backward."""
    config, structure = task.model.config, task.layout.structures[0]
    rows = {"q": structure.video_tokens, "k": structure.tokens, "v": structure.tokens}
    q, k, v = (
        torch.randn(count, config.heads, config.head_dim, device=device, dtype=torch.bfloat16, requires_grad=True)
        for count in rows.values()
    )
    flops = 4 * rows["q"] * rows["k"] * config.dim
    forward = seconds_of(lambda: attend(q, k, v), device, 3)
    out = attend(q, k, v)
    weight = torch.randn_like(out)
    backward = seconds_of(lambda: torch.autograd.grad(out, (q, k, v), weight, retain_graph=True), device, 3)
    return flops / forward, 2.5 * flops / backward


def train_step(task: Task, optimizer: torch.optim.Optimizer) -> None:
    """Noise, forward, loss, backward, clip, AdamW: one full fine-tuning step on one sample."""
    noise = torch.randn_like(task.latent)
    prediction = task.velocity(noised(task.latent, noise, task.timestep[0]))
    sample_losses([prediction], [task.latent], [noise]).mean().backward()
    torch.nn.utils.clip_grad_norm_(task.model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def sample_step(task: Task) -> None:
    """One velocity without gradients; guidance needs two of them a step."""
    with torch.no_grad():
        task.velocity(task.latent)


def profile_table(work: Callable[[], object], device: torch.device, rows: int = 15) -> str:
    """Where the time of one run goes, by kernel."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profile:
        work()
        synchronize(device)
    key = "self_cuda_time_total" if device.type == "cuda" else "self_cpu_time_total"
    return profile.key_averages().table(sort_by=key, row_limit=rows, max_name_column_width=60)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="a toy size, on the CPU if there is no GPU")
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=list(BACKENDS))
    parser.add_argument("--checkpointing", nargs="+", default=["keep_attention"], help="modes of DiT.checkpointing")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--compile", action="store_true", help="compile each block (one structure, static shapes)")
    parser.add_argument("--profile", action="store_true", help="also print the kernels of one training step")
    options = parser.parse_args()
    if not options.tiny and not torch.cuda.is_available():
        parser.error("no GPU: use --tiny to check the script on a CPU")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    config = PRESETS["lumosx-1.3b"]
    frames, grid, size = 21, (30, 52), 8192
    if options.tiny:
        config = replace(config, dim=64, ffn_dim=128, heads=2, layers=2, text_dim=32, text_len=32)
        frames, grid, size = 2, (3, 5), 256
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"{name}, torch {torch.__version__}")

    ceiling = matmul_ceiling(device, size)
    print(f"matmul ceiling (bfloat16, {size}³): {ceiling / 1e12:.1f} TFLOP/s")
    task = Task.build(config, frames, grid, device)
    structure, flops = task.layout.structures[0], task.forward_flops()
    print(
        f"{sum(p.numel() for p in task.model.parameters()) / 1e9:.3f} B parameters, {structure.tokens:,} tokens, "
        f"{flops / 1e12:.1f} TFLOP a forward, {3 * flops / 1e15:.2f} PFLOP a training step"
    )
    if options.compile:
        for block in task.model.blocks:
            block.compile(dynamic=False)
    for name in options.backends:
        with backend(name, device):
            forward, backward = attention_rates(task, device)
            print(f"{name}: dense attention {forward / 1e12:.1f} TFLOP/s forward, {backward / 1e12:.1f} backward")
            step = seconds_of(lambda: sample_step(task), device, options.rounds)
            rate = flops / step
            print(
                f"{name}: sampling {step:.3f} s a velocity, {2 * step:.3f} s a guided step, {rate / 1e12:.1f} TFLOP/s"
            )
            optimizer = torch.optim.AdamW(task.model.parameters(), lr=1e-5, fused=device.type == "cuda")
            for mode in options.checkpointing:
                task.model.checkpointing = cast(Checkpointing, mode)
                if device.type == "cuda":
                    torch.cuda.reset_peak_memory_stats(device)
                step = seconds_of(lambda optimizer=optimizer: train_step(task, optimizer), device, options.rounds)
                rate = 3 * flops / step
                peak = torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else float("nan")
                print(
                    f"{name}, {mode}: {step:.3f} s a sample, {rate / 1e12:.1f} TFLOP/s = {rate / 989e12:.1%} of an "
                    f"H100's 989 and {rate / ceiling:.1%} of the ceiling, peak memory {peak:.1f} GB"
                )
            if options.profile:
                print(profile_table(lambda optimizer=optimizer: train_step(task, optimizer), device))
            del optimizer


if __name__ == "__main__":
    main()
