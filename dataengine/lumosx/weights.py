"""Weights on disk: safetensors, `.pth` and diffusers folders in, original or diffusers keys out; always strict."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

# Module names, original Wan2.1 / LumosX on the left, diffusers' WanTransformer3DModel on the right.
_TOP = {
    "patch_embedding": "patch_embedding",
    "text_embedding.0": "condition_embedder.text_embedder.linear_1",
    "text_embedding.2": "condition_embedder.text_embedder.linear_2",
    "time_embedding.0": "condition_embedder.time_embedder.linear_1",
    "time_embedding.2": "condition_embedder.time_embedder.linear_2",
    "time_projection.1": "condition_embedder.time_proj",
    "head.modulation": "scale_shift_table",
    "head.head": "proj_out",
}
_ATTENTION = {"q": "to_q", "k": "to_k", "v": "to_v", "o": "to_out.0", "norm_q": "norm_q", "norm_k": "norm_k"}
_BLOCK = {
    "modulation": "scale_shift_table",
    "norm3": "norm2",  # the affine norm before cross-attention
    "ffn.0": "ffn.net.0.proj",
    "ffn.2": "ffn.net.2",
    **{f"self_attn.{name}": f"attn1.{other}" for name, other in _ATTENTION.items()},
    **{f"cross_attn.{name}": f"attn2.{other}" for name, other in _ATTENTION.items()},
}
_PREFIXES = ("model.diffusion_model.", "diffusion_model.", "module.")  # ComfyUI's two, and DistributedDataParallel's
_NESTED = ("state_dict", "model", "module", "ema")
_LISTED = 8  # keys named in full in an error; the rest are counted
_FLOATING_POINT = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_INDEX_BYTES = 64_000_000  # of a shard index; Wan2.1-14B's has 0.1 MB


class WeightsError(ValueError):
    """Weights do not fit; the message names the keys."""


def to_diffusers(key: str) -> str:
    """The diffusers name of an original key, such as `blocks.3.self_attn.q.weight`.

    Raises:
        WeightsError: not a key of the model.
    """
    return _rename(key, _TOP, _BLOCK)


def from_diffusers(key: str) -> str:
    """The original name of a diffusers key; the inverse of `to_diffusers`.

    Raises:
        WeightsError: not a key of the model.
    """
    return _rename(key, _inverse(_TOP), _inverse(_BLOCK))


def original_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Any known key style to original keys: ComfyUI and DDP prefixes are dropped, diffusers names translated.

    Unknown keys pass unchanged, for `load_into` to report all of them at once.

    Raises:
        WeightsError: two keys mean the same parameter.
    """
    for prefix in _PREFIXES:
        if state and all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): tensor for key, tensor in state.items()}
    if not any(key.startswith("condition_embedder.") for key in state):
        return dict(state)
    renamed: dict[str, Tensor] = {}
    for key, tensor in state.items():
        try:
            name = from_diffusers(key)
        except WeightsError:
            name = key
        if name in renamed:
            raise WeightsError(f"two tensors stand for {name}, one of them is {key}")
        renamed[name] = tensor
    return renamed


def load_weights(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read weights and return them under original keys, on the CPU, in their own dtype.

    Args:
        path: a `.safetensors` file; a `.pth`, `.pt` or `.bin` file (read with `weights_only=True`, so it cannot run
            code); or a folder of one model in safetensors, sharded or not, such as a diffusers `transformer` folder
            or the pipeline folder around it.

    Raises:
        FileNotFoundError: nothing there; the message says how to download Wan2.1.
        WeightsError: not weights, damaged, ambiguous, or a pickle that holds anything but tensors.
    """
    path = Path(path)
    if path.is_dir():
        return original_keys(_load_folder(path))
    if not path.is_file():
        raise FileNotFoundError(
            f"no weights at {path}; to get Wan2.1: hf download Wan-AI/Wan2.1-T2V-1.3B --local-dir Wan2.1-T2V-1.3B"
        )
    if path.suffix == ".safetensors":
        return original_keys(_load_safetensors(path))
    if path.suffix in (".pth", ".pt", ".bin"):
        return original_keys(_load_pickle(path))
    raise WeightsError(f"{path}: unknown weights format {path.suffix!r}; use .safetensors or .pth")


def load_into(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy weights into a model, strictly: nothing is loaded unless every key and shape fits.

    Values are cast to the model's dtype and device.

    Raises:
        WeightsError: names missing, unexpected and mis-shaped keys, and those that hold no floating-point numbers.
    """
    own = model.state_dict()
    missing = [key for key in own if key not in state]
    unexpected = [key for key in state if key not in own]
    misshaped = [
        f"{key} (has {list(state[key].shape)}, the model needs {list(tensor.shape)})"
        for key, tensor in own.items()
        if key in state and state[key].shape != tensor.shape
    ]
    # Quantised files keep int8 or packed bytes under the same names; a cast would load nonsense.
    foreign = [f"{key} ({state[key].dtype})" for key in own if key in state and state[key].dtype not in _FLOATING_POINT]
    found = (("missing", missing), ("unexpected", unexpected), ("mis-shaped", misshaped), ("not plain floats", foreign))
    problems = [
        f"{len(keys)} {name}: {', '.join(keys[:_LISTED])}{', …' if len(keys) > _LISTED else ''}"
        for name, keys in found
        if keys
    ]
    if problems:
        raise WeightsError("the weights do not fit the model: " + "; ".join(problems))
    model.load_state_dict(dict(state), strict=True)


def save_weights(state: Mapping[str, Tensor], path: str | os.PathLike[str], *, diffusers_keys: bool = False) -> None:
    """Write original-key weights as one safetensors file, atomically; optionally under diffusers' names.

    Raises:
        WeightsError: `diffusers_keys` and a key that is not the model's.
    """
    path = Path(path)
    named = {to_diffusers(key) if diffusers_keys else key: value for key, value in state.items()}
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        save_file({key: value.detach().cpu().contiguous() for key, value in named.items()}, temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _rename(key: str, top: Mapping[str, str], block: Mapping[str, str]) -> str:
    head, table, rest = "", top, key
    if key.startswith("blocks."):
        number, _, rest = key.removeprefix("blocks.").partition(".")
        head, table = f"blocks.{number}.", block
    # A module name is the key itself (a bare parameter) or the key without its last part (weight or bias).
    module, _, parameter = rest.rpartition(".")
    if rest in table:
        return head + table[rest]
    if module in table and parameter in ("weight", "bias"):
        return f"{head}{table[module]}.{parameter}"
    raise WeightsError(f"{key} is not a parameter of the Wan2.1 / LumosX transformer")


def _inverse(table: Mapping[str, str]) -> dict[str, str]:
    return {value: key for key, value in table.items()}


def _load_folder(folder: Path) -> dict[str, Tensor]:
    if (folder / "transformer").is_dir():
        folder = folder / "transformer"
    indices = sorted(folder.glob("*.safetensors.index.json"))
    if len(indices) == 1:
        return _load_shards(indices[0])
    files = sorted(folder.glob("*.safetensors"))
    if len(files) != 1 or indices:
        raise WeightsError(
            f"{folder} holds {len(files)} .safetensors files and {len(indices)} indices: "
            "name one file, or give a folder with one model"
        )
    return _load_safetensors(files[0])


def _load_shards(index: Path) -> dict[str, Tensor]:
    """The tensors that an index names, each from the shard it names; a shard holds exactly what the index says."""
    place = _read_index(index)
    state: dict[str, Tensor] = {}
    for name in sorted(set(place.values())):
        if Path(name).name != name:
            raise WeightsError(f"{index} points outside its folder: {name!r}")
        if not (index.parent / name).is_file():
            raise WeightsError(f"{index.parent} lacks the shard {name} that its index names: download it again")
        shard = _load_safetensors(index.parent / name)
        named = {key for key, file in place.items() if file == name}
        if shard.keys() != named:
            different = sorted(shard.keys() ^ named)
            raise WeightsError(f"{index.parent / name} is not what its index says: {', '.join(different[:_LISTED])}")
        state.update(shard)
    return state


def _read_index(path: Path) -> dict[str, str]:
    if path.stat().st_size > _INDEX_BYTES:
        raise WeightsError(f"{path} is too large for an index of shards")
    try:
        place = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise WeightsError(f"{path} is no index of shards: {type(error).__name__}: {error}") from error
    if not isinstance(place, dict) or not all(isinstance(name, str) for name in place.values()):
        raise WeightsError(f"{path} is no index of shards: its weight_map is not a table of file names")
    return place


def _load_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, ValueError, OverflowError) as error:
        raise WeightsError(f"{path} is not a readable safetensors file: {error}") from error


def _load_pickle(path: Path) -> dict[str, Tensor]:
    content = _unpickled(path)
    if isinstance(content, Mapping):
        if content and all(isinstance(value, Tensor) for value in content.values()):
            return dict(content)
        nested = [name for name in _NESTED if isinstance(content.get(name), Mapping)]
        if len(nested) == 1 and all(isinstance(value, Tensor) for value in content[nested[0]].values()):
            return dict(content[nested[0]])
        raise WeightsError(f"{path} holds no single state dict; its entries are {sorted(map(str, content))[:_LISTED]}")
    raise WeightsError(f"{path} holds a {type(content).__name__}, not a state dict")


def _unpickled(path: Path) -> Any:
    try:
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError:  # written before torch 1.6: no zip file, so nothing to map
            return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, IndexError, TypeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise WeightsError(f"{path} is not a file of tensors alone (read with weights_only): {reason}") from error
