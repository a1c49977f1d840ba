"""Fast path of the LumosX DiT against the released way, on a CPU: time, and memory beyond weights and inputs.

`make bench-lumosx` or `python tests/bench/lumosx_cpu.py`. The baseline is `reference.py`, which computes the same
result the way the published code does: a full-length bias tensor, RoPE in complex128 anew in every layer, and CSAM
either as one attention call per range of queries or with a dense mask. Forms take turns, so that a busy machine slows
all alike; each form's best round counts. Memory is measured in a fresh process per form: the peak of what is resident.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dataengine.lumosx import reference
from dataengine.lumosx.structure import Kind, Reference, SampleStructure
from dataengine.lumosx.transformer import DiT, DiTConfig

FORMS = ("fast", "ranges", "mask")
NAMES = {"fast": "fast path", "ranges": "released, per range", "mask": "released, dense mask"}


@dataclass(frozen=True)
class Setting:
    """The model and the one sample that every form runs."""

    model: DiT
    structure: SampleStructure
    latent: Tensor
    references: Tensor
    context: Tensor
    timestep: Tensor

    @classmethod
    def build(cls, frames: int = 5, grid: tuple[int, int] = (16, 28)) -> Setting:
        """dim 384, 6 heads, 2 layers, Wan's ffn ratio; 5x16x28 video tokens; 2 x (face + 2), background, 2 objects."""
        torch.manual_seed(0)
        config = DiTConfig(dim=384, ffn_dim=2240, heads=6, layers=2, text_dim=384, cell_map="released")
        alone = [Reference(Kind.BACKGROUND, (40, 41)), Reference(Kind.OBJECT, (30,)), Reference(Kind.OBJECT, (33, 34))]
        groups = [
            Reference(Kind.FACE if member == 0 else Kind.ATTRIBUTE, (10 * group + 2 * member + 1,), group)
            for group in range(2)
            for member in range(3)
        ]
        structure = SampleStructure(frames, grid, (*alone, *groups), group_count=2)
        return cls(
            DiT(config),
            structure,
            torch.randn(16, frames, 2 * grid[0], 2 * grid[1]),
            torch.randn(16, len(structure.references), 2 * grid[0], 2 * grid[1]),
            torch.randn(512, 384),
            torch.tensor([500]),
        )

    def velocity(self, form: str) -> Tensor:
        """[16, 5, 32, 56] by one of `FORMS`; the fast path's layout is built anew, as in a training step."""
        if form == "fast":
            layout = self.model.layout([self.structure])
            return self.model([self.latent], [self.references], [self.context], self.timestep, layout)[0]
        out = reference.velocity(
            dict(self.model.named_parameters()),
            self.model.config,
            self.structure,
            self.latent,
            self.references,
            self.context,
            self.timestep,
            form="ranges" if form == "ranges" else "mask",
        )
        return out[:, : self.structure.frames]

    def run(self, form: str, train: bool) -> None:
        """One forward without gradients, or a forward and a backward."""
        if train:
            self.velocity(form).square().mean().backward()
            self.model.zero_grad(set_to_none=True)
        else:
            with torch.no_grad():
                self.velocity(form)


def best_seconds(setting: Setting, train: bool, rounds: int) -> dict[str, float]:
    """Best processor time of each form over `rounds` rounds; on one thread that is an idle machine's wall time."""
    seconds = {form: float("inf") for form in FORMS}
    for _ in range(rounds):
        for form in FORMS:
            begin = time.process_time()
            setting.run(form, train)
            seconds[form] = min(seconds[form], time.process_time() - begin)
    return seconds


def peak_bytes(work: Callable[[], None]) -> int:
    """Peak of this process's resident memory during `work`, beyond what it held before (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = _status("VmRSS")
    work()
    return _status("VmHWM") - before


def extra_memory(train: bool) -> dict[str, int]:
    """Peak memory of each form beyond weights and inputs, each in a process of its own."""
    result = {}
    for form in FORMS:
        command = [sys.executable, __file__, "--peak", form, *(["--train"] if train else [])]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        result[form] = json.loads(done.stdout)["peak"]
    return result


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"no {field} in /proc/self/status: memory is measured on Linux only")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="rounds of timing; the best of each form counts")
    parser.add_argument("--peak", choices=FORMS, help=argparse.SUPPRESS)
    parser.add_argument("--train", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    setting = Setting.build()
    if options.peak:
        Setting.build(1, (1, 1)).run(options.peak, options.train)  # loads code and buffers that are no part of the form
        print(json.dumps({"peak": peak_bytes(lambda: setting.run(options.peak, options.train))}))
        return

    tokens, video = setting.structure.tokens, setting.structure.video_tokens
    print(
        f"LumosX DiT, dim 384, 6 heads, 2 layers, {tokens} tokens ({video} video), float32, torch {torch.__version__}"
    )
    with torch.no_grad():
        results = {form: setting.velocity(form) for form in FORMS}
    worst = max((results[form] - results["fast"]).abs().max().item() for form in FORMS)
    print(f"largest difference between the forms: {worst:.1e}\n")
    print(f"{'':20}{'':22}{'seconds':>9}{'fast is':>11}{'extra MB':>10}{'fast has':>11}")
    for title, train in (("forward", False), ("forward + backward", True)):
        seconds, extra = best_seconds(setting, train, options.rounds), extra_memory(train)
        for form in FORMS:
            line = f"{title if form == 'fast' else '':20}{NAMES[form]:22}{seconds[form]:9.2f}"
            faster = "" if form == "fast" else f"{seconds[form] / seconds['fast']:.2f} x"
            share = "" if form == "fast" else f"{extra['fast'] / extra[form]:.2f} x"
            print(f"{line}{faster:>11}{extra[form] / 1e6:10.0f}{share:>11}")
    print("\ntargets: time ≥ 1.5 x per range, ≥ 2.2 x dense mask; memory ≤ 0.4 x")


if __name__ == "__main__":
    main()
