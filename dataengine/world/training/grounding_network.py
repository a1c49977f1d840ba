"""A Grounding DINO small enough to train on a CPU: transformers' classes, with a ResNet for eyes, and its processor.

Its backbone first learns to name what each cell shows, with batch norms that adapt; in the detector they are frozen.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    BertConfig,
    BertTokenizerFast,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    GroundingDinoImageProcessor,
    GroundingDinoProcessor,
    ResNetBackbone,
    ResNetConfig,
)

from dataengine.world.cast import ACCESSORIES, COLOURS, GARMENTS, HAIR_COLOURS
from dataengine.world.figure import Labels
from dataengine.world.things import THINGS
from dataengine.world.training.grounding_phrases import STYLES, Entity
from dataengine.world.training.grounding_views import Pool, View, normalised

SHORTEST, LONGEST = 112, 160
"""Sides of what the network sees, in pixels. A frame of the world is seen at 160 x 96, a crop at 112 x 160."""
QUERIES = 16
LONGEST_PROMPT = 24
"""In tokens."""
SPECIAL = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]", 1012: ".", 1029: "?"}
"""Ids that the network's code takes for granted."""
WORDS = (
    "person", "people", "man", "woman", "a", "an", "the", "in", "with", "hair", "pot", "t", "-", "striped",
    *COLOURS, *(c for c in HAIR_COLOURS if c not in COLOURS), *STYLES, *(g for g in GARMENTS if g != "t-shirt"),
    *ACCESSORIES, *THINGS,
)  # fmt: skip


def processor() -> GroundingDinoProcessor:
    """The official processor with the world's words, and letters for all others."""
    letters = string.ascii_lowercase
    pieces = iter([*WORDS, *(x for x in letters if x not in WORDS), *(f"##{x}" for x in letters)])
    vocabulary = [SPECIAL.get(i) or next(pieces, f"[unused{i}]") for i in range(1030)]
    with TemporaryDirectory() as folder:
        (Path(folder) / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
        words = BertTokenizerFast(str(Path(folder) / "vocab.txt"))
    images = GroundingDinoImageProcessor(size={"shortest_edge": SHORTEST, "longest_edge": LONGEST})
    return GroundingDinoProcessor(images, words)


def network(backbone: ResNetBackbone) -> GroundingDinoForObjectDetection:
    """The detector around a trained backbone; all that it can learn is open to training."""
    config = GroundingDinoConfig(
        backbone_config=backbone.config,
        text_config=BertConfig(
            vocab_size=1030, hidden_size=64, num_hidden_layers=1, num_attention_heads=4, intermediate_size=128,
            max_position_embeddings=LONGEST_PROMPT, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        ),
        d_model=64, num_queries=QUERIES, num_feature_levels=3, max_text_len=LONGEST_PROMPT,
        encoder_layers=1, encoder_attention_heads=4, encoder_ffn_dim=128, encoder_n_points=2,
        decoder_layers=2, decoder_attention_heads=4, decoder_ffn_dim=256, decoder_n_points=4,
        dropout=0.0, fusion_droppath=0.0,
    )  # fmt: skip
    model = GroundingDinoForObjectDetection(config)
    eyes = model.model.backbone.conv_encoder.model
    eyes.load_state_dict({k: v for k, v in backbone.state_dict().items() if not k.endswith("num_batches_tracked")})
    eyes.requires_grad_(True)  # the library freezes ResNets
    with torch.no_grad():
        for layer in model.model.encoder.layers:
            layer.fusion_layer.vision_param.fill_(0.5)  # 1e-4 takes longer to grow than all of this training
            layer.fusion_layer.text_param.fill_(0.5)
            layer.text_enhancer_layer.layer_norm_after.weight.fill_(0.2)
        # Products of queries and words begin at a low score, as focal loss wants it: their biases oppose each other.
        words = model.model.encoder.layers[-1].text_enhancer_layer.layer_norm_after
        words.bias.fill_(-0.2)
        model.model.decoder.layer_norm.bias.fill_(0.2)
        model.model.enc_output_norm.bias.fill_(0.2)
    return model


def eyes() -> ResNetBackbone:
    """An untrained backbone with feature maps at 1/8 and 1/16 of the view."""
    return ResNetBackbone(
        ResNetConfig(
            embedding_size=32, hidden_sizes=[32, 64, 96], depths=[1, 2, 2], layer_type="basic",
            out_features=["stage2", "stage3"],
        )
    )  # fmt: skip


_KINDS = ("hair", *GARMENTS, *ACCESSORIES, *THINGS)
_COLOURS = (*COLOURS, *(f"{colour} hair" for colour in HAIR_COLOURS))
_DETAILS = ("plain", "striped", *STYLES)
_NAMES = (1 + 1 + len(_KINDS), len(_COLOURS), len(_DETAILS))
"""Answers to the three questions: the scene, a person's own parts or a thing; its colour; its pattern or style."""


def pretrain(pool: Pool, steps: int, say: Callable[[str], None], batch: int = 12) -> ResNetBackbone:
    """A backbone that names what it sees: `steps` batches of views, cell by cell."""
    backbone = eyes()
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.03
    heads = nn.ModuleList(nn.Conv2d(channels, sum(_NAMES), 1) for channels in backbone.channels)
    optimizer = torch.optim.AdamW([*backbone.parameters(), *heads.parameters()], lr=2e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=max(2, steps), pct_start=0.15)
    backbone.train()
    for step in range(steps):
        pool.grow(1)
        views = pool.crops(batch, 0) if step % 2 else pool.frames(batch, 0)
        maps = backbone(normalised(views)).feature_maps
        loss = torch.stack([_named(head(x), views) for head, x in zip(heads, maps, strict=True)]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            say(f"backbone {step}/{steps}: loss {loss.item():.3f}")
    return backbone.eval()


def _named(answers: Tensor, views: Sequence[View]) -> Tensor:
    """Cross entropy of the three questions over the cells that have an answer."""
    true = torch.from_numpy(np.stack([_names(view, answers.shape[-2:]) for view in views]))  # [views, 3, rows, columns]
    parts = zip(answers.split(_NAMES, dim=1), true.unbind(1), strict=True)
    return torch.stack([functional.cross_entropy(a, t, ignore_index=-1) for a, t in parts if (t >= 0).any()]).sum()


def _names(view: View, shape: Sequence[int]) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    """The right answers at the cells' middles, int64 [3, rows, columns]; −1 where a question has none."""
    return _answers(view.entities)[:, at_cells(view.labels, shape)]


def at_cells(labels: Labels, shape: Sequence[int]) -> Labels:
    """The labels at the middles of a feature map's cells, [rows, columns]."""
    rows, columns = shape
    y = ((np.arange(rows) + 0.5) * labels.shape[0] / rows).astype(int)
    x = ((np.arange(columns) + 0.5) * labels.shape[1] / columns).astype(int)
    return labels[np.ix_(y, x)]


def _answers(drawn: Sequence[Entity]) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    table = np.full((3, 256), -1, np.int64)
    table[0, 0] = 0
    for entity in drawn:  # people come before what they wear
        at, term = list(entity.labels), entity.term
        if term.kind in ("man", "woman"):
            table[0, at] = 1
            continue
        table[0, at] = 2 + _KINDS.index(term.kind)
        hair = term.kind == "hair"
        table[1, at] = _COLOURS.index(f"{term.colour} hair" if hair else str(term.colour))
        if hair or term.kind in GARMENTS:
            table[2, at] = _DETAILS.index(term.detail or "plain")
    return table
