"""What Grounding DINO is trained with when every prompt is one phrase.

A query's score is the highest of its tokens' (`post_process_object_detection`): focal loss is taken of that. Proposals
are trained densely: of every feature map the cells around the middle of a true box answer for it (FCOS, Tian et al.
2019, arXiv:1904.01355). Queries are matched to true boxes layer by layer (DETR, Carion et al. 2020,
arXiv:2005.12872). The library's own loss reads the labels of a batch of one or two, and gives proposals no gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional

ALPHA, GAMMA = 0.25, 2.0
"""Of focal loss (Lin et al. 2017, arXiv:1708.02002)."""
L1, GIOU = 5.0, 2.0
"""Weights of the box losses, as in DETR."""
NEAR = 1.0
"""Cells so far from a true box's middle, in cells along each axis, answer for it."""
SIDES = ((0.0, 0.32), (0.14, 0.6), (0.4, 2.0))
"""By feature map, the sides that it answers for: the root of a box's area as a share of the view's longer side."""
RARE = 4.0
"""Weight of cells of which a word is true: most things are small."""
UNCLEAR = 0.3
"""IoU with a box of something too small to tell from which a query is neither right nor wrong."""


Size = tuple[int, int]


@dataclass(frozen=True)
class Targets:
    """True boxes of a batch's prompts: centre, width and height as shares of the view, filled up to as many rows.

    Attributes:
        boxes: float32 [prompts, most, 4].
        there: bool [prompts, most]: which rows are boxes.
        unclear: bool [prompts, most]: which rows are boxes of what is too small to tell.
    """

    boxes: Tensor
    there: Tensor
    unclear: Tensor

    @classmethod
    def of(cls, boxes: Sequence[Tensor], ignored: Sequence[Tensor]) -> Targets:
        most = max(1, *(len(a) + len(b) for a, b in zip(boxes, ignored, strict=True)))
        filled = torch.full((len(boxes), most, 4), 0.5)
        there, unclear = (
            torch.zeros(len(boxes), most, dtype=torch.bool),
            torch.zeros(len(boxes), most, dtype=torch.bool),
        )
        for i, (sure, small) in enumerate(zip(boxes, ignored, strict=True)):
            filled[i, : len(sure)], filled[i, len(sure) : len(sure) + len(small)] = sure, small
            there[i, : len(sure)], unclear[i, len(sure) : len(sure) + len(small)] = True, True
        return cls(filled, there, unclear)


def proposal_loss(
    logits: Tensor, boxes_at: Callable[[Tensor, Tensor], Tensor], shapes: Sequence[Size], view: Size, targets: Targets
) -> Tensor:
    """Of the encoder's proposals, one a cell.

    Args:
        logits: [prompts, cells, tokens].
        boxes_at: boxes [n, 4] by prompt and cell [n].
        shapes: rows and columns of each feature map, in the cells' order.
        view: rows and columns of the view in pixels.
    """
    answers = _answering(shapes, view, targets)  # [prompts, most, cells]
    right = answers.any(1)
    areas = (targets.boxes[..., 2] * targets.boxes[..., 3])[..., None].expand_as(answers)
    which = torch.where(answers, areas, torch.inf).argmin(1)  # of two boxes with one cell it answers for the smaller
    weight = (right | ~_inside_unclear(shapes, targets)).float()
    score = logits.max(-1).values
    count = right.sum().clamp(min=1)
    loss = (focal(score, right.float()) * weight).sum() / count
    prompt, cell = right.nonzero(as_tuple=True)
    return loss + _box_loss(boxes_at(prompt, cell), targets.boxes[prompt, which[prompt, cell]]) / count


def query_loss(logits: Tensor, boxes: Tensor, targets: Targets) -> Tensor:
    """Of one layer of the decoder: logits [prompts, queries, tokens], boxes [prompts, queries, 4]."""
    score = logits.max(-1).values
    prompt, query, box = _matched(score.detach(), boxes.detach(), targets)
    right = torch.zeros_like(score)
    right[prompt, query] = 1
    overlap = iou(boxes.detach()[:, :, None], targets.boxes[:, None])[0]
    unclear = ((overlap > UNCLEAR) & targets.unclear[:, None]).any(-1)
    weight = ((right > 0) | ~unclear).float()
    count = max(1, len(prompt))
    loss = (focal(score, right) * weight).sum() / count
    return loss + _box_loss(boxes[prompt, query], targets.boxes[prompt, box]) / count


def presence_loss(logits: Tensor, targets: Targets, absent: float = 1.0) -> Tensor:
    """Cross entropy of each prompt's best score, [prompts, cells or queries, tokens]: is it there at all?

    Focal loss has little to say of scores in the middle, where a phrase with one wrong word stays. `absent` is the
    weight of prompts for what is not there.
    """
    there = targets.there.any(1)
    weight = torch.where(there, 1.0, absent * ~targets.unclear.any(1))
    best = logits.flatten(1).max(1).values
    entropy = functional.binary_cross_entropy_with_logits(best, there.float(), reduction="none")
    return (entropy * weight).sum() / weight.sum().clamp(min=1)


def word_loss(likeness: Tensor, shown: Tensor) -> Tensor:
    """Of how cells and words meet in the fusion: a cell attends to its colour in one head, to its kind in another.

    Without it, colours are learnt last: where a shirt is, is known long before whether it is red, and a score in the
    middle is a plateau that training is slow to leave.

    Args:
        likeness: logits [...].
        shown: int8 [...]: 1 where the word is the head's business and true of the cell, 0 where not, −1 where either
            will do.
    """
    asked, true = (shown >= 0).float(), (shown > 0).float()
    entropy = functional.binary_cross_entropy_with_logits(
        likeness, true, weight=asked, pos_weight=likeness.new_tensor(RARE), reduction="sum"
    )
    return entropy / asked.sum().clamp(min=1)


def focal(logits: Tensor, right: Tensor) -> Tensor:
    """Focal loss of each element; `right` is 0 or 1."""
    share = logits.sigmoid()
    off = torch.where(right > 0, 1 - share, share)
    side = torch.where(right > 0, ALPHA, 1 - ALPHA)
    return side * off**GAMMA * functional.binary_cross_entropy_with_logits(logits, right, reduction="none")


def iou(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """IoU and generalised IoU (Rezatofighi et al. 2019, arXiv:1902.09630) of boxes [..., 4] by centre and size."""
    a_min, a_max = a[..., :2] - a[..., 2:] / 2, a[..., :2] + a[..., 2:] / 2
    b_min, b_max = b[..., :2] - b[..., 2:] / 2, b[..., :2] + b[..., 2:] / 2
    common = (torch.minimum(a_max, b_max) - torch.maximum(a_min, b_min)).clamp(min=0).prod(-1)
    union = a[..., 2:].prod(-1) + b[..., 2:].prod(-1) - common
    around = (torch.maximum(a_max, b_max) - torch.minimum(a_min, b_min)).prod(-1)
    found = common / union.clamp(min=1e-9)
    return found, found - (around - union) / around.clamp(min=1e-9)


def _box_loss(boxes: Tensor, true: Tensor) -> Tensor:
    return L1 * (boxes - true).abs().sum() + GIOU * (1 - iou(boxes, true)[1]).sum()


def _cells(shapes: Sequence[Size]) -> tuple[Tensor, Tensor, Tensor]:
    """Of every cell: its middle [cells, 2], its size [cells, 2], and its feature map [cells]."""
    middles, sizes, maps = [], [], []
    for level, (rows, columns) in enumerate(shapes):
        y, x = torch.meshgrid((torch.arange(rows) + 0.5) / rows, (torch.arange(columns) + 0.5) / columns, indexing="ij")
        middles.append(torch.stack((x, y), -1).view(-1, 2))
        sizes.append(torch.tensor((1 / columns, 1 / rows)).expand(rows * columns, 2))
        maps.append(torch.full((rows * columns,), level))
    return torch.cat(middles), torch.cat(sizes), torch.cat(maps)


def _answering(shapes: Sequence[Size], view: Size, targets: Targets) -> Tensor:
    """Which cells answer for which boxes, bool [prompts, most, cells]."""
    middles, sizes, maps = _cells(shapes)
    boxes = targets.boxes[:, :, None]
    off = (middles - boxes[..., :2]).abs()
    near = (off <= NEAR * sizes).all(-1) & (off <= (boxes[..., 2:] / 2).clamp(min=sizes / 2)).all(-1)
    rows, columns = view
    side = (boxes[..., 2] * columns * boxes[..., 3] * rows).sqrt() / max(view)
    least, most = torch.tensor(SIDES[: len(shapes)]).T
    return near & (side >= least[maps]) & (side <= most[maps]) & targets.there[..., None]


def _inside_unclear(shapes: Sequence[Size], targets: Targets) -> Tensor:
    """Cells inside of a box that is too small to tell, bool [prompts, cells]."""
    middles, sizes, _ = _cells(shapes)
    boxes = targets.boxes[:, :, None]
    inside = ((middles - boxes[..., :2]).abs() <= boxes[..., 2:] / 2 + sizes / 2).all(-1)
    return (inside & targets.unclear[..., None]).any(1)


def _matched(score: Tensor, boxes: Tensor, targets: Targets) -> tuple[Tensor, Tensor, Tensor]:
    """Prompt, query and row of `targets.boxes` of every match."""
    share = score.sigmoid()
    cost = -share[..., None] * 2 + GIOU * (1 - iou(boxes[:, :, None], targets.boxes[:, None])[1])
    cost = cost + L1 * (boxes[:, :, None] - targets.boxes[:, None]).abs().sum(-1)
    counts, costs = targets.there.sum(1).tolist(), cost.cpu().numpy()
    found: list[tuple[int, int, int]] = []
    for i, count in enumerate(counts):
        queries, rows = linear_sum_assignment(costs[i, :, :count])
        found += [(i, int(query), int(row)) for query, row in zip(queries, rows, strict=True)]
    prompt, query, row = torch.tensor(found, dtype=torch.long, device=boxes.device).reshape(-1, 3).T
    return prompt, query, row
