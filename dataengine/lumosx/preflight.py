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
from dataengine.lumosx.codec import SPACE_STRIDE, Codec, latent_frames
from dataengine.lumosx.components import best_device, model_config, open_codec
from dataengine.lumosx.data import Example, ExampleMaker, Refused, bind
from dataengine.lumosx.dry_run import STEPS, Measured, dry_run
from dataengine.lumosx.order import Curriculum, OrderError, Size, Traits, buckets, sizes
from dataengine.lumosx.settings import TrainSettings
from dataengine.lumosx.stored import NotStored, StoredLatents, latent_id, stored_text
from dataengine.lumosx.structure import Kind, SampleStructure, StructureError
from dataengine.lumosx.structure import Reference as BoundReference
from dataengine.lumosx.text import PhraseError, TextEncoder
from dataengine.lumosx.transformer import DiTConfig, token_grid
from dataengine.lumosx.weights import WeightsError
from dataengine.lumosx.windows import run_windows
from dataengine.records import Pair
from dataengine.shards.index import read_member
from dataengine.shards.reader import PairDataset
from dataengine.shards.validate import Validation, validate
from dataengine.store import Store
from dataengine.weights import MissingWeightsError

DECODED = 8
"""Samples that are decoded, beside those that the steps are taken with."""
QUICK_S = 60.0
"""A check stays quick: steps that would take longer by the estimate are not taken."""
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
    data: str,
    run: Path,
    settings: TrainSettings,
    world: int = 1,
    tell: Callable[[Finding], None] | None = None,
    *,
    every_clip: bool = False,
) -> list[Finding]:
    """Check a run that `train` would start. Nothing is written.

    Args:
        world: ranks that will train.
        tell: called with each finding as soon as it is there: reading all shards takes a while.
        every_clip: decode all samples as training would, not a few.

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
    device = best_device()
    try:
        codec, text = open_codec(settings.codec, device), stored_text(settings, device)
    except (MissingWeightsError, NotStored) as error:
        add(Finding(False, "codec and text encoder", str(error)))
        return found
    add(Finding(True, "codec and text encoder", f"{settings.codec.name}, {settings.text.name}"))
    config = model_config(settings.model, text.dim, settings.text.max_tokens)
    add(*_order(samples, settings, world), _lengths(samples, settings))
    finding, references = _phrases(samples, text, settings)
    add(finding)
    if settings.stored.place is not None:
        add(_stored(samples, settings, world))
    finding, examples = _clips(samples, references, settings, every_clip)
    add(finding)
    cost = budget(config, settings, [_largest(config, settings, max(references))] * settings.batch, world)
    rate = measured_rate(settings)
    measured: Measured | str = "no sample of the largest size could be decoded"
    if examples:
        measured = _try(examples, config, settings, codec, text, cost, rate, world)
    add(*_takes(cost, measured, settings, rate, world), _disk(cost, settings, run))
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


def _phrases(samples: PairDataset, text: TextEncoder, settings: TrainSettings) -> tuple[Finding, list[int]]:
    """Every phrase has tokens within the limit, every sample a structure; also how many references each has."""

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
    counts = [count for _, count in looked]
    if problems:
        return Finding(False, "phrases", f"{len(problems)} of {len(samples)} samples: {_listed(problems)}"), counts
    return Finding(
        True, "phrases", f"all have tokens of {settings.text.name}; at most {max(counts)} references a sample"
    ), counts


def _stored(samples: PairDataset, settings: TrainSettings, world: int) -> Finding:
    """How much of what the run reads is stored; the rest is encoded on line, so nothing here stops a run but none."""
    try:
        stored = StoredLatents.of(settings)
    except NotStored as error:
        return Finding(False, "stored latents", f"{error}: run `dataengine cache latents` with these settings")
    assert stored is not None
    clips = [row.member("mp4").sha256 for row in samples.index]
    ids: dict[tuple[Size, bool], set[str]] = {}
    for window in run_windows(samples.index, settings, settings.batch * settings.accumulate * world):
        entry = latent_id(clips[window.sample], window.start_s)
        ids.setdefault((window.size, window.mirrored), set()).add(entry)
    wanted = sum(map(len, ids.values()))
    there = sum(int(stored.has(*variant, sorted(entries)).sum()) for variant, entries in ids.items())
    return Finding(True, "stored latents", f"{there} of the {wanted} windows of the run; others are encoded on line")


def _clips(
    samples: PairDataset, references: Sequence[int], settings: TrainSettings, every: bool
) -> tuple[Finding, list[Example]]:
    """Decodes samples as training will. Also examples of the largest size, those with most references: a step's worth.

    Those and a few others, evenly spread; or all.
    """
    offered, chosen = sizes(settings.data), buckets(Traits.of(samples.index), settings.data)
    largest = _largest_size(settings)
    heaviest = sorted(np.flatnonzero(chosen == offered.index(largest)).tolist(), key=lambda n: -references[n])
    heaviest = heaviest[: settings.batch * settings.accumulate]
    spread = range(len(samples)) if every else (len(samples) * k // DECODED for k in range(DECODED))
    # On line, without references dropped: the most that a step can be.
    data = settings.data.model_copy(update={"cache_mb": 0, "body_share": 0.0, "reference_dropout": 0.0})
    maker = ExampleMaker(samples, data, settings.seed)
    with ThreadPoolExecutor(2) as pool:
        numbers = sorted({*spread, *heaviest})
        made = dict(zip(numbers, pool.map(lambda n: maker.make(n, 0, n, offered[chosen[n]]), numbers), strict=True))
    refused = [f"{one.key}: {one.reason}" for one in made.values() if isinstance(one, Refused)]
    examples = [one for n in heaviest if isinstance(one := made[n], Example)]
    if refused:
        return Finding(False, "clips", f"{len(refused)} of {len(made)} that were decoded: {_listed(refused)}"), examples
    of = "" if len(made) == len(samples) else f" of {len(samples)}, with --every-clip all"
    return Finding(True, "clips", f"{len(made)} samples decoded as training does{of}"), examples


def _largest_size(settings: TrainSettings) -> Size:
    return max(sizes(settings.data), key=lambda size: size.height * size.width * latent_frames(size.frames))


def _largest(config: DiTConfig, settings: TrainSettings, references: int) -> SampleStructure:
    size = _largest_size(settings)
    grid = token_grid((size.height // SPACE_STRIDE, size.width // SPACE_STRIDE), config.patch)
    return SampleStructure(latent_frames(size.frames), grid, (BoundReference(Kind.OBJECT),) * references)


def _try(
    examples: Sequence[Example], config: DiTConfig, settings: TrainSettings, codec: Codec, text: TextEncoder,
    cost: Budget, rate: float, world: int,
) -> Measured | str:  # fmt: skip
    """Real steps, or why there are none."""
    if world > 1:
        return f"weights are split over {world} ranks, and this is one process"
    if cost.memory_bytes > _room(world):
        return "they would not fit"
    if STEPS * cost.step_flops / (rate * _EFFICIENCY) > QUICK_S:
        return f"they would take more than {QUICK_S:g} s"
    try:
        return dry_run(examples, config, settings, codec, text, best_device())
    except torch.OutOfMemoryError as error:
        return f"out of memory: {str(error).splitlines()[0]}"
    except (WeightsError, OSError) as error:
        return f"model.init: {error}"


def _takes(cost: Budget, measured: Measured | str, settings: TrainSettings, rate: float, world: int) -> list[Finding]:
    """Memory and seconds: by real steps where some were taken, else by the estimate, which then says so."""
    room = _room(world)
    of = "the GPU" if best_device().type == "cuda" else "free memory"
    estimate = (
        f"about {_gb(cost.memory_bytes)} a rank: {_gb(cost.state_bytes)} of weights and optimizer, "
        f"{_gb(cost.activation_bytes)} of activations; {_gb(room)} of {of}"
    )
    advice = ": more ranks, model.checkpointing=keep_attention, optimizer.kind=adamw8bit, or a smaller batch"
    failed = isinstance(measured, str) and measured.startswith(("out of memory", "model.init"))
    fits = cost.memory_bytes <= 0.95 * room and not failed
    if isinstance(measured, str):
        seconds = cost.step_flops / (rate * _EFFICIENCY)
        time_told = (
            f"about {seconds:.2g} s a step, {settings.steps * seconds / 3600:.2g} h in all, estimated: "
            f"{cost.step_flops / 1e12:.3g} TFLOP a step at {_EFFICIENCY:.0%} of the {rate / 1e12:.3g} TFLOP/s that "
            f"matrix products reach here. No steps were taken: {measured}"
        )
        told = estimate + (f". {measured}" if failed else "") + ("" if fits else advice)
        return [Finding(fits, "memory", told), Finding(True, "time", time_told)]
    peak = f"{_gb(measured.peak_bytes)} at most in {STEPS} real steps of {measured.tokens} tokens a sample; estimated "
    rated = cost.step_flops / measured.seconds
    time_told = (
        f"{measured.seconds:.2g} s a step, {settings.steps * measured.seconds / 3600:.2g} h in all, by real steps "
        f"without loading: {rated / 1e12:.3g} TFLOP/s, {rated / rate:.0%} of what matrix products reach here"
    )
    if not measured.finite:
        return [
            Finding(fits, "memory", peak + estimate),
            Finding(False, "time", time_told + ". Their loss or gradient was not finite: look at model.init and codec"),
        ]
    return [Finding(fits, "memory", peak + estimate), Finding(True, "time", time_told)]


def _room(world: int) -> float:
    """Bytes a rank has."""
    device = best_device()
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    import psutil

    return psutil.virtual_memory().available / world


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
