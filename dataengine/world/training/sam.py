"""Trains a SAM of a million parameters on the world: `segment_anything`'s own classes, boxes as a grounder gives them.

Frames are 280 pixels wide, and so are the network's images: nothing is scaled. Patches of 7 pixels make masks of 1.75
pixels, which is what thin parts need (the best mask of that size has IoU 0.99 with the truth, one of 128 pixels 0.96).

What the recipe adds to SAM's own losses is a linear head on the image's embedding that names the part at every pixel of
the low-resolution mask: it teaches the encoder from all pixels at once, and is dropped at the end. Most steps leave out
the 16 rows of patches below the frame, which are padding; the last ones see them, as in use.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import Tensor, nn

from dataengine.models.sam_network import DECODER_HEADS, PIXEL_MEAN, PIXEL_STD
from dataengine.world.figure import FACE_PARTS, PARTS, TOP_PARTS, Part, label, object_labels, person_labels
from dataengine.world.script import HEIGHT, WIDTH
from dataengine.world.training.examples import TRAINING, Example, example

PATCH, DIM, DEPTH, HEADS, WINDOW = 7, 96, 4, 3, 12
GRID = WIDTH // PATCH
ROWS = HEIGHT // PATCH
"""Rows of patches that a frame fills; the other ones of a square image are padding."""
PROMPT, DECODER_DEPTH = 64, 2
LOW = 4 * GRID
STEPS = 6000
RATE, MUON = 2e-3, 0.01
DECAY, ALONE, FULL = 0.3, 0.06, 0.12
"""Shares of the steps: the last ones, with a falling rate; the first ones, on parts alone; the last ones, on whole
images with padding and masks of full size."""
IMAGES, PROMPTS = 4, 6
"""Images a step, and boxes an image."""
SMALLEST = 60
"""Visible pixels from which an entity is asked for."""
CLASSES = 1 + len(Part) + 3
FACES_WEIGHT = 0.5
WEIGHTS = {"body": 1.0, "face": 0.5, "hair": 1.2, "top": 1.5, "hat": 1.0, "glasses": 1.5, "scarf": 1.2, "bag": 2.0}
"""How often a kind of entity is asked for, against the others; objects: 2."""


def network() -> Sam:
    """The network with random weights. One mask token: the three that the published ones add are never asked for."""
    return Sam(
        ImageEncoderViT(
            img_size=WIDTH,
            patch_size=PATCH,
            embed_dim=DIM,
            depth=DEPTH,
            num_heads=HEADS,
            mlp_ratio=3,
            out_chans=PROMPT,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
            window_size=WINDOW,
        ),
        PromptEncoder(
            embed_dim=PROMPT, image_embedding_size=(GRID, GRID), input_image_size=(WIDTH, WIDTH), mask_in_chans=4
        ),
        MaskDecoder(
            transformer_dim=PROMPT,
            transformer=TwoWayTransformer(
                depth=DECODER_DEPTH, embedding_dim=PROMPT, num_heads=DECODER_HEADS, mlp_dim=2 * PROMPT
            ),
            num_multimask_outputs=0,
            iou_head_hidden_dim=PROMPT,
        ),
        PIXEL_MEAN,
        PIXEL_STD,
    )


def encode(model: Sam, images: Tensor) -> Tensor:
    """Embeddings [B, rows, GRID, PROMPT] of normalised images [B, 3, rows × PATCH, WIDTH], with or without padding."""
    encoder = model.image_encoder
    x = encoder.patch_embed(images)
    x = x + encoder.pos_embed[:, : x.shape[1]]
    for block in encoder.blocks:
        x = block(x)
    narrow, first, wide, second = encoder.neck
    x = _norm(F.linear(x, narrow.weight[:, :, 0, 0]), first)
    x = F.conv2d(x.permute(0, 3, 1, 2), wide.weight, padding=1)
    return _norm(x.permute(0, 2, 3, 1), second)


def decode(model: Sam, embeddings: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Mask logits [P, 4 × rows, LOW] and predicted IoU [P] for an embedding and a box of each prompt.

    What `MaskDecoder` computes, for prompts of several images at once and of the rows given.
    """
    count, rows = embeddings.shape[:2]
    decoder, prompts = model.mask_decoder, model.prompt_encoder
    sparse, _ = prompts(points=None, boxes=boxes, masks=None)
    start = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight]).expand(count, -1, -1)
    where = prompts.get_dense_pe()[0, :, :rows].flatten(1).T
    keys = (embeddings + prompts.no_mask_embed.weight).flatten(1, 2)
    tokens, keys = _two_way(decoder.transformer, keys, where, torch.cat([start, sparse], dim=1))
    first, norm, _, second, _ = decoder.output_upscaling
    x = F.gelu(_norm(_doubled(keys, first), norm))  # [P, patches, 2 × 2, PROMPT / 4]
    x = F.gelu(_doubled(x, second))  # [P, patches, 2 × 2, 2 × 2, PROMPT / 8]
    weights = decoder.output_hypernetworks_mlps[0](tokens[:, 1])
    low = torch.matmul(x.flatten(1, 3), weights[:, :, None]).view(count, rows, GRID, 2, 2, 2, 2)
    low = low.permute(0, 1, 3, 5, 2, 4, 6).reshape(count, 4 * rows, LOW)
    return low, decoder.iou_prediction_head(tokens[:, 0])[:, 0]


def _two_way(transformer: Any, keys: Tensor, where: Tensor, prompt: Tensor) -> tuple[Tensor, Tensor]:
    """What `TwoWayTransformer` computes, in half the time.

    There are many patches and few tokens: projections of patches are applied to the other side of their attention, the
    tokens, instead. Biases of keys are left out, as they change no attention.
    """
    tokens = prompt
    for layer in transformer.layers:
        if layer.skip_first_layer_pe:
            tokens = layer.norm1(layer.self_attn(tokens, tokens, tokens))
        else:
            query = tokens + prompt
            tokens = layer.norm1(tokens + layer.self_attn(query, query, tokens))
        placed = keys + where
        tokens = layer.norm2(tokens + _read(layer.cross_attn_token_to_image, tokens + prompt, placed, keys))
        tokens = layer.norm3(tokens + layer.mlp(tokens))
        keys = layer.norm4(keys + _written(layer.cross_attn_image_to_token, placed, tokens + prompt, tokens))
    read = _read(transformer.final_attn_token_to_image, tokens + prompt, keys + where, keys)
    return transformer.norm_final_attn(tokens + read), keys


def _read(attention: Any, tokens: Tensor, placed: Tensor, patches: Tensor) -> Tensor:
    """Attention of tokens [P, T, C] to patches [P, N, C]."""
    count, heads = tokens.shape[:2], attention.num_heads
    query = attention.q_proj(tokens).unflatten(-1, (heads, -1)) / (attention.internal_dim // heads) ** 0.5
    query = torch.einsum("pthd,hdc->pthc", query, attention.k_proj.weight.unflatten(0, (heads, -1)))
    shares = (query.flatten(1, 2) @ placed.transpose(1, 2)).softmax(-1)  # [P, T × heads, N]
    read = (shares @ patches).unflatten(1, (count[1], heads))
    read = torch.einsum("pthc,hdc->pthd", read, attention.v_proj.weight.unflatten(0, (heads, -1)))
    return attention.out_proj(read.flatten(2) + attention.v_proj.bias)


def _written(attention: Any, placed: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attention of patches [P, N, C] to tokens [P, T, C]."""
    heads = attention.num_heads
    key = attention.k_proj(keys).unflatten(-1, (heads, -1)) / (attention.internal_dim // heads) ** 0.5
    folded = torch.einsum("pthd,hdc->pcht", key, attention.q_proj.weight.unflatten(0, (heads, -1))).flatten(2)
    constant = torch.einsum("pthd,hd->pht", key, attention.q_proj.bias.unflatten(0, (heads, -1))).flatten(1)
    shares = torch.baddbmm(constant[:, None], placed, folded).unflatten(-1, (heads, -1)).softmax(-1)
    value = attention.v_proj(values).unflatten(-1, (heads, -1))
    written = torch.einsum("pthd,chd->phtc", value, attention.out_proj.weight.unflatten(1, (heads, -1))).flatten(1, 2)
    return torch.baddbmm(attention.out_proj.bias.expand(len(keys), 1, -1), shares.flatten(2), written)


def _doubled(x: Tensor, convolution: nn.Module) -> Tensor:
    """A transposed convolution of 2 × 2 with stride 2, channels last: [… , in] to [… , 4, out]."""
    weight: Any = convolution.weight  # [in, out, 2, 2]
    bias: Any = convolution.bias
    return F.linear(x, weight.permute(2, 3, 1, 0).flatten(0, 2), bias.repeat(4)).unflatten(-1, (4, -1))


def _norm(x: Tensor, norm: Any) -> Tensor:
    """segment-anything's `LayerNorm2d`, channels last."""
    return F.layer_norm(x, x.shape[-1:], norm.weight, norm.bias, norm.eps)


@dataclass(frozen=True)
class Batch:
    """Attributes:

    images: normalised, [B, 3, HEIGHT, WIDTH] float32.
    parts: class of every pixel of the low-resolution mask, [B, 4 × ROWS, LOW] int64.
    of: the image of each prompt, [P] int64.
    boxes: [P, 4] float32.
    masks: [P, HEIGHT, WIDTH] uint8, 0 or 1.
    coarse: the masks' share of every pixel of the low-resolution mask, [P, 4 × ROWS, LOW] float32.
    """

    images: Tensor
    parts: Tensor
    of: Tensor
    boxes: Tensor
    masks: Tensor
    coarse: Tensor


def entities(one: Example) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Everything that could be asked for in a frame, named by a caption or not, with its visible pixels."""
    seen = one.labels
    for number, actor in enumerate(one.shot.actors):
        groups = {"face": FACE_PARTS, "hair": (Part.HAIR,), "top": (*TOP_PARTS, Part.UNDERSHIRT)}
        groups |= {item.kind: (Part[item.kind.upper()],) for item in actor.person.accessories}
        yield "body", _is(seen, person_labels(number))
        for kind, parts in groups.items():
            yield kind, _is(seen, [label(number, part) for part in parts])
    for number, placed in enumerate(one.shot.objects):
        yield placed.thing.kind, _is(seen, object_labels(number))


def _is(labels: NDArray[np.uint8], values: Sequence[int]) -> NDArray[np.bool_]:
    table = np.zeros(256, bool)
    table[list(values)] = True
    return table[labels]


def _classes() -> NDArray[np.int64]:
    """From the numbers of the label map to classes: nothing, the parts of a person, the parts of an object."""
    table = np.zeros(256, np.int64)
    for number in range(3):
        for i, value in enumerate(object_labels(number)):
            table[value] = 1 + len(Part) + min(i, 2)
        for part in Part:
            table[label(number, part)] = 1 + part
    return table


_CLASSES = _classes()


def jittered(box: NDArray[np.float64], draw: np.random.Generator) -> NDArray[np.float64]:
    """The box with each side moved by a few hundredths of its length, sometimes by more; never out of the frame."""
    extent = np.tile(box[2:] - box[:2], 2)
    moved = box + draw.normal(0, 0.04 if draw.random() < 0.7 else 0.09, 4).clip(-0.2, 0.2) * extent
    return np.clip(moved, 0, (WIDTH, HEIGHT, WIDTH, HEIGHT))


def batch(seed: int, indices: Sequence[int], draw: np.random.Generator) -> Batch:
    """Examples, half of them mirrored, with the boxes of some of their entities."""
    images, parts, of, boxes, masks, coarse = [], [], [], [], [], []
    for i, index in enumerate(indices):
        one = example(seed, index)
        flip = slice(None, None, -1 if draw.random() < 0.5 else 1)
        images.append(np.ascontiguousarray(one.image[:, flip]))
        labels = np.ascontiguousarray(one.labels[:, flip])
        parts.append(cv2.resize(labels, (LOW, 4 * ROWS), interpolation=cv2.INTER_NEAREST))
        found = [(kind, pixels) for kind, pixels in entities(one) if pixels.sum() >= SMALLEST]
        weight = np.array([WEIGHTS.get(kind, 2.0) for kind, _ in found])
        for k in draw.choice(len(found), min(PROMPTS, len(found)), replace=False, p=weight / weight.sum()):
            pixels = np.ascontiguousarray(found[k][1][:, flip])
            of.append(i)
            masks.append(pixels.astype(np.uint8))
            coarse.append(cv2.resize(255 * masks[-1], (LOW, 4 * ROWS), interpolation=cv2.INTER_AREA))
            boxes.append(jittered(tight(pixels), draw))
    return Batch(
        normalised(np.stack(images)),
        torch.from_numpy(_CLASSES[np.stack(parts)]),
        torch.tensor(of),
        torch.from_numpy(np.stack(boxes)).float(),
        torch.from_numpy(np.stack(masks)),
        torch.from_numpy(np.stack(coarse)) / 255,
    )


def normalised(images: NDArray[np.uint8]) -> Tensor:
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (PIXEL_MEAN, PIXEL_STD))
    return (torch.from_numpy(images).permute(0, 3, 1, 2).float() - mean) / std


def tight(pixels: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The box of the pixels, xyxy."""
    x, y = np.flatnonzero(pixels.any(0)), np.flatnonzero(pixels.any(1))
    return np.array([x[0], y[0], x[-1] + 1, y[-1] + 1], np.float64)


def mask_loss(logits: Tensor, masks: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Loss of each prompt's mask [P], and the IoU of the mask that its logits give [P].

    Cross entropy is averaged inside the box and a margin, and outside of it on its own, where it counts less: as a mean
    over all of the image it is smallest for no mask at all.
    """
    height, width = logits.shape[1:]
    scale = torch.tensor((width / WIDTH, height / HEIGHT)).repeat(2)
    margin = 0.15 * (boxes[:, 2:] - boxes[:, :2]) + 3
    x0, y0, x1, y1 = (torch.cat([boxes[:, :2] - margin, boxes[:, 2:] + margin], 1) * scale).T[..., None]
    x, y = torch.arange(width) + 0.5, torch.arange(height) + 0.5
    near = ((y > y0) & (y < y1)).float()[:, :, None] * ((x > x0) & (x < x1)).float()[:, None]
    entropy = F.binary_cross_entropy_with_logits(logits, masks, reduction="none")
    area, all_of_it = near.sum((1, 2)), float(width * height)
    inside = (entropy * near).sum((1, 2))
    outside = entropy.sum((1, 2)) - inside
    entropy = inside / area + 0.2 * outside / (all_of_it - area + 1)
    shown = logits.sigmoid()
    dice = 1 - (2 * (shown * masks).sum((1, 2)) + 1) / (shown.sum((1, 2)) + masks.sum((1, 2)) + 1)
    with torch.no_grad():
        said, true = logits > 0, masks > 0.5
        iou = (said & true).sum((1, 2)) / (said | true).sum((1, 2)).clamp(min=1)
    return entropy + dice, iou


def naming_loss(parts: nn.Module, embeddings: Tensor, data: Batch) -> Tensor:
    """Cross entropy of the part at every pixel of the low-resolution mask."""
    named = parts(embeddings[:, :ROWS]).view(-1, ROWS, GRID, 4, 4, CLASSES).transpose(2, 3)
    return F.cross_entropy(named.reshape(-1, CLASSES), data.parts.flatten())


def step_loss(model: Sam, parts: nn.Module, data: Batch, rows: int, fine: bool) -> tuple[Tensor, Tensor]:
    """Loss of a batch, and the masks' IoU [P]. `rows` of patches are seen; `fine`: the masks are judged full size."""
    embeddings = encode(model, F.pad(data.images, (0, 0, 0, (rows - ROWS) * PATCH)))
    low, quality = decode(model, embeddings[data.of], data.boxes)
    low = low[:, : 4 * ROWS]
    if fine:
        logits, masks = F.interpolate(low[:, None], (HEIGHT, WIDTH), mode="bilinear")[:, 0], data.masks.float()
    else:
        logits, masks = low, data.coarse
    loss, iou = mask_loss(logits, masks, data.boxes)
    return loss.mean() + 0.5 * naming_loss(parts, embeddings, data) + F.mse_loss(quality, iou), iou


class Muon(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024) in float32: PyTorch's own works in bfloat16, which a CPU without AMX emulates."""

    def __init__(self, weights: Sequence[nn.Parameter], lr: float, momentum: float = 0.95) -> None:
        super().__init__(weights, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                mean = state.setdefault("mean", torch.zeros_like(weight))
                mean.lerp_(weight.grad, 1 - group["momentum"])
                update = _orthogonal(weight.grad.lerp(mean, group["momentum"]))
                weight.mul_(1 - 0.01 * group["lr"])
                weight.add_(update, alpha=-group["lr"] * max(1, weight.shape[0] / weight.shape[1]) ** 0.5)


def _orthogonal(matrix: Tensor) -> Tensor:
    """Nearly the nearest matrix whose singular values are all 1: Newton and Schulz's iteration, of the fifth degree."""
    x = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        square = x @ x.T
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x


def optimisers(model: Sam, parts: nn.Module) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the transformers, AdamW for all the rest."""
    matrices, others = [], []
    for name, weight in model.named_parameters():
        inner = "blocks." in name or "transformer." in name
        (matrices if MUON and inner and weight.ndim == 2 and "rel_pos" not in name else others).append(weight)
    made: list[torch.optim.Optimizer] = [
        torch.optim.AdamW([*others, *parts.parameters()], lr=RATE, weight_decay=0.01, betas=(0.9, 0.98))
    ]
    return [*made, Muon(matrices, MUON)] if matrices else made


def rate(step: int, steps: int) -> float:
    """Share of the learning rate: a warm-up, a plain, and a straight way down to 0."""
    return min(1.0, (step + 1) / 50, (steps - step) / (DECAY * steps))


def train(
    output: Path, *, steps: int = STEPS, seed: int = 0, say: Callable[[str], None] = print, resume: bool = False
) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    model, parts = network(), nn.Linear(PROMPT, 16 * CLASSES)
    nn.init.normal_(model.image_encoder.pos_embed, std=0.02)
    opts = optimisers(model, parts)
    base = [group["lr"] for made in opts for group in made.param_groups]
    output.mkdir(parents=True, exist_ok=True)
    kept, first, curve, spent = output / "resume.pt", 0, [], 0.0
    if resume and kept.is_file():
        state = torch.load(kept, weights_only=True)
        model.load_state_dict(state["model"])
        parts.load_state_dict(state["parts"])
        for made, one in zip(opts, state["optimisers"], strict=True):
            made.load_state_dict(one)
        first, curve, spent = state["step"], state["curve"], state["spent"]
    began, recent, saved = time.process_time() - spent, [], time.monotonic()
    for step in range(first, steps):
        for group, lr in zip((g for made in opts for g in made.param_groups), base, strict=True):
            group["lr"] = lr * rate(step, steps)
        data = batch(TRAINING, range(IMAGES * step, IMAGES * (step + 1)), np.random.default_rng((seed, step)))
        if step < ALONE * steps:
            loss, iou = naming_loss(parts, encode(model, data.images), data), torch.zeros(1)
        else:
            late = step >= (1 - FULL) * steps
            loss, iou = step_loss(model, parts, data, GRID if late else ROWS, late)
        loss.backward()
        nn.utils.clip_grad_norm_([*model.parameters(), *parts.parameters()], 1.0)
        for made in opts:
            made.step()
            made.zero_grad()
        recent.append((loss.item(), iou.mean().item()))
        if step % 50 == 49 or step == steps - 1:
            seen, overlap = np.mean(recent, axis=0).tolist()
            curve.append((step + 1, round(seen, 4)))
            say(f"{step + 1}: loss {seen:.3f}, IoU {overlap:.3f}, {(time.process_time() - began) / 60:.1f} CPU minutes")
            recent = []
        if time.monotonic() - saved > 240 or step == steps - 1:
            state = {"model": model.state_dict(), "parts": parts.state_dict(), "step": step + 1, "curve": curve}
            state |= {"optimisers": [made.state_dict() for made in opts], "spent": time.process_time() - began}
            torch.save(state, kept.with_suffix(".new"))
            kept.with_suffix(".new").replace(kept)
            saved = time.monotonic()
