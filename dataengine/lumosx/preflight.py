"""Looks at everything that could stop a run, before anything trains."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from dataengine.lumosx.budget import Budget, budget
from dataengine.lumosx.codec import SPACE_STRIDE, latent_frames
from dataengine.lumosx.components import best_device, model_config, open_codec, open_text
from dataengine.lumosx.data import bind
from dataengine.lumosx.order import Curriculum, OrderError, Traits, buckets, sizes
from dataengine.lumosx.settings import TrainSettings
from dataengine.lumosx.structure import Kind, SampleStructure, StructureError
from dataengine.lumosx.structure import Reference as BoundReference
from dataengine.lumosx.text import PhraseError, TextEncoder
from dataengine.lumosx.transformer import DiTConfig, token_grid
from dataengine.records import Pair
from dataengine.shards.index import read_member
from dataengine.shards.reader import PairDataset
from dataengine.shards.validate import Validation, validate
from dataengine.store import Store
from dataengine.weights import MissingWeightsError

NAMED = 5
"""Samples named in full in a finding; the rest are counted."""

_EFFICIENCY = 0.5  # of the matrix products' rate that a step reaches, as aimed at on a GPU


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        ok: False: the run would fail, or train on less than it seems.
        what, told: the question and its answer, with what to do if it is not ok.
    """

    ok: bool
    what: str
    told: str


def preflight(
    data: str, run: Path, settings: TrainSettings, world: int = 1, tell: Callable[[Finding], None] | None = None
) -> list[Finding]:
    """Check a run that `train` would start. Nothing is written, and the model is not built.

    Args:
        world: ranks that will train.
        tell: called with each finding as soon as it is there: reading all shards takes a while.

    Raises:
        StoreError: there is no dataset at all.
    """
    found: list[Finding] = []

    def add(*findings: Finding) -> None:
        for finding in findings:
            found.append(finding)
            if tell is not None:
                tell(finding)

    store = Store.at(data)
    samples, held_out = PairDataset(store, "train"), PairDataset(store, "val")
    add(_samples(samples, held_out))
    if not len(samples):
        return found
    add(_shards(store))
    try:
        text = open_text(settings.text, "cpu")
        open_codec(settings.codec, "cpu")
    except MissingWeightsError as error:
        add(Finding(False, "codec and text encoder", str(error)))
        return found
    add(Finding(True, "codec and text encoder", f"{settings.codec.name}, {settings.text.name}"))
    config = model_config(settings.model, text.dim, settings.text.max_tokens)
    add(*_order(samples, settings, world), _lengths(samples, settings))
    finding, references = _phrases(samples, text, settings)
    add(finding)
    add(*_costs(config, settings, references, run, world))
    return found


def _samples(samples: PairDataset, held_out: PairDataset) -> Finding:
    if not len(samples):
        return Finding(
            False, "samples", "none in the train split: build from more videos, or lower decide.pairs.val_share"
        )
    subjects, counts = np.unique(samples.index.table["subjects"].to_numpy(), return_counts=True)
    kinds = ", ".join(f"{count} with {number}" for number, count in zip(subjects, counts, strict=True))
    held = f"{len(held_out)} held out" if len(held_out) else "none held out: validation is on training clips alone"
    return Finding(True, "samples", f"{len(samples)} to train on (subjects: {kinds}), {held}")


def _shards(store: Store) -> Finding:
    report = validate(store, Validation("images"), workers=8)
    told = f"{report.shards} shards, {report.bytes / 1e6:.0f} MB read and equal to their hashes"
    if report.ok:
        return Finding(True, "shards", told)
    return Finding(False, "shards", _listed([str(finding) for finding in report.findings]))


def _order(samples: PairDataset, settings: TrainSettings, world: int) -> list[Finding]:
    per_step = settings.batch * settings.accumulate * world
    try:
        Curriculum(Traits.of(samples.index), settings.data, per_step, settings.seed)
    except OrderError as error:
        return [Finding(False, "mixture", str(error))]
    epochs = settings.steps * per_step / len(samples)
    return [Finding(True, "mixture", f"{per_step} samples a step, {settings.steps} steps: {epochs:.1f} epochs")]


def _lengths(samples: PairDataset, settings: TrainSettings) -> Finding:
    traits = Traits.of(samples.index)
    offered = sizes(settings.data)
    chosen = buckets(traits, settings.data)
    # As `read_window`: the last frame may be held for less than a frame; clips have 16 fps or more.
    needed = np.array([(size.frames - 1) / settings.data.fps for size in offered])[chosen] - 1 / 16
    short = np.flatnonzero(traits.seconds < needed)
    if len(short):
        keys = samples.index.table["key"].take(short[:NAMED]).to_pylist()
        return Finding(
            False,
            "clip lengths",
            f"{len(short)} of {len(samples)} clips are too short and would be refused ({', '.join(keys)}…): lower "
            "data.frames, or add a bucket of fewer frames",
        )
    counts = [f"{(chosen == n).sum()} at {s.height}×{s.width}×{s.frames}" for n, s in enumerate(offered)]
    return Finding(True, "clip lengths", ", ".join(counts))


def _phrases(samples: PairDataset, text: TextEncoder, settings: TrainSettings) -> tuple[Finding, int]:
    """Every phrase has tokens within the limit, every sample a structure; also the most references of a sample."""

    def look(position: int) -> tuple[str | None, int]:
        row = samples.index[position]
        pair = Pair.from_json(read_member(samples.out, row, "json"))
        most, tokens = 0, text.tokens(pair.caption)
        for bodies in (False, True):
            bindings, groups = bind(pair, bodies=bodies)
            most = max(most, len(bindings))
            try:
                bound = [BoundReference(b.kind, tokens.positions(b.span), b.group) for b in bindings]
                SampleStructure(1, (1, 1), tuple(bound), groups).phrase_coefficients(settings.text.max_tokens)
            except (PhraseError, StructureError) as error:
                return f"{pair.key}: {error}", most
        return None, most

    with ThreadPoolExecutor(8) as pool:
        looked = list(pool.map(look, range(len(samples))))
    problems = [problem for problem, _ in looked if problem is not None]
    most = max(count for _, count in looked)
    if problems:
        return Finding(False, "phrases", f"{len(problems)} of {len(samples)} samples: {_listed(problems)}"), most
    return Finding(
        True, "phrases", f"all have tokens of {settings.text.name}; at most {most} references a sample"
    ), most


def _costs(config: DiTConfig, settings: TrainSettings, references: int, run: Path, world: int) -> list[Finding]:
    largest = max(sizes(settings.data), key=lambda size: size.height * size.width * latent_frames(size.frames))
    grid = token_grid((largest.height // SPACE_STRIDE, largest.width // SPACE_STRIDE), config.patch)
    alone = (BoundReference(Kind.OBJECT),) * references
    structure = SampleStructure(latent_frames(largest.frames), grid, alone)
    cost = budget(config, settings, [structure] * settings.batch, world)
    return [_memory(cost, structure, world), _seconds(cost, settings), _disk(cost, settings, run)]


def _memory(cost: Budget, structure: SampleStructure, world: int) -> Finding:
    device = best_device()
    if device.type == "cuda":
        room, of = torch.cuda.get_device_properties(device).total_memory, "the GPU"
    else:
        import psutil

        room, of = psutil.virtual_memory().available // world, "free memory"
    told = (
        f"about {_gb(cost.memory_bytes)} a rank: {_gb(cost.state_bytes)} of weights and optimizer, "
        f"{_gb(cost.activation_bytes)} of activations at {structure.tokens} tokens; {_gb(room)} of {of}"
    )
    if cost.memory_bytes > 0.95 * room:
        return Finding(False, "memory", told + ": more ranks, model.checkpointing=keep_attention, or a smaller batch")
    return Finding(True, "memory", told)


def _seconds(cost: Budget, settings: TrainSettings) -> Finding:
    rate = measured_rate(settings)
    seconds = cost.step_flops / (rate * _EFFICIENCY)
    return Finding(
        True,
        "time",
        f"about {seconds:.2g} s a step, {settings.steps * seconds / 3600:.2g} h in all: {cost.step_flops / 1e12:.3g} "
        f"TFLOP a step at {_EFFICIENCY:.0%} of the {rate / 1e12:.3g} TFLOP/s that matrix products reach here",
    )


def _disk(cost: Budget, settings: TrainSettings, run: Path) -> Finding:
    there = next(folder for folder in (run.absolute(), *run.absolute().parents) if folder.exists())
    free = shutil.disk_usage(there).free
    needed = (settings.checkpoint.keep + 1) * cost.checkpoint_bytes  # the new one is whole before an old one goes
    told = (
        f"{_gb(needed)} for {settings.checkpoint.keep} checkpoints and one being written; {_gb(free)} free at {there}"
    )
    return Finding(
        needed < free, "disk", told if needed < free else told + ": lower checkpoint.keep, or train elsewhere"
    )


def measured_rate(settings: TrainSettings) -> float:
    """FLOP/s of a large matrix product on this device, in the compute type."""
    device = best_device()
    kind = torch.bfloat16 if settings.precision == "bf16" else torch.float32
    size = 8192 if device.type == "cuda" else 512
    left, right = (torch.randn(size, size, device=device, dtype=kind) for _ in range(2))
    best = 0.0
    for _ in range(5):
        started = time.perf_counter()
        (left @ right)[0, 0].item()  # waits for the device
        best = max(best, 2 * size**3 / (time.perf_counter() - started))
    return best


def _listed(problems: Sequence[str]) -> str:
    return "; ".join(problems[:NAMED]) + (f"; and {len(problems) - NAMED} more" if len(problems) > NAMED else "")


def _gb(count: float) -> str:
    return f"{count / 1e9:.3g} GB"
