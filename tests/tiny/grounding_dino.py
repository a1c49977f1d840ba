"""A Grounding DINO of 0.5 M random parameters, saved with its processor: the architecture of the published ones."""

import string
from pathlib import Path

import torch
from transformers import (
    BertConfig,
    BertTokenizerFast,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    GroundingDinoImageProcessor,
    GroundingDinoProcessor,
    SwinConfig,
)

WORDS = ("person", "woman", "man", "shirt", "top", "jacket", "hat", "ball", "red", "orange", "dark", "white", "the")


def vocabulary() -> list[str]:
    """Letters and some words, with the ids that the network's code takes for granted: BERT's of specials, '.', '?'."""
    fixed = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]", 1012: ".", 1029: "?"}
    pieces = iter([*WORDS, *string.ascii_lowercase, *(f"##{letter}" for letter in string.ascii_lowercase)])
    return [fixed.get(i) or next(pieces, f"[unused{i}]") for i in range(1030)]


def build(folder: Path, seed: int = 0) -> Path:
    """The folder, filled with a checkpoint as `save_pretrained` writes it. Takes a second.

    The weights are spread wider than an untrained network's, so that images and words make a difference.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(vocabulary()))
    backbone = SwinConfig(
        image_size=64, embed_dim=16, depths=[1, 1, 2, 1], num_heads=[1, 2, 2, 4], window_size=4, out_indices=[2, 3, 4]
    )
    text = BertConfig(vocab_size=1030, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)
    config = GroundingDinoConfig(
        backbone_config=backbone,
        text_config=text,
        d_model=32,
        encoder_layers=1,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        num_queries=30,
    )
    torch.manual_seed(seed)
    model = GroundingDinoForObjectDetection(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1 and "embeddings" not in name:
                torch.nn.init.normal_(weight, std=1.4 / weight[0].numel() ** 0.5)
            elif name.endswith(("vision_param", "text_param")):
                weight.fill_(0.5)
    model.save_pretrained(folder)
    images = GroundingDinoImageProcessor(size={"shortest_edge": 96, "longest_edge": 160})
    GroundingDinoProcessor(images, BertTokenizerFast(str(folder / "vocab.txt"))).save_pretrained(folder)
    return folder
