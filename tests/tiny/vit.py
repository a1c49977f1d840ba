"""A tiny ViT image classifier as the public NSFW detectors are, with random weights."""

from pathlib import Path

import torch
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor


def save_classifier(folder: Path, labels: tuple[str, ...] = ("normal", "nsfw"), seed: int = 0) -> Path:
    torch.manual_seed(seed)
    config = ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=32,
        patch_size=8,
        id2label=dict(enumerate(labels)),
        label2id={label: number for number, label in enumerate(labels)},
    )
    network = ViTForImageClassification(config)
    with torch.no_grad():  # a fresh head hardly tells images apart
        network.classifier.weight.normal_(std=0.2)
    network.save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder
