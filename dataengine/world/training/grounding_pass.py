"""Grounding DINO's forward pass as training needs it: the same weights and results, in half of the time.

Several phrases are asked of each view, no view is padded and no token is far away. What hangs on the view alone is
computed once for all of its phrases; in the fusion of pixels and words, projections go to the few words instead of the
many cells (products are associative); and boxes are worked out for the cells that somebody asks of.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.models.grounding_dino.modeling_grounding_dino import (
    GroundingDinoEncoder,
    encode_sinusoidal_position_embedding,
    generate_masks_with_special_tokens_and_transfer_map,
)

Shapes = list[tuple[int, int]]


@dataclass(frozen=True)
class Answers:
    """What the network says of every prompt; prompts of a view stand together.

    Attributes:
        shapes: rows and columns of the feature maps.
        likeness: how cells and words meet in the fusion's heads, [views, cells, phrases, tokens, heads].
        cells: logits of every cell as a proposal, [prompts, cells, tokens].
        boxes_at: boxes of proposals, [n, 4], by prompt and cell [n].
        logits, boxes: of every layer of the decoder, [prompts, queries, tokens] and [prompts, queries, 4].
    """

    shapes: Shapes
    likeness: Tensor
    cells: Tensor
    boxes_at: Callable[[Tensor, Tensor], Tensor]
    logits: list[Tensor]
    boxes: list[Tensor]


def answers(network: Any, pixels: Tensor, tokens: Any) -> Answers:
    """Ask each of the views as many phrases as there are rows of tokens for it.

    Args:
        network: a `GroundingDinoForObjectDetection` with one layer in its encoder.
        pixels: [views, 3, rows, columns].
        tokens: what the tokenizer says of views x phrases prompts.
    """
    model, views = network.model, len(pixels)
    there = tokens["attention_mask"].bool()
    near, places = generate_masks_with_special_tokens_and_transfer_map(tokens["input_ids"])
    words = model.text_backbone(tokens["input_ids"], near[:, None], tokens["token_type_ids"], places).last_hidden_state
    words = model.text_projection(words)

    maps = model.backbone.conv_encoder.model(pixels).feature_maps
    maps = [project(x) for project, x in zip(model.input_proj_vision, (*maps, maps[-1]), strict=True)]
    shapes = [(x.shape[2], x.shape[3]) for x in maps]
    vision = torch.cat([x.flatten(2).transpose(1, 2) for x in maps], 1)
    where = torch.cat([_positions(model, level, shape) for level, shape in enumerate(shapes)], 1)
    whole = pixels.new_ones(1, len(shapes), 2)
    layout = {"spatial_shapes": torch.tensor(shapes), "spatial_shapes_list": shapes, "level_start_index": None}

    (layer,) = model.encoder.layers
    vision, words, likeness = _fused(layer.fusion_layer, vision, words.view(views, -1, *words.shape[1:]), there)
    order = encode_sinusoidal_position_embedding(places[..., None], num_pos_feats=layer.d_model)
    words, _ = layer.text_enhancer_layer(hidden_states=words, attention_masks=near, position_embeddings=order)
    cells = GroundingDinoEncoder.get_reference_points(shapes, whole, pixels.device)
    vision, _ = layer.deformable_layer(
        hidden_states=vision, attention_mask=None, position_embeddings=where, reference_points=cells, **layout
    )

    proposals = model.enc_output_norm(model.enc_output(vision))
    scores = _likeness(proposals, words, there)
    start = _starts(shapes)

    def boxes_at(prompt: Tensor, cell: Tensor) -> Tensor:
        boxes: Tensor = model.encoder_output_bbox_embed(proposals[prompt, cell]) + start[cell]
        return boxes.sigmoid()

    best = scores.detach().max(-1).values.topk(model.config.num_queries, dim=1).indices
    with torch.no_grad():
        reference = boxes_at(torch.arange(len(words))[:, None].expand_as(best), best)
    found = model.decoder(
        inputs_embeds=model.query_position_embeddings.weight[None].expand(len(words), -1, -1),
        vision_encoder_hidden_states=vision,
        vision_encoder_attention_mask=None,
        text_encoder_hidden_states=words,
        text_encoder_attention_mask=~there,
        reference_points=reference,
        valid_ratios=whole.expand(len(words), -1, -1),
        return_dict=True,
        **layout,
    )
    logits, boxes = [], []
    before = [reference, *found.intermediate_reference_points.unbind(1)]
    for index, hidden in enumerate(found.intermediate_hidden_states.unbind(1)):
        logits.append(_likeness(hidden, words, there))
        boxes.append((network.bbox_embed[index](hidden) + torch.special.logit(before[index], eps=1e-5)).sigmoid())
    return Answers(shapes, likeness, scores, boxes_at, logits, boxes)


def _fused(fusion: Any, vision: Tensor, words: Tensor, there: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Pixels and words of every prompt, each with what it attends to of the other; and `Answers.likeness`.

    Args:
        vision: [views, cells, d].
        words: [views, phrases, tokens, d].
        there: which tokens are no padding, [views x phrases, tokens].
    """
    attention, heads = fusion.attn, fusion.attn.num_heads
    vision, words = fusion.layer_norm_vision(vision), fusion.layer_norm_text(words)
    views, phrases, tokens, _ = words.shape

    def by_head(weight: Tensor) -> Tensor:
        return weight.unflatten(0, (heads, -1))

    keys = attention.text_proj(words).unflatten(-1, (heads, -1)) * attention.scale
    toward = torch.einsum("vpthe,hed->vpthd", keys, by_head(attention.vision_proj.weight))
    bias = torch.einsum("vpthe,he->vpth", keys, by_head(attention.vision_proj.bias))
    scores = torch.baddbmm(bias.flatten(1)[:, None], vision, toward.flatten(1, 3).transpose(1, 2))

    cells = scores.softmax(1).transpose(1, 2) @ vision  # what every token looks at
    cells = cells.view(views, phrases, tokens, heads, -1)
    looked = torch.einsum("vpthd,hed->vpthe", cells, by_head(attention.values_vision_proj.weight)).flatten(-2)
    looked = attention.out_text_proj(looked + attention.values_vision_proj.bias)

    values = attention.values_text_proj(words).unflatten(-1, (heads, -1))
    out = attention.out_vision_proj
    values = torch.einsum("vpthe,dhe->vphtd", values, out.weight.unflatten(1, (heads, -1))) * fusion.vision_param
    scores = scores.unflatten(-1, (phrases, tokens, heads))
    shares = scores.permute(0, 2, 1, 4, 3).flatten(0, 1)
    shares = shares.masked_fill(~there[:, None, None], float("-inf")).softmax(-1).flatten(2)
    stays = (vision + fusion.vision_param * out.bias)[:, None].expand(-1, phrases, -1, -1).flatten(0, 1)
    vision = torch.baddbmm(stays, shares, values.flatten(0, 1).flatten(1, 2))
    return vision, (words + fusion.text_param * looked).flatten(0, 1), scores


def _likeness(vision: Tensor, words: Tensor, there: Tensor) -> Tensor:
    """Logits of cells or queries for every token; without the columns that the library fills up with for long texts."""
    return (vision @ words.transpose(1, 2)).masked_fill(~there[:, None], float("-inf"))


def _positions(model: Any, level: int, shape: tuple[int, int]) -> Tensor:
    """Of the cells of a feature map, [1, cells, d]."""
    whole = torch.ones(1, *shape, dtype=torch.bool)
    found: Tensor = (
        model.backbone.position_embedding(whole, whole).flatten(2).transpose(1, 2) + model.level_embed[level]
    )
    return found


def _starts(shapes: Shapes) -> Tensor:
    """Where the boxes of proposals start from, as logits [cells, 4]: squares around the cells, by feature map."""
    found = []
    for level, (rows, columns) in enumerate(shapes):
        y, x = torch.meshgrid((torch.arange(rows) + 0.5) / rows, (torch.arange(columns) + 0.5) / columns, indexing="ij")
        side = torch.full_like(x, 0.05 * 2.0**level)
        found.append(torch.stack((x, y, side, side), -1).view(-1, 4))
    return torch.logit(torch.cat(found))
