"""`python -m dataengine.lumosx.parity DIR`: does this model still compute what the released one computed?

DIR holds `weights.safetensors`, its configuration `weights.json`, and any number of fixtures `NAME.json` with their
tensors in `NAME.safetensors`. `case*` is one sample with the released output; `quirk*` is a batch the released code
gets wrong, with the right velocity of each sample run alone. Every case is run by the fast path and by the reference.
"""

from __future__ import annotations

import argparse
import functools
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from dataengine.lumosx import reference
from dataengine.lumosx.sampler import Schedule, guided, sample
from dataengine.lumosx.structure import Kind, Reference, SampleStructure
from dataengine.lumosx.transformer import DiT, DiTConfig, token_grid
from dataengine.lumosx.weights import load_into, load_weights

TOLERANCE = 5e-5
SAMPLER_TOLERANCE = 1e-4

_SEPARATORS = "._/:-[] "
# Names a tensor may go by, the documented one first.
_X = ("x", "latent", "latents")
_REFERENCES = ("cond_latents", "references", "conds")
_CONTEXT = ("context",)
_TIMESTEP = ("timestep", "timesteps", "t")
_MASKS = ("text_masks", "text_mask")
_EXPECTED = ("out", "velocity")
_EXPECTED_ALONE = ("velocity_alone", "out_alone", "alone")
# What a batch may say once for all its samples, or as a list with one item per sample.
_SHARED = ("groups_counted", "empty_groups", "text_tokens", "timestep")


class FixtureError(ValueError):
    """A fixture lacks something; the message names it and what there is instead."""


@dataclass(frozen=True, slots=True)
class FixtureSample:
    """One sample of a fixture with the output it must give.

    Attributes:
        expected: [C, T, H, W], or [C, T + N, H, W] where the fixture holds the reference frames too.
    """

    structure: SampleStructure
    latent: Tensor
    references: Tensor | None
    context: Tensor
    timestep: Tensor
    expected: Tensor


@dataclass(frozen=True, slots=True)
class Agreement:
    """Largest absolute difference of each implementation from a fixture."""

    name: str
    samples: int
    fast: float
    plain: float


def load_model(directory: Path) -> DiT:
    """The fixture model, float32 on the CPU, with the released cell map."""
    config = json.loads((directory / "weights.json").read_text(encoding="utf-8"))["config"]
    model = DiT(DiTConfig.from_released(config)).eval().requires_grad_(False)
    load_into(model, load_weights(directory / "weights.safetensors"))
    return model


def load_fixture(path: Path, config: DiTConfig) -> list[FixtureSample]:
    """Read a `case*` or `quirk*` json and its tensors.

    Raises:
        FixtureError: something the json promises or the check needs is not there.
        OSError: a file is missing.
    """
    spec = json.loads(path.read_text(encoding="utf-8"))
    loaded = load_file(path.with_suffix(".safetensors"))
    entries = _sample_entries(spec, path)
    stacked = next((loaded[name] for name in _X if name in loaded and loaded[name].dim() == 5), None)
    if stacked is not None and len(entries) == 1:  # several samples of one structure
        entries = entries * len(stacked)
    tensors = _Tensors(loaded, entries)
    expected = _EXPECTED_ALONE if path.name.startswith("quirk") else _EXPECTED
    return [_read_sample(tensors, index, entry, expected, config) for index, (_, entry) in enumerate(entries)]


def check_fixture(path: Path, model: DiT) -> Agreement:
    """Run all samples of a fixture as one batch through the fast path, and one by one through the reference."""
    samples = load_fixture(path, model.config)
    layout = model.layout([one.structure for one in samples])
    batch = (
        [one.latent for one in samples],
        [one.references for one in samples],
        [one.context for one in samples],
        torch.stack([one.timestep for one in samples]),
    )
    everything = all(one.expected.shape[1] > one.structure.frames for one in samples)
    outputs = [model(*batch, layout)] + ([model(*batch, layout, with_references=True)] if everything else [])
    fast = max(_difference(got, one.expected) for run in outputs for got, one in zip(run, samples, strict=True))
    weights = model.state_dict()
    plain = max(
        _difference(
            reference.velocity(
                weights, model.config, one.structure, one.latent, one.references, one.context, one.timestep
            ),
            one.expected,
        )
        for one in samples
    )
    return Agreement(path.stem, len(samples), fast, plain)


def check_sampler(path: Path) -> Iterator[Agreement]:
    """Integrate the fixture's known velocity field; yields one agreement per number of steps.

    The field is v(z, t, k) = sin(k·z) + z·t/2000 - 1/4, with k read from the json's description.

    Raises:
        FixtureError: the json describes another field, or a tensor is missing.
    """
    spec = json.loads(path.read_text(encoding="utf-8"))
    tensors = load_file(path.with_suffix(".safetensors"))
    found = re.search(r"sin\(k z\) \+ 0\.5 z t/1000 - 0\.25.*k = ([\d.]+) conditional, ([\d.]+)", spec["velocity"])
    if found is None:
        raise FixtureError(f"{path.name}: unknown velocity field {spec['velocity']!r}")
    conditional, unconditional = float(found[1]), float(found[2])

    def field(z: Tensor, t: int) -> Tensor:
        common = 0.5 * z * t / 1000 - 0.25
        return guided(torch.sin(conditional * z) + common, torch.sin(unconditional * z) + common, spec["cfg_scale"])

    for steps, expected in spec["schedule"].items():
        name = f"steps{steps}.trajectory"
        if name not in tensors or "z0" not in tensors:
            raise FixtureError(f"{path.name}: needs tensors z0 and {name}, there are {', '.join(sorted(tensors))}")
        schedule = Schedule.flow(int(steps), spec["shift"])
        if list(schedule.timesteps) != expected["timesteps"]:
            raise FixtureError(f"{path.name}: {steps} steps give timesteps {schedule.timesteps}")
        worst = _difference(torch.tensor(schedule.sigmas), torch.tensor(expected["sigmas"]))
        trajectory: dict[int, Tensor] = {}
        sample(field, tensors["z0"], schedule, on_step=trajectory.__setitem__)
        steps_taken = torch.stack(list(trajectory.values()))
        worst = max(worst, _difference(steps_taken.view_as(tensors[name]), tensors[name]))
        yield Agreement(f"{path.stem} {steps} steps", 1, worst, worst)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line per case; 0 if all agree, 1 if one does not, cannot be read, or there is none."""
    parser = argparse.ArgumentParser(prog="python -m dataengine.lumosx.parity", description=__doc__)
    parser.add_argument("directory", type=Path, help="folder with weights.safetensors, weights.json and fixtures")
    parser.add_argument("--sampler", action="store_true", help="check sampler.json instead of the model")
    options = parser.parse_args(arguments)
    tolerance = SAMPLER_TOLERANCE if options.sampler else TOLERANCE
    model = functools.cache(lambda: load_model(options.directory))
    failures = checked = 0
    for path in _fixtures(options.directory, options.sampler):
        checked += 1
        try:
            with torch.no_grad():
                agreements = list(check_sampler(path)) if options.sampler else [check_fixture(path, model())]
        except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            sys.stdout.write(f"{path.stem}: error: {type(error).__name__}: {error}\n")
            failures += 1
            continue
        for agreement in agreements:
            # Written so that NaN fails.
            fits = agreement.fast <= tolerance and agreement.plain <= tolerance
            failures += not fits
            sys.stdout.write(
                f"{agreement.name}: fast {agreement.fast:.2e}, reference {agreement.plain:.2e}, "
                f"samples {agreement.samples}: {'ok' if fits else f'DIFFERS by more than {tolerance:.0e}'}\n"
            )
    if not checked:
        wanted = "sampler.json" if options.sampler else "case*.json or quirk*.json"
        sys.stdout.write(f"no {wanted} in {options.directory}\n")
    return 0 if checked and not failures else 1


def _fixtures(directory: Path, sampler: bool) -> list[Path]:
    patterns = ("sampler*.json",) if sampler else ("case*.json", "quirk*.json")
    return sorted(path for pattern in patterns for path in directory.glob(pattern))


def _difference(got: Tensor, expected: Tensor) -> float:
    """Largest absolute difference over the frames both have; NaN if either holds one."""
    if got.dim() == 4 and expected.dim() == 4:
        frames = min(got.shape[1], expected.shape[1])
        got, expected = got[:, :frames], expected[:, :frames]
    if got.shape != expected.shape:
        raise FixtureError(f"got shape {tuple(got.shape)}, the fixture has {tuple(expected.shape)}")
    return (got.double() - expected.double()).abs().max().item()


def _sample_entries(spec: Any, path: Path) -> list[tuple[str, Mapping[str, Any]]]:
    """(label, description) of each sample: the dicts that hold `conditions`, wherever they stand in the json.

    One dict with a list of conditions per sample is spread out. Samples may also be named: `"samples": ["case1_…"]`.
    """
    entries: list[tuple[str, Mapping[str, Any]]] = []

    def search(value: Any, label: str) -> None:
        if isinstance(value, Mapping):
            if isinstance(value.get("conditions"), list):
                entries.append((str(value.get("name", label)), value))
                return
            for key, item in value.items():
                search(item, str(key))
        elif isinstance(value, list):
            for index, item in enumerate(value):
                search(item, str(index))

    search(spec, "")
    named = spec.get("samples") if isinstance(spec, Mapping) else None
    if not entries and isinstance(named, list):
        for name in named:
            if isinstance(name, str) and Path(name).name == name:
                entries.append((name, json.loads((path.parent / f"{name}.json").read_text(encoding="utf-8"))))
    if not entries:
        raise FixtureError(f"{path.name}: nothing in it has a list 'conditions'")
    whole = entries[0][1]
    if len(entries) == 1 and whole["conditions"] and isinstance(whole["conditions"][0], list):
        count = len(whole["conditions"])
        return [(str(i), {key: _per_sample(value, i, count) for key, value in whole.items()}) for i in range(count)]
    shared = {key: spec[key] for key in _SHARED if key in spec}
    return [
        (label, {key: _per_sample(value, index, len(entries)) for key, value in shared.items()} | dict(entry))
        for index, (label, entry) in enumerate(entries)
    ]


def _per_sample(value: Any, index: int, count: int) -> Any:
    """The index-th item of a list with one item per sample; anything else is shared."""
    return value[index] if isinstance(value, list) and len(value) == count else value


class _Tensors:
    """Finds a sample's tensor: named in the sample's json, prefixed or suffixed by its label or index, or stacked."""

    def __init__(self, tensors: Mapping[str, Tensor], entries: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
        self.tensors = tensors
        self.entries = entries
        numbers = [number for key in tensors for base in _X if (number := _number(_affix(key, base))) is not None]
        self.first = min(numbers, default=0)  # some count samples from 1

    def find(self, names: Sequence[str], index: int, dims: int) -> Tensor | None:
        """The tensor of sample `index`, with `dims` dimensions, under the first of `names` that exists."""
        for base in names:
            tensor = self._marked(base, index)
            if tensor is not None and tensor.dim() == dims:
                return tensor
            if tensor is not None and tensor.dim() == dims + 1 and len(tensor) == 1:
                return tensor[0]
        for base in names:
            stacked = self.tensors.get(base)
            if stacked is None:
                continue
            if stacked.dim() == dims + 1:
                if index >= len(stacked):
                    raise FixtureError(f"{base} has {len(stacked)} samples, sample {index} is needed")
                return stacked[index]
            if stacked.dim() == dims:  # one sample, or one value for all of them
                return stacked
        return None

    def get(self, names: Sequence[str], index: int, dims: int) -> Tensor:
        """As `find`, but it must be there."""
        tensor = self.find(names, index, dims)
        if tensor is None:
            label = self.entries[index][0] or str(index)
            raise FixtureError(
                f"sample {label}: no tensor {names[0]!r} (looked for {', '.join(names)}, alone, stacked, or marked "
                f"with the sample's name or index); there are {', '.join(sorted(self.tensors))}"
            )
        return tensor

    def _marked(self, base: str, index: int) -> Tensor | None:
        label, entry = self.entries[index]
        described = entry.get("tensors")
        if isinstance(described, Mapping) and base in described:
            value = described[base]
            key = value if isinstance(value, str) else value.get("key", value.get("tensor"))
            if key in self.tensors:
                return self.tensors[key]
        for key, tensor in self.tensors.items():
            affix = _affix(key, base)
            if affix and (affix == label or _number(affix) == index + self.first):
                return tensor
        return None


def _affix(key: str, base: str) -> str | None:
    """What a key has around the name of a tensor: `sample0` of `sample0.x`, `0` of `x_0`; None without that name."""
    for rest, edge in ((key.removesuffix(base), -1), (key.removeprefix(base), 0)):
        if rest not in ("", key) and rest[edge] in _SEPARATORS:
            return rest.strip(_SEPARATORS)
    return None


def _number(affix: str | None) -> int | None:
    """The sample's number in an affix such as `0`, `s0`, `sample_0` or `samples.0`."""
    found = re.fullmatch(r"(?:s|b|samples?|batch|item)?[._/:\-\[ ]*(\d+)", affix or "", re.IGNORECASE)
    return int(found[1]) if found else None


def _read_sample(
    tensors: _Tensors, index: int, entry: Mapping[str, Any], expected: Sequence[str], config: DiTConfig
) -> FixtureSample:
    latent = tensors.get(_X, index, 4).float()
    conditions = entry["conditions"]
    references = None
    if conditions:
        references = tensors.get(_REFERENCES, index, 4).float()
        if references.shape[1] < len(conditions):
            raise FixtureError(f"sample {index}: {len(conditions)} conditions but {references.shape[1]} latents")
        references = references[:, : len(conditions)]  # a stacked batch is padded
    masks = tensors.find(_MASKS, index, 2)
    structure = SampleStructure(
        frames=latent.shape[1],
        grid=token_grid(latent.shape[-2:], config.patch),
        references=_references(conditions, entry, masks),
        group_count=_group_count(conditions, entry),
    )
    context = tensors.get(_CONTEXT, index, 2).float()
    tokens = entry.get("text_tokens")
    if isinstance(tokens, int):
        context = context[:tokens]
    return FixtureSample(
        structure, latent, references, context, _timestep(tensors, index, entry), tensors.get(expected, index, 4)
    )


def _timestep(tensors: _Tensors, index: int, entry: Mapping[str, Any]) -> Tensor:
    found = tensors.find(_TIMESTEP, index, 1)
    if found is None:
        if "timestep" not in entry:
            raise FixtureError(f"sample {index}: no timestep, neither a tensor nor in the json")
        found = torch.tensor(entry["timestep"])
    found = found.flatten()
    if len(found) not in (1, len(tensors.entries)):
        raise FixtureError(f"timestep has {len(found)} values for {len(tensors.entries)} samples")
    return found[index if len(found) > 1 else 0]


def _group_of(index: int, condition: Mapping[str, Any], entry: Mapping[str, Any]) -> Any:
    if "group" in condition:
        return condition["group"]
    for group in entry.get("groups", ()):
        if index in group["members"]:
            return group["id"]
    return None


def _references(
    conditions: Sequence[Mapping[str, Any]], entry: Mapping[str, Any], masks: Tensor | None
) -> tuple[Reference, ...]:
    """Conditions as references. Group ids are renumbered by appearance: only which are equal, and how many, matters."""
    ids: list[Any] = []
    references = []
    for index, condition in enumerate(conditions):
        group = _group_of(index, condition, entry)
        if group is not None and group not in ids:
            ids.append(group)
        if "text_positions" in condition:
            text_positions = condition["text_positions"]
        elif masks is not None:
            text_positions = masks[index].nonzero().flatten().tolist()
        else:
            raise FixtureError(f"condition {index} has no text_positions and the fixture no text_masks")
        kind = condition.get("kind")
        if kind not in list(Kind):  # a label this project does not use; the mathematics only asks for the group
            kind = Kind.OBJECT if group is None else Kind.ATTRIBUTE
        references.append(Reference(Kind(kind), tuple(text_positions), None if group is None else ids.index(group)))
    return tuple(references)


def _group_count(conditions: Sequence[Mapping[str, Any]], entry: Mapping[str, Any]) -> int:
    if "groups_counted" in entry:
        return int(entry["groups_counted"])
    groups = {_group_of(index, condition, entry) for index, condition in enumerate(conditions)} - {None}
    empty = entry.get("empty_groups", ())
    return len(groups) + (empty if isinstance(empty, int) else len(empty))


if __name__ == "__main__":
    sys.exit(main())
