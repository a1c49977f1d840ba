"""A Grounding DINO small enough to train on a CPU: transformers' classes, with a ResNet for eyes, and its processor.

Its backbone first learns to name what each cell shows, with batch norms that adapt; in the detector they are frozen.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray
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
from dataengine.world.training.grounding_plan import Plan
from dataengine.world.training.grounding_views import View

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


def processor(plan: Plan) -> GroundingDinoProcessor:
    """The official processor with the world's words, and letters for all others."""
    letters = string.ascii_lowercase
    pieces = iter([*WORDS, *(x for x in letters if x not in WORDS), *(f"##{x}" for x in letters)])
    vocabulary = [SPECIAL.get(i) or next(pieces, f"[unused{i}]") for i in range(1030)]
    with TemporaryDirectory() as folder:
        (Path(folder) / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
        words = BertTokenizerFast(str(Path(folder) / "vocab.txt"))
    images = GroundingDinoImageProcessor(size={"shortest_edge": plan.shortest, "longest_edge": plan.longest})
    return GroundingDinoProcessor(images, words)


def network(backbone: ResNetBackbone, plan: Plan) -> GroundingDinoForObjectDetection:
    """The detector around a trained backbone; all that it can learn is open to training."""
    config = GroundingDinoConfig(
        backbone_config=backbone.config,
        text_config=BertConfig(
            vocab_size=1030, hidden_size=64, num_hidden_layers=1, num_attention_heads=4, intermediate_size=128,
            max_position_embeddings=LONGEST_PROMPT, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        ),
        d_model=plan.width, num_queries=QUERIES, num_feature_levels=3, max_text_len=LONGEST_PROMPT,
        encoder_layers=1, encoder_attention_heads=4, encoder_ffn_dim=2 * plan.width, encoder_n_points=2,
        decoder_layers=2, decoder_attention_heads=4, decoder_ffn_dim=4 * plan.width, decoder_n_points=4,
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
    # Nothing is dropped out, and in training the library stops to look for infinities. Some of its parameters are made
    # on the CPU whatever the default device is.
    return model.eval().to(torch.get_default_device())


def eyes(plan: Plan) -> ResNetBackbone:
    """An untrained backbone with feature maps at 1/8 and 1/16 of the view."""
    return ResNetBackbone(
        ResNetConfig(
            embedding_size=32, hidden_sizes=list(plan.stages), depths=[1, 2, 2], layer_type="basic",
            out_features=["stage2", "stage3"],
        )
    )  # fmt: skip


_KINDS = ("hair", *GARMENTS, *ACCESSORIES, *THINGS)
_COLOURS = (*COLOURS, *(f"{colour} hair" for colour in HAIR_COLOURS))
_DETAILS = ("plain", "striped", *STYLES)
_NAMES = (1 + 1 + len(_KINDS), len(_COLOURS), len(_DETAILS))
"""Answers to the three questions: the scene, a person's own parts or a thing; its colour; its pattern or style."""


class Eyes:
    """A backbone that learns to name what it sees, cell by cell, before it becomes the detector's."""

    def __init__(self, plan: Plan, steps: int) -> None:
        self.backbone = eyes(plan).train()
        for module in self.backbone.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 0.03
        self._heads = nn.ModuleList(nn.Conv2d(channels, sum(_NAMES), 1) for channels in self.backbone.channels)
        weights = [*self.backbone.parameters(), *self._heads.parameters()]
        self._optimizer = torch.optim.AdamW(weights, lr=2e-3, weight_decay=1e-4, fused=True)
        self._schedule = torch.optim.lr_scheduler.OneCycleLR(
            self._optimizer, 3e-3, total_steps=max(2, steps), pct_start=0.15
        )

    def learn(self, pixels: Tensor, true: Sequence[Tensor]) -> Tensor:
        """A step, and its loss.

        Args:
            pixels: normalised, [views, 3, rows, columns].
            true: `names` at the cells of each feature map, int64 [views, 3, rows, columns].
        """
        maps = self.backbone(pixels).feature_maps
        loss = torch.stack([_named(h(x), t) for h, x, t in zip(self._heads, maps, true, strict=True)]).sum()
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        self._schedule.step()
        return loss.detach()


def _named(answers: Tensor, true: Tensor) -> Tensor:
    """Cross entropy of the three questions over the cells that have an answer."""
    parts = zip(answers.split(_NAMES, dim=1), true.unbind(1), strict=True)
    losses = [functional.cross_entropy(a, t, ignore_index=-1, reduction="sum") for a, t in parts]
    return (torch.stack(losses) / (true >= 0).sum((0, 2, 3)).clamp(min=1)).sum()


def names(view: View, shape: tuple[int, int]) -> NDArray[np.int64]:
    """The right answers at the cells' middles, int64 [3, rows, columns]; −1 where a question has none."""
    return _answers(view.entities)[:, at_cells(view.labels, shape)]


def at_cells(labels: Labels, shape: tuple[int, int]) -> Labels:
    """The labels at the middles of a feature map's cells, [rows, columns]."""
    rows, columns = shape
    y = ((np.arange(rows) + 0.5) * labels.shape[0] / rows).astype(int)
    x = ((np.arange(columns) + 0.5) * labels.shape[1] / columns).astype(int)
    return labels[np.ix_(y, x)]


def _answers(drawn: Sequence[Entity]) -> NDArray[np.int64]:
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
