"""The LumosX DiT: Wan2.1's transformer, its state-dict keys unchanged, with relational position and attention."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from dataengine.lumosx.attention import phrase_attention, relational_attention
from dataengine.lumosx.layout import CellMap, Layout
from dataengine.lumosx.rope import apply_rope
from dataengine.lumosx.structure import SampleStructure

Checkpointing = Literal["none", "full", "keep_attention", "keep_matmul"]
_FFN_ROWS = 2048  # rows of the feed-forward at a time when no gradient is kept

# Switches of the released configuration that this model has no variant for, and the value it implements.
_RELEASED_FIXED = {
    "window_size": [-1, -1],
    "qk_norm": True,
    "cross_attn_norm": True,
    "self_mask_bool": True,
    "cross_mask_bool": True,
    "pooling_type": "mean",
    "RoPE_shift": True,
}
# Of the released configuration or Wan2.1's config.json, but not about what the model computes.
_RELEASED_IGNORED = {"use_fixed_seq_len", "sp_degree", "model_type", "_class_name", "_diffusers_version"}
_DIFFUSERS_NAMES = {
    "ffn_dim": "ffn_dim",
    "num_layers": "layers",
    "in_channels": "in_channels",
    "out_channels": "out_channels",
    "text_dim": "text_dim",
    "freq_dim": "freq_dim",
    "patch_size": "patch",
    "eps": "eps",
}
# diffusers' WanTransformer3DModel also serves image-to-video models, which have more parts than this one.
_DIFFUSERS_FIXED = {
    "cross_attn_norm": True,
    "qk_norm": "rms_norm_across_heads",
    "image_dim": None,
    "added_kv_proj_dim": None,
    "pos_embed_seq_len": None,
}
_RELEASED_NAMES = {
    "dim": "dim",
    "ffn_dim": "ffn_dim",
    "num_heads": "heads",
    "num_layers": "layers",
    "in_dim": "in_channels",
    "out_dim": "out_channels",
    "text_dim": "text_dim",
    "text_len": "text_len",
    "freq_dim": "freq_dim",
    "patch_size": "patch",
    "eps": "eps",
    "ratio": "mcam_ratio",
}


@dataclass(frozen=True, slots=True)
class DiTConfig:
    """Shapes of the model. Defaults are Wan2.1-T2V-1.3B with MCAM as in the LumosX paper.

    Attributes:
        r2pe: members of a subject group share a time index; off: every reference has the next one, as a frame would.
        csam: references attend to their own segment alone; off: all tokens of a sample attend to each other.
        mcam_ratio: r of MCAM's bias; 0: off.
        cell_map: `released` for published LumosX weights, which were trained with the sheared map of
            `layout.cell_of_token`; `exact` otherwise.
    """

    dim: int = 1536
    ffn_dim: int = 8960
    heads: int = 12
    layers: int = 30
    in_channels: int = 16
    out_channels: int = 16
    text_dim: int = 4096
    text_len: int = 512
    freq_dim: int = 256
    patch: tuple[int, int, int] = (1, 2, 2)
    eps: float = 1e-6
    mcam_ratio: float = 0.5
    cell_map: CellMap = "exact"
    r2pe: bool = True
    csam: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "patch", tuple(self.patch))
        if self.dim % self.heads or (self.dim // self.heads) % 2:
            raise ValueError(f"dim {self.dim} must be an even multiple of heads {self.heads}")
        if self.freq_dim % 2:
            raise ValueError(f"freq_dim must be even, got {self.freq_dim}")
        if len(self.patch) != 3 or self.patch[0] != 1:
            raise ValueError(f"patch must be (1, rows, columns): a reference is one latent frame; got {self.patch}")

    @property
    def head_dim(self) -> int:
        """Channels of one head."""
        return self.dim // self.heads

    @classmethod
    def from_released(cls, config: Mapping[str, Any], *, cell_map: CellMap = "released") -> DiTConfig:
        """Read the published code's model configuration, or the `config.json` beside Wan2.1's original weights.

        Raises:
            ValueError: an unknown key, or a switch set to something this model does not compute.
        """
        values: dict[str, Any] = {}
        for key, value in config.items():
            if key in _RELEASED_NAMES:
                values[_RELEASED_NAMES[key]] = tuple(value) if isinstance(value, list) else value
            elif key in _RELEASED_FIXED:
                if (list(value) if isinstance(value, tuple) else value) != _RELEASED_FIXED[key]:
                    raise ValueError(
                        f"released config has {key} = {value!r}; only {_RELEASED_FIXED[key]!r} is supported"
                    )
            elif key not in _RELEASED_IGNORED:
                raise ValueError(f"unknown key {key!r} in the released config")
        return cls(**values, cell_map=cell_map)

    def to_released(self) -> dict[str, Any]:
        """The inverse of `from_released`; the released code knows no cell map, it always computes `released`.

        Raises:
            ValueError: R2PE or CSAM is off.
        """
        if not (self.r2pe and self.csam):
            raise ValueError("R2PE and CSAM cannot be off in the released config: its code was compared with both on")
        values = {key: getattr(self, name) for key, name in _RELEASED_NAMES.items()}
        return {**values, "patch_size": list(self.patch), **_RELEASED_FIXED, "use_fixed_seq_len": False, "sp_degree": 1}

    @classmethod
    def from_diffusers(
        cls,
        config: Mapping[str, Any],
        *,
        text_len: int = 512,
        mcam_ratio: float = 0.5,
        cell_map: CellMap = "exact",
        r2pe: bool = True,
        csam: bool = True,
    ) -> DiTConfig:
        """Read the `config.json` of diffusers' `WanTransformer3DModel`, which knows nothing of the keywords.

        Raises:
            ValueError: a key is missing, or a switch is set to something this model does not compute.
        """
        for key, value in _DIFFUSERS_FIXED.items():
            if config.get(key, value) != value:
                raise ValueError(f"diffusers config has {key} = {config[key]!r}; only {value!r} is supported")
        missing = [key for key in (*_DIFFUSERS_NAMES, "num_attention_heads", "attention_head_dim") if key not in config]
        if missing:
            raise ValueError(f"diffusers config lacks {', '.join(missing)}")
        values = {name: config[key] for key, name in _DIFFUSERS_NAMES.items()}
        heads = config["num_attention_heads"]
        dim = heads * config["attention_head_dim"]
        relations: dict[str, Any] = {"mcam_ratio": mcam_ratio, "cell_map": cell_map, "r2pe": r2pe, "csam": csam}
        return cls(dim=dim, heads=heads, text_len=text_len, **relations, **values)

    def to_diffusers(self) -> dict[str, Any]:
        """The `config.json` that makes diffusers' `WanTransformer3DModel` of these shapes."""
        shapes = {key: getattr(self, name) for key, name in _DIFFUSERS_NAMES.items()}
        heads = {"num_attention_heads": self.heads, "attention_head_dim": self.head_dim}
        return {**shapes, **heads, **_DIFFUSERS_FIXED, "patch_size": list(self.patch)}


PRESETS: Mapping[str, DiTConfig] = {
    "wan2.1-t2v-1.3b": DiTConfig(),
    "wan2.1-t2v-14b": DiTConfig(dim=5120, ffn_dim=13824, heads=40, layers=40),
    "lumosx-1.3b": DiTConfig(cell_map="released"),
}


class RMSNorm(nn.Module):
    """Root-mean-square norm over the full model width (not per head), computed in float32."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """[..., dim], dtype kept."""
        if x.device.type == "cpu" and torch.is_grad_enabled() and not torch.compiler.is_compiling():
            return _RmsNorm.apply(x.float(), self.weight.float(), self.eps).to(x.dtype)
        return F.rms_norm(x.float(), self.weight.shape, self.weight.float(), self.eps).to(x.dtype)


class _RmsNorm(torch.autograd.Function):
    """`F.rms_norm` for the CPU, where it has no fused kernel and would keep each of its steps for the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        scale = x.square().mean(dim=-1, keepdim=True).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        return (x * scale).mul_(weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, scale = ctx.saved_tensors
        (gradient,) = gradients
        normed = x * scale
        product = gradient * normed
        of_weight = product.flatten(0, -2).sum(dim=0)
        shared = (product.mul_(weight)).mean(dim=-1, keepdim=True)
        return (gradient * weight).addcmul_(normed, shared, value=-1).mul_(scale), of_weight, None


class Attention(nn.Module):
    """Projections shared by self- and cross-attention: q, k, v, o with full-width RMSNorm on q and k."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.q = nn.Linear(config.dim, config.dim)
        self.k = nn.Linear(config.dim, config.dim)
        self.v = nn.Linear(config.dim, config.dim)
        self.o = nn.Linear(config.dim, config.dim)
        self.norm_q = RMSNorm(config.dim, config.eps)
        self.norm_k = RMSNorm(config.dim, config.eps)

    def queries(self, x: Tensor) -> Tensor:
        """[..., dim] to [..., heads, head_dim]."""
        return self.norm_q(self.q(x)).unflatten(-1, (self.heads, -1))

    def keys(self, x: Tensor) -> Tensor:
        """[..., dim] to [..., heads, head_dim]."""
        return self.norm_k(self.k(x)).unflatten(-1, (self.heads, -1))

    def values(self, x: Tensor) -> Tensor:
        """[..., dim] to [..., heads, head_dim]."""
        return self.v(x).unflatten(-1, (self.heads, -1))


class SelfAttention(Attention):
    """CSAM self-attention with R2PE."""

    def forward(self, x: Tensor, layout: Layout, *, video_only: bool = False) -> Tensor:
        """[L, dim] to [L, dim], or to the video rows only."""
        x = x.to(self.q.weight.dtype)
        k = apply_rope(self.keys(x), layout.rope)
        v = self.values(x)
        if video_only:
            q = apply_rope(self.queries(layout.video_rows(x)), layout.video_rows(layout.rope))
        else:
            q = apply_rope(self.queries(x), layout.rope)
        return self.o(relational_attention(q, k, v, layout, video_only=video_only).flatten(-2))


class CrossAttention(Attention):
    """Cross-attention to the text with MCAM."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__(config)
        self.ratio = config.mcam_ratio

    def forward(self, x: Tensor, context: Tensor, layout: Layout, *, video_only: bool = False) -> Tensor:
        """x [L or video rows, dim], context [samples, text_len, dim] to the shape of x."""
        x = x.to(self.q.weight.dtype)
        q, k, v = self.queries(x), self.keys(context), self.values(context)
        return self.o(phrase_attention(q, k, v, layout, ratio=self.ratio, video_only=video_only).flatten(-2))


class Block(nn.Module):
    """Self-attention, cross-attention, feed-forward; the residual stream stays in float32."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.eps = config.eps
        self.self_attn = SelfAttention(config)
        self.norm3 = nn.LayerNorm(config.dim, eps=config.eps)
        self.cross_attn = CrossAttention(config)
        self.ffn = nn.Sequential(
            nn.Linear(config.dim, config.ffn_dim), nn.GELU(approximate="tanh"), nn.Linear(config.ffn_dim, config.dim)
        )
        self.modulation = nn.Parameter(torch.randn(1, 6, config.dim) / config.dim**0.5)

    def forward(self, x: Tensor, e: Tensor, context: Tensor, layout: Layout, *, video_only: bool = False) -> Tensor:
        """One block.

        Args:
            x: [L, dim] float32.
            e: [samples, 6, dim] float32, the time projection.
            context: [samples, text_len, dim].
            video_only: return the video rows only; reference rows still serve as keys and values.
        """
        shift1, scale1, gate1, shift2, scale2, gate2 = (self.modulation.float() + e).unbind(1)
        y = self.self_attn(modulate(x, shift1, scale1, layout.lengths, self.eps), layout, video_only=video_only)
        lengths = layout.video_lengths if video_only else layout.lengths
        if video_only:
            x = layout.video_rows(x)
        x = add_gated(x, y, gate1, lengths)
        norm3 = self.norm3
        y = F.layer_norm(x, norm3.normalized_shape, norm3.weight.float(), norm3.bias.float(), norm3.eps)
        x = x + self.cross_attn(y, context, layout, video_only=video_only)
        y = self.feed_forward(modulate(x, shift2, scale2, lengths, self.eps))
        return add_gated(x, y, gate2, lengths)

    def feed_forward(self, x: Tensor) -> Tensor:
        """The two layers, [rows, dim]."""
        x = x.to(next(self.ffn.parameters()).dtype)
        if torch.is_grad_enabled():
            return self.ffn(x)
        # The hidden layer is the largest tensor of a forward; without gradients only a slice of it need exist.
        return torch.cat([self.ffn(rows) for rows in x.split(_FFN_ROWS)])


class Head(nn.Module):
    """Final modulated projection to patches, in float32."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.eps = config.eps
        self.head = nn.Linear(config.dim, math.prod(config.patch) * config.out_channels)
        self.modulation = nn.Parameter(torch.randn(1, 2, config.dim) / config.dim**0.5)

    def forward(self, x: Tensor, e: Tensor, lengths: list[int]) -> Tensor:
        """x [rows, dim], e [samples, dim] the time embedding; to [rows, patch volume · out_channels]."""
        shift, scale = (self.modulation.float() + e.unsqueeze(1)).unbind(1)
        return _linear_float32(self.head, modulate(x, shift, scale, lengths, self.eps))


class DiT(nn.Module):
    """The LumosX transformer. It has no parameter that Wan2.1-T2V has not.

    Runs in float32, under `torch.autocast`, or with parameters in bfloat16 (FSDP mixed precision): norms,
    modulation, residual stream, time embedding and head are float32 in every case.

    Attributes:
        checkpointing: what a block keeps for the backward pass; the rest is computed again. `none` recomputes nothing;
            `full` keeps only the block's input; `keep_attention` attention outputs as well, which at 480p are three
            quarters of the forward's cost; `keep_matmul` those of all matrix products too, so that only cheap
            pointwise work is repeated.
    """

    def __init__(self, config: DiTConfig, *, checkpointing: Checkpointing = "none") -> None:
        super().__init__()
        self.config = config
        self.checkpointing: Checkpointing = checkpointing
        self.patch_embedding = nn.Conv3d(config.in_channels, config.dim, kernel_size=config.patch, stride=config.patch)
        self.text_embedding = nn.Sequential(
            nn.Linear(config.text_dim, config.dim), nn.GELU(approximate="tanh"), nn.Linear(config.dim, config.dim)
        )
        self.time_embedding = nn.Sequential(
            nn.Linear(config.freq_dim, config.dim), nn.SiLU(), nn.Linear(config.dim, config.dim)
        )
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(config.dim, 6 * config.dim))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.head = Head(config)

    def init_weights(self) -> None:
        """Initialise for training from scratch, as Wan2.1 does: the head is zero, so the first output is zero."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.xavier_uniform_(self.patch_embedding.weight.flatten(1))
        for module in (*self.text_embedding, *self.time_embedding):
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
        nn.init.zeros_(self.head.head.weight)

    def layout(self, structures: Sequence[SampleStructure], device: torch.device | str | None = None) -> Layout:
        """The batch's `Layout` for this model, on the model's device unless told otherwise. Build it once per step."""
        return Layout.build(
            structures,
            head_dim=self.config.head_dim,
            text_len=self.config.text_len,
            cell_map=self.config.cell_map,
            r2pe=self.config.r2pe,
            csam=self.config.csam,
            device=self.head.modulation.device if device is None else device,
        )

    def forward(
        self,
        latents: Sequence[Tensor],
        references: Sequence[Tensor | None],
        context: Sequence[Tensor],
        timesteps: Tensor,
        layout: Layout,
        *,
        with_references: bool = False,
    ) -> list[Tensor]:
        """Predict the velocity of every sample.

        Args:
            latents: noisy video latents, [in_channels, T, H, W] each. Odd H or W are padded with zeros on the
                bottom and right and cropped again, as the released code does.
            references: clean reference latents, [in_channels, N, H, W] each; None for a sample without.
            context: text embeddings, [tokens ≤ text_len, text_dim] each, zero-padded here to text_len.
            timesteps: [samples], 0 … 1000, truncated already (the model sees ⌊t⌋).
            layout: from `self.layout(structures)`.
            with_references: also compute the frames of the references (for checking against released outputs);
                otherwise the last block skips their rows.

        Returns:
            [out_channels, T, H, W] float32 per sample, or [out_channels, T + N, H, W].

        Raises:
            ValueError: inputs that disagree with the layout.
        """
        _check_inputs(latents, references, context, timesteps, layout, self.config)
        x = self.embed_patches(latents, references)
        e = self.embed_time(timesteps)
        e0 = self.project_time(e)
        text = self.embed_text(context)
        for index, block in enumerate(self.blocks):
            video_only = not with_references and index == len(self.blocks) - 1
            x = self.checkpointed(block, x, e0, text, layout, video_only=video_only)
        lengths = layout.lengths if with_references else layout.video_lengths
        patches = self.head(x, e, lengths)
        return [
            unpatchify(rows, structure.grid, self.config, latent.shape[-2:])
            for rows, structure, latent in zip(patches.split(lengths), layout.structures, latents, strict=True)
        ]

    def checkpointed(self, work: Callable[..., Tensor], *arguments: Any, **named: Any) -> Tensor:
        """What a block computes; of what its backward pass needs, `checkpointing` says what is computed again there."""
        if self.checkpointing == "none" or not torch.is_grad_enabled():
            return work(*arguments, **named)
        how: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}
        if self.checkpointing in _KEPT:
            how["context_fn"] = partial(create_selective_checkpoint_contexts, list(_KEPT[self.checkpointing]))
        return checkpoint(work, *arguments, **named, **how)

    def embed_patches(self, latents: Sequence[Tensor], references: Sequence[Tensor | None]) -> Tensor:
        """All frames of all samples as patches, embedded: [L, dim] float32."""
        weight = self.patch_embedding.weight.flatten(1)
        patches = torch.cat(
            [
                patchify(latent if clean is None else torch.cat((latent, clean.to(latent.dtype)), dim=1), self.config)
                for latent, clean in zip(latents, references, strict=True)
            ]
        )
        return F.linear(patches.to(weight.dtype), weight, self.patch_embedding.bias).float()

    def embed_text(self, context: Sequence[Tensor]) -> Tensor:
        """Zero-padded text through its MLP, [samples, text_len, dim]. Padding is not masked: all rows attend to it."""
        padded = torch.stack([F.pad(text, (0, 0, 0, self.config.text_len - text.shape[0])) for text in context])
        return self.text_embedding(padded.to(next(self.text_embedding.parameters()).dtype))

    def embed_time(self, timesteps: Tensor) -> Tensor:
        """Time embedding e, [samples, dim] float32."""
        first, activation, second = self.time_embedding
        hidden = _linear_float32(first, sinusoid(timesteps, self.config.freq_dim))
        return _linear_float32(second, activation(hidden))

    def project_time(self, e: Tensor) -> Tensor:
        """The six modulations, [samples, 6, dim] float32."""
        activation, projection = self.time_projection
        return _linear_float32(projection, activation(e)).unflatten(1, (6, -1))


def sinusoid(timesteps: Tensor, dim: int) -> Tensor:
    """Sinusoidal time features, cosines first, formed in float64: [B] to [B, dim] float32."""
    half = dim // 2
    frequencies = 10000.0 ** (-torch.arange(half, dtype=torch.float64, device=timesteps.device) / half)
    angle = timesteps.double()[:, None] * frequencies
    return torch.cat((angle.cos(), angle.sin()), dim=1).float()


def token_grid(latent_hw: Sequence[int], patch: tuple[int, int, int] = (1, 2, 2)) -> tuple[int, int]:
    """Token grid (h, w) of latents of height and width H, W; a last half patch counts as one."""
    height, width = latent_hw
    return -(-height // patch[1]), -(-width // patch[2])


def patchify(latent: Tensor, config: DiTConfig) -> Tensor:
    """[C, F, H, W] to [F·h·w, C·rows·columns], in the channel order of the patch embedding's kernel."""
    _, rows, columns = config.patch
    height, width = latent.shape[-2:]
    padded = F.pad(latent, (0, -width % columns, 0, -height % rows))
    return (
        padded.unflatten(3, (-1, columns)).unflatten(2, (-1, rows)).permute(1, 2, 4, 0, 3, 5).flatten(3).flatten(0, 2)
    )


def unpatchify(tokens: Tensor, grid: tuple[int, int], config: DiTConfig, latent_hw: Sequence[int]) -> Tensor:
    """[F·h·w, rows·columns·C] to [C, F, H, W], cropped to the latent's size."""
    _, rows, columns = config.patch
    x = tokens.view(-1, *grid, rows, columns, config.out_channels).permute(5, 0, 1, 3, 2, 4)
    return x.flatten(4).flatten(2, 3)[..., : latent_hw[0], : latent_hw[1]]


def modulate(x: Tensor, shift: Tensor, scale: Tensor, lengths: list[int], eps: float) -> Tensor:
    """Layer norm, then each sample's own scale and shift ([samples, dim]) as the affine part of the norm; float32."""
    parts = [
        F.layer_norm(part, part.shape[-1:], 1 + scale[index], shift[index], eps)
        for index, part in enumerate(x.float().split(lengths))
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def add_gated(x: Tensor, y: Tensor, gate: Tensor, lengths: list[int]) -> Tensor:
    """x + y·gate with each sample's own gate ([samples, dim]); float32."""
    parts = [
        torch.addcmul(old, new.float(), gate[index])
        for index, (old, new) in enumerate(zip(x.split(lengths), y.split(lengths), strict=True))
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _linear_float32(layer: nn.Module, x: Tensor) -> Tensor:
    """A linear layer in float32 whatever the parameters' dtype or autocast: for the few places bfloat16 would hurt."""
    with torch.autocast(x.device.type, enabled=False):
        return F.linear(x.float(), layer.get_parameter("weight").float(), layer.get_parameter("bias").float())


_ATTENTION = (
    torch.ops.aten._scaled_dot_product_flash_attention.default,
    torch.ops.aten._scaled_dot_product_efficient_attention.default,
    torch.ops.aten._scaled_dot_product_cudnn_attention.default,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
)
_KEPT: Mapping[str, tuple[Any, ...]] = {
    "keep_attention": _ATTENTION,
    "keep_matmul": (*_ATTENTION, torch.ops.aten.mm.default, torch.ops.aten.addmm.default),
}


def _check_inputs(
    latents: Sequence[Tensor],
    references: Sequence[Tensor | None],
    context: Sequence[Tensor],
    timesteps: Tensor,
    layout: Layout,
    config: DiTConfig,
) -> None:
    """Compare shapes, which are host data, with the layout; looking at values would wait for the device."""
    count = len(layout.structures)
    lengths = {"latents": len(latents), "references": len(references), "context": len(context)}
    lengths["timesteps"] = timesteps.numel()
    for name, length in lengths.items():
        if length != count:
            raise ValueError(f"{name} has {length} samples, the layout {count}")
    if timesteps.dim() != 1:
        raise ValueError(f"timesteps must be [samples], got shape {tuple(timesteps.shape)}")
    for index, structure in enumerate(layout.structures):
        latent, clean, text = latents[index], references[index], context[index]
        expected = (config.in_channels, structure.frames)
        if latent.dim() != 4 or tuple(latent.shape[:2]) != expected:
            raise ValueError(
                f"sample {index}: latent {tuple(latent.shape)} is not [{expected[0]}, {expected[1]}, H, W]"
            )
        if token_grid(latent.shape[-2:], config.patch) != structure.grid:
            raise ValueError(
                f"sample {index}: a latent of {tuple(latent.shape[-2:])} has token grid "
                f"{token_grid(latent.shape[-2:], config.patch)}, the structure says {structure.grid}"
            )
        wanted = (config.in_channels, len(structure.references), *latent.shape[-2:])
        got = (config.in_channels, 0, *latent.shape[-2:]) if clean is None else tuple(clean.shape)
        if got != wanted:
            raise ValueError(f"sample {index}: reference latents are {got}, the structure needs {wanted}")
        if text.dim() != 2 or text.shape[1] != config.text_dim or text.shape[0] > config.text_len:
            raise ValueError(
                f"sample {index}: context {tuple(text.shape)} is not [≤ {config.text_len}, {config.text_dim}]"
            )
