"""A run's weights to where they are used: diffusers, the released scripts, ComfyUI. Always whole or absent.

An export is written under another name, read back by the program it is for where that program is at hand, compared
with the run's own model, and only then renamed.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dataengine.lumosx.lora_formats import Lora, merged, to_comfyui_lora, to_diffusers_lora
from dataengine.lumosx.pipeline import FILE, HERE, PipelineSettings, load_transformer, read_settings
from dataengine.lumosx.pretrained import local_folder
from dataengine.lumosx.structure import Kind, Reference, SampleStructure
from dataengine.lumosx.trained import Trained
from dataengine.lumosx.transformer import DiT, DiTConfig
from dataengine.lumosx.weights import load_into, save_weights, to_diffusers

RELEASED_FILE = "lumosx.safetensors"
LORA_DIFFUSERS_FILE = "pytorch_lora_weights.safetensors"  # the name that `load_lora_weights(folder)` looks for
LORA_COMFYUI_FILE = "lumosx_lora.safetensors"
REPORT_FILE = "export.json"
SHARD_SIZE = "5GB"
TOLERANCE = 1e-4
"""Largest difference from another program's outputs, of the largest output: rounding stays near 1e-5 at 40 layers."""
OWN_TOLERANCE = 1e-6
"""The same between two models of ours, which should not differ at all: MCAM's ratio, 0.4 for 0.5, shows as 2e-5."""
_LOST = 0.05  # of an adapter's change: float32 rounding of large weights is far below, a lost or foreign one at 1


class ExportError(RuntimeError):
    """A run cannot be exported so, or its export does not compute the same; says why."""


class Target(StrEnum):
    """Where the weights go."""

    DIFFUSERS = "diffusers"
    RELEASED = "released"
    LORA_DIFFUSERS = "lora-diffusers"
    LORA_COMFYUI = "lora-comfyui"


@dataclass(frozen=True, slots=True)
class Exported:
    """What `export` wrote.

    Attributes:
        folder: with everything.
        files: relative names.
        nbytes: of all files.
        checks: by what read the export back, the largest difference from the run's own outputs, as a share of the
            largest output; empty without `verify`.
        notes: what its user must know.
    """

    folder: Path
    files: tuple[str, ...]
    nbytes: int
    checks: Mapping[str, float]
    notes: tuple[str, ...]


def export(
    trained: Trained, target: Target, output: Path, *, dtype: torch.dtype = torch.float32, verify: bool = False
) -> Exported:
    """Write a run's weights for another program.

    Args:
        output: folder to make; it must not exist.
        dtype: of the file; `verify` then compares models of these rounded weights, both computing in float32.
        verify: read it back and compare its outputs with the run's model before anything gets its final name.

    Raises:
        ExportError: `output` exists, the run has no adapters, or the export computes something else.
        MissingWeightsError, WeightsError: a part of the run is not there, or has no name in the target.
    """
    if output.exists():
        raise ExportError(f"{output} exists: exports are not mixed; choose another folder or remove it")
    write, check = _WAYS[target]
    rounded = _rounded(trained, dtype)
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = output.with_name(f".{output.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        with _quiet_diffusers():
            notes = (*write(rounded, temporary, dtype), *_cell_map_note(trained, target))
            checks = check(rounded, temporary) if verify else {}
        wrong = {name: error for name, error in checks.items() if not error <= _TOLERANCES[name]}
        if wrong:
            found = ", ".join(f"{name}: {error:.1e}" for name, error in wrong.items())
            raise ExportError(f"the export of {trained.run} computes something else ({found}); nothing was written")
        report = {
            "target": target, "run": trained.run.name, "step": trained.step, "dtype": str(dtype).removeprefix("torch."),
            "verified": checks, "notes": notes,
        }  # fmt: skip
        (temporary / REPORT_FILE).write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        temporary.rename(output)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    files = sorted(path for path in output.rglob("*") if path.is_file())
    names = tuple(path.relative_to(output).as_posix() for path in files)
    return Exported(output, names, sum(path.stat().st_size for path in files), checks, notes)


@contextmanager
def _quiet_diffusers() -> Iterator[None]:
    """Parts that are left out on purpose need no warning, and tiny files no progress bar."""
    from diffusers.utils import logging  # seconds to import

    shown, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if shown:
            logging.enable_progress_bar()


def _rounded(trained: Trained, dtype: torch.dtype) -> Trained:
    """The run with its weights as the file will have them, in float32."""

    def rounded(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {key: tensor.to(dtype).float() for key, tensor in tensors.items()}

    base = rounded(trained.base)
    weights, lora = rounded(trained.weights), trained.lora
    if lora is not None:
        folded: dict[str, Tensor] = {}
        for layer in lora.layers:
            down, up = (half.to(dtype).float() for half in lora.folded(layer))
            folded |= {f"{layer}.lora_A.weight": down, f"{layer}.lora_B.weight": up * (down.shape[0] / lora.alpha)}
        lora = Lora(folded, lora.alpha)
    return Trained(trained.run, trained.step, trained.settings, trained.config, base, weights, lora)


def _cell_map_note(trained: Trained, target: Target) -> tuple[str, ...]:
    """Who else computes MCAM, and how."""
    columns = -(-trained.settings.data.width // 16)
    if target is Target.RELEASED and trained.config.cell_map == "exact" and columns % 8:
        return (
            f"trained with cell_map=exact; the released scripts always shear the map, which differs on a grid of "
            f"{columns} columns. For them, train with model.cell_map=released or at a width that is a multiple of 128",
        )
    if target is not Target.RELEASED:
        return ("diffusers' WanPipeline and ComfyUI take no reference images; RelationalPipeline does",)
    return ()


# --- diffusers --------------------------------------------------------------------------------------------------------


def _write_diffusers(trained: Trained, folder: Path, dtype: torch.dtype) -> tuple[str, ...]:
    """A `WanPipeline` folder, with `relational.json` for our own pipeline beside it."""
    from diffusers import DPMSolverMultistepScheduler, WanPipeline, WanTransformer3DModel  # seconds to import

    settings = trained.settings
    with torch.device("meta"):
        transformer = WanTransformer3DModel.from_config(trained.config.to_diffusers())
    named = {to_diffusers(key): tensor.to(dtype) for key, tensor in trained.weights.items()}
    transformer.load_state_dict(named, strict=True, assign=True)
    scheduler = DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=settings.sampling.shift
    )
    pipeline = WanPipeline(tokenizer=None, text_encoder=None, vae=None, scheduler=scheduler, transformer=transformer)
    pipeline.save_pretrained(folder, safe_serialization=True, max_shard_size=SHARD_SIZE)

    here, elsewhere = _parts(trained, folder)
    relational = PipelineSettings.of(trained)
    if "vae" in here:
        relational = relational.model_copy(update={"codec": settings.codec.model_copy(update={"model": HERE})})
    if "text_encoder" in here:
        relational = relational.model_copy(update={"text": settings.text.model_copy(update={"model": HERE})})
    (folder / FILE).write_text(relational.model_dump_json(indent=1) + "\n", encoding="utf-8")
    _name_parts(folder / "model_index.json", here)
    (folder / "README.md").write_text(_readme(trained, elsewhere), encoding="utf-8")
    return (*_parts_notes(trained), *(f"{part} is not here but at {where}" for part, where in elsewhere.items()))


_CLASSES = {
    "vae": ["diffusers", "AutoencoderKLWan"],
    "text_encoder": ["transformers", "UMT5EncoderModel"],
    "tokenizer": ["transformers", "T5TokenizerFast"],  # as Wan2.1's own index has it
}


def _parts(trained: Trained, folder: Path) -> tuple[set[str], dict[str, str]]:
    """Copy the parts that the run had in a local folder; name the hub's place of the others, as id@revision."""
    codec, text = trained.settings.codec, trained.settings.text
    wanted = {"vae": codec} if codec.name == "wan" else {}
    sources: dict[str, Any] = wanted | ({"text_encoder": text, "tokenizer": text} if text.name == "umt5" else {})
    here, elsewhere = set(), {}
    for part, source in sources.items():
        if Path(source.model).expanduser().is_dir():
            shutil.copytree(local_folder(source.model, source.revision, part), folder / part)
            here.add(part)
        else:
            elsewhere[part] = f"{source.model}@{source.revision}"
    return here, elsewhere


def _parts_notes(trained: Trained) -> tuple[str, ...]:
    settings = trained.settings
    stand_ins = [name for name in (settings.codec.name, settings.text.name) if name in ("dct", "minilm")]
    if not stand_ins:
        return ()
    return (
        f"trained with {' and '.join(stand_ins)}, which diffusers has not: WanPipeline loads with vae=None, "
        "text_encoder=None, tokenizer=None and takes embeddings and latents; RelationalPipeline brings them along",
    )


def _name_parts(index: Path, here: set[str]) -> None:
    content = json.loads(index.read_text(encoding="utf-8"))
    content |= {part: _CLASSES[part] for part in here}
    index.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _readme(trained: Trained, elsewhere: Mapping[str, str]) -> str:
    lines = ["from diffusers import WanPipeline"]
    arguments: list[str] = []
    missing = {"vae": "AutoencoderKLWan", "text_encoder": "UMT5EncoderModel", "tokenizer": "AutoTokenizer"}
    stand_in = {"vae": trained.settings.codec.name == "dct"}
    stand_in |= dict.fromkeys(("text_encoder", "tokenizer"), trained.settings.text.name == "minilm")
    for part, name in missing.items():
        if part in elsewhere:
            model, _, revision = elsewhere[part].rpartition("@")
            origin = "diffusers" if part == "vae" else "transformers"
            lines.append(f"from {origin} import {name}")
            arguments.append(f'{part}={name}.from_pretrained("{model}", subfolder="{part}", revision="{revision}")')
        elif stand_in[part]:
            arguments.append(f"{part}=None")
    call = ",\n    ".join(['"."', *arguments])
    lines.append(f"\npipeline = WanPipeline.from_pretrained(\n    {call},\n)")
    code = "\n".join(lines)
    return f"""# LumosX DiT, step {trained.step}

Text to video, with diffusers alone (text padded to {trained.config.text_len} tokens: `max_sequence_length`):

```python
{code}
```

With reference images, with the project that trained it:

```python
from dataengine.lumosx.pipeline import RelationalPipeline
from dataengine.lumosx.request import read_request

frames = RelationalPipeline.from_pretrained(".")(read_request("sample"))
```

`relational.json` holds what diffusers does not know: the binding of phrases, sizes, and the sampler's settings.
"""


def _check_diffusers(trained: Trained, folder: Path) -> dict[str, float]:
    """Reload through diffusers' pipeline (without references) and through ours (with)."""
    from diffusers import WanPipeline

    pipeline = WanPipeline.from_pretrained(folder, vae=None, text_encoder=None, tokenizer=None, local_files_only=True)
    own = _model(trained.config, trained.weights)
    ours = load_transformer(folder, read_settings(folder))
    return {
        _WAN: _plain_difference(own, pipeline.transformer.float()),
        _RELATIONAL: _difference(_outputs(own), _outputs(ours)),
    }


# --- released scripts -------------------------------------------------------------------------------------------------


def _write_released(trained: Trained, folder: Path, dtype: torch.dtype) -> tuple[str, ...]:
    """One safetensors file under original keys, and the model's configuration."""
    try:
        text = json.dumps(trained.config.to_released(), indent=1)
    except ValueError as error:
        raise ExportError(f"{trained.run}: {error}; --to diffusers keeps both switches") from error
    save_weights({key: tensor.to(dtype) for key, tensor in trained.weights.items()}, folder / RELEASED_FILE)
    (folder / "config.json").write_text(text + "\n", encoding="utf-8")
    return ()


def _check_released(trained: Trained, folder: Path) -> dict[str, float]:
    """Reload as the released scripts do (`load_file`, names as they are), but strictly: they skip what does not fit."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    theirs = DiT(DiTConfig.from_released(config, cell_map=trained.config.cell_map))
    load_into(theirs, load_file(folder / RELEASED_FILE))
    return {_RELEASED: _difference(_outputs(_model(trained.config, trained.weights)), _outputs(theirs))}


# --- LoRA -------------------------------------------------------------------------------------------------------------


def _lora(trained: Trained) -> Lora:
    if trained.lora is None:
        raise ExportError(
            f"{trained.run} trained all weights, so it has no LoRA: export it as diffusers or released, or train with "
            "lora.rank=16"
        )
    return trained.lora


def _lora_writer(
    file: str, named: Callable[[Lora], dict[str, Tensor]]
) -> Callable[[Trained, Path, torch.dtype], tuple[str, ...]]:
    def write(trained: Trained, folder: Path, dtype: torch.dtype) -> tuple[str, ...]:
        lora = _lora(trained)
        tensors = {key: tensor.to(dtype).contiguous() for key, tensor in named(lora).items()}
        # alpha is folded into B; the header tells people, and no loader reads it.
        rank = str(lora.tensors[f"{lora.layers[0]}.lora_A.weight"].shape[0])
        save_file(tensors, folder / file, metadata={"rank": rank, "alpha": rank, "step": str(trained.step)})
        return (f"made for {trained.settings.model.init or 'the base it was trained on'}",)

    return write


def _check_lora(trained: Trained, folder: Path) -> dict[str, float]:
    """Let diffusers put the file's adapters on the base, and compare with the merged weights."""
    from diffusers import DPMSolverMultistepScheduler, WanPipeline, WanTransformer3DModel

    lora = _lora(trained)
    transformer = WanTransformer3DModel.from_config(trained.config.to_diffusers())
    transformer.load_state_dict({to_diffusers(key): tensor for key, tensor in trained.base.items()}, strict=True)
    pipeline = WanPipeline(
        tokenizer=None, text_encoder=None, vae=None, scheduler=DPMSolverMultistepScheduler(), transformer=transformer
    )
    own = _model(trained.config, merged(trained.base, lora))
    (file,) = folder.glob("*.safetensors")
    pipeline.load_lora_weights(folder, weight_name=file.name, local_files_only=True)
    difference = _plain_difference(own, transformer)
    # One adapter of hundreds hardly shows in the output, so each one is also looked at.
    pipeline.fuse_lora()
    pipeline.unload_lora_weights()
    lost = [layer for layer in lora.layers if not _same_change(layer, trained.base, own.state_dict(), transformer)]
    if lost:
        raise ExportError(
            f"{len(lost)} of {len(lora.layers)} adapters are not what was trained, or were not trained: "
            f"{', '.join(lost[:8])}"
        )
    return {_LORA: difference}


def _same_change(layer: str, base: Mapping[str, Tensor], own: Mapping[str, Tensor], theirs: torch.nn.Module) -> bool:
    key = f"{layer}.weight"
    change = (own[key] - base[key]).abs().max().item()
    return (theirs.get_parameter(to_diffusers(key)) - own[key]).abs().max().item() < _LOST * change


# --- Comparing --------------------------------------------------------------------------------------------------------

_WAN, _RELATIONAL = "diffusers' WanPipeline", "RelationalPipeline"
_RELEASED, _LORA = "released keys", "diffusers' LoRA loader"
_TOLERANCES = {_WAN: TOLERANCE, _LORA: TOLERANCE, _RELATIONAL: OWN_TOLERANCE, _RELEASED: OWN_TOLERANCE}


def _model(config: DiTConfig, weights: Mapping[str, Tensor]) -> DiT:
    model = DiT(config).eval().requires_grad_(False)
    load_into(model, weights)
    return model


_GRID = (3, 5)
_TIMES = (37, 512, 968)


def _probe(config: DiTConfig, references: int) -> dict[str, Any]:
    drawn = torch.Generator().manual_seed(0)
    height, width = 2 * _GRID[0], 2 * _GRID[1]
    return {
        "latents": [torch.randn(config.in_channels, 2, height, width, generator=drawn)],
        "references": [
            torch.randn(config.in_channels, references, height, width, generator=drawn) if references else None
        ],
        "context": [torch.randn(min(7, config.text_len), config.text_dim, generator=drawn)],
    }


@torch.no_grad()
def _outputs(model: DiT) -> Tensor:
    """With references of every kind, at three times."""
    references = (
        Reference(Kind.BACKGROUND, (5,)),
        Reference(Kind.OBJECT, (4,)),
        Reference(Kind.FACE, (0,), 0),
        Reference(Kind.ATTRIBUTE, (1, 2), 0),
        Reference(Kind.FACE, (3,), 1),
    )
    layout = model.layout([SampleStructure(2, _GRID, references, 2)])
    inputs = _probe(model.config, len(references))
    return torch.stack([model(**inputs, timesteps=torch.tensor([t]), layout=layout)[0] for t in _TIMES])


@torch.no_grad()
def _plain_difference(model: DiT, theirs: torch.nn.Module) -> float:
    """Without references, against diffusers' transformer."""
    layout = model.layout([SampleStructure(2, _GRID)])
    inputs = _probe(model.config, 0)
    (text,) = inputs["context"]
    text = torch.nn.functional.pad(text, (0, 0, 0, model.config.text_len - len(text)))[None]
    own, other = [], []
    for t in _TIMES:
        times = torch.tensor([t])
        own.append(model(**inputs, timesteps=times, layout=layout)[0])
        other.append(theirs(inputs["latents"][0][None], times, text, return_dict=False)[0][0])
    return _difference(torch.stack(own), torch.stack(other))


def _difference(expected: Tensor, got: Tensor) -> float:
    """Largest difference as a share of the largest output; NaN where either holds one."""
    largest = expected.abs().max().item()
    if largest == 0:
        raise ExportError("the model's output is zero, so nothing can be compared: it has not been trained yet")
    return (expected - got).abs().max().item() / largest


_WAYS = {
    Target.DIFFUSERS: (_write_diffusers, _check_diffusers),
    Target.RELEASED: (_write_released, _check_released),
    Target.LORA_DIFFUSERS: (_lora_writer(LORA_DIFFUSERS_FILE, to_diffusers_lora), _check_lora),
    Target.LORA_COMFYUI: (_lora_writer(LORA_COMFYUI_FILE, to_comfyui_lora), _check_lora),
}
