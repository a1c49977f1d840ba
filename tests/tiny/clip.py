"""A tiny CLIP, its image encoder alone, and heads shaped as LAION's, all with random weights."""

from itertools import pairwise
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import pre_tokenizers
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

WIDTH = 24
"""Of the embedding."""


def save_encoder(folder: Path, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    config = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=56,
        patch_size=14,
        projection_dim=WIDTH,
    )
    CLIPVisionModelWithProjection(config).save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 56}, crop_size=56).save_pretrained(folder)
    return folder


def head_tensors(*sizes: int, seed: int = 1) -> dict[str, torch.Tensor]:
    """`layers.N.weight` and `.bias` of a chain of linear layers; numbers leave gaps, where LAION's has dropout."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for number, (a, b) in enumerate(pairwise(sizes)):
        tensors[f"layers.{2 * number}.weight"] = torch.randn(b, a, generator=generator)
        tensors[f"layers.{2 * number}.bias"] = torch.randn(b, generator=generator)
    return tensors


def save_head(file: Path, *sizes: int, seed: int = 1) -> Path:
    """As safetensors or as a .pth, by the file's suffix."""
    tensors = head_tensors(*sizes, seed=seed)
    if file.suffix == ".safetensors":
        save_file(tensors, file)
    else:
        torch.save(tensors, file)
    return file


def save_whole(folder: Path, seed: int = 0) -> Path:
    """Both halves of a CLIP, with a tokenizer of single letters."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    torch.manual_seed(seed)
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    end = len(pieces) - 1
    config = CLIPConfig(
        text_config={**small, "vocab_size": len(pieces), "bos_token_id": end - 1, "eos_token_id": end},
        vision_config={**small, "image_size": 56, "patch_size": 14},
        projection_dim=WIDTH,
    )
    CLIPModel(config).save_pretrained(folder)
    CLIPTokenizer(vocab={p: i for i, p in enumerate(pieces)}, merges=[], model_max_length=77).save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 56}, crop_size=56).save_pretrained(folder)
    return folder
