"""Settings to the parts of a run: device, codec, text encoder, model."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import torch

from dataengine.lumosx.codec import Codec, DctCodec, WanCodec
from dataengine.lumosx.settings import CodecSettings, ModelSettings, TextSettings
from dataengine.lumosx.start import look_around
from dataengine.lumosx.text import MiniLmEncoder, TextEncoder, Umt5Encoder
from dataengine.lumosx.transformer import PRESETS, DiT, DiTConfig
from dataengine.lumosx.weights import load_into, load_weights

_SIZES = {
    "embedded": DiTConfig(dim=192, ffn_dim=768, heads=2, layers=2, freq_dim=128),
    "wan1_3b": PRESETS["wan2.1-t2v-1.3b"],
    "wan14b": PRESETS["wan2.1-t2v-14b"],
}


def best_device() -> torch.device:
    """The GPU of this process if there is one, else the CPU."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def seed_of(*parts: object) -> int:
    """A seed for `torch.Generator` that depends on what is drawn for, not on what was drawn before."""
    digest = hashlib.sha256(":".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def open_codec(settings: CodecSettings, device: torch.device | str) -> Codec:
    """Raises `MissingWeightsError` when the Wan VAE is not on this machine."""
    if settings.name == "wan":
        return WanCodec(settings.model, settings.revision, device)
    return DctCodec(device)


def open_text(settings: TextSettings, device: torch.device | str) -> TextEncoder:
    """Raises `MissingWeightsError` when UMT5 is not on this machine."""
    if settings.name == "umt5":
        return Umt5Encoder(settings.model, settings.revision, settings.max_tokens, device)
    return MiniLmEncoder(settings.max_tokens, device)


def model_config(settings: ModelSettings, text_dim: int, text_len: int) -> DiTConfig:
    """The model's shape: that of its size, with the fields that the settings name."""
    shape = {name: value for name in ("dim", "ffn_dim", "heads", "layers") if (value := getattr(settings, name))}
    return replace(
        _SIZES[settings.size],
        **shape,
        text_dim=text_dim,
        text_len=text_len,
        r2pe=settings.r2pe,
        csam=settings.csam,
        mcam_ratio=settings.mcam_ratio,
        cell_map=settings.cell_map,
    )


def new_model(settings: ModelSettings, config: DiTConfig, seed: int, device: torch.device | str) -> DiT:
    """The model with its first weights: drawn from the seed, or those of `settings.init`.

    Raises:
        WeightsError, FileNotFoundError: the weights of `settings.init` do not fit or are not there.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed_of(seed, "model"))
        model = DiT(config, checkpointing=settings.checkpointing)
        model.init_weights()
        if settings.start == "local":
            look_around(model)
    if settings.init is not None:
        load_into(model, load_weights(settings.init))
    return model.to(device)
