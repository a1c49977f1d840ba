"""LoRA adapters: checked, added to a model's weights, and under the names that diffusers and ComfyUI look for.

An adapter is named by the layer it sits on: `blocks.0.self_attn.q.lora_A.weight` [rank, in] and `….lora_B.weight`
[out, rank]; the layer's weight becomes W + alpha / rank · B·A.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from dataengine.lumosx.weights import WeightsError, to_diffusers

_A, _B = ".lora_A.weight", ".lora_B.weight"


@dataclass(frozen=True, slots=True, eq=False)
class Lora:
    """The adapters of a model.

    Attributes:
        tensors: both halves of every adapter, by name.
        alpha: adapters are scaled by alpha / rank; the rank is that of the tensors.

    Raises:
        WeightsError: at construction: half an adapter, a name that is none, shapes that do not meet.
    """

    tensors: Mapping[str, Tensor]
    alpha: float

    def __post_init__(self) -> None:
        layers = self.layers
        wanted = {layer + half for layer in layers for half in (_A, _B)}
        strange = sorted(wanted ^ self.tensors.keys())
        if strange or not layers:
            raise WeightsError(f"not a set of LoRA adapters: {', '.join(strange[:8]) or 'it is empty'}")
        for layer in layers:
            down, up = self.tensors[layer + _A], self.tensors[layer + _B]
            if down.dim() != 2 or up.dim() != 2 or down.shape[0] != up.shape[1]:
                raise WeightsError(f"{layer}: adapters of shapes {list(down.shape)} and {list(up.shape)} do not meet")

    @property
    def layers(self) -> tuple[str, ...]:
        """The adapted layers, sorted."""
        return tuple(sorted(key.removesuffix(_A) for key in self.tensors if key.endswith(_A)))

    def folded(self, layer: str) -> tuple[Tensor, Tensor]:
        """A and alpha / rank · B of a layer, float32: their product is the whole change of its weight.

        Programs differ in where they look for alpha, and some take it for the rank when it is missing. Folded in, it
        cannot be lost.
        """
        down, up = self.tensors[layer + _A].float(), self.tensors[layer + _B].float()
        return down, up * (self.alpha / down.shape[0])


def is_lora(tensors: Mapping[str, Tensor]) -> bool:
    """Whether a checkpoint's tensors are adapters rather than a model's weights."""
    return any(key.endswith((_A, _B)) for key in tensors)


def merged(base: Mapping[str, Tensor], lora: Lora) -> dict[str, Tensor]:
    """The base's weights with the adapters added in float32, in the base's dtype.

    Raises:
        WeightsError: an adapter on a layer that the base has not, or of another shape.
    """
    state = dict(base)
    for layer in lora.layers:
        key = f"{layer}.weight"
        down, up = lora.folded(layer)
        if key not in base or base[key].shape != (up.shape[0], down.shape[1]):
            has = list(base[key].shape) if key in base else "no such layer"
            raise WeightsError(
                f"{layer}: an adapter for {[up.shape[0], down.shape[1]]} does not fit the base ({has}); "
                "was it trained on another model?"
            )
        state[key] = (base[key].float() + torch.mm(up, down)).to(base[key].dtype)
    return state


def to_diffusers_lora(lora: Lora) -> dict[str, Tensor]:
    """`transformer.blocks.N.attn1.to_q.lora_A.weight` …, what `WanPipeline.load_lora_weights` reads.

    Raises:
        WeightsError: an adapter on a layer that diffusers has no name for.
    """
    return _named(lora, lambda layer: "transformer." + to_diffusers(f"{layer}.weight").removesuffix(".weight"))


def to_comfyui_lora(lora: Lora) -> dict[str, Tensor]:
    """`diffusion_model.blocks.N.self_attn.q.lora_A.weight` …, what ComfyUI's LoRA loader reads.

    Raises:
        WeightsError: an adapter on a layer that Wan2.1 has not.
    """
    for layer in lora.layers:
        to_diffusers(f"{layer}.weight")  # refuses what is no layer of the model
    return _named(lora, lambda layer: f"diffusion_model.{layer}")


def _named(lora: Lora, name: Callable[[str], str]) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    for layer in lora.layers:
        state[name(layer) + _A], state[name(layer) + _B] = lora.folded(layer)
    return state
