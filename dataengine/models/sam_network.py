"""SAM's network, built from the shapes of a checkpoint's tensors: ViT-H, -L, -B and any other size load alike.

segment-anything's own loader knows three sizes by name and unpickles whatever the file holds.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from segment_anything.utils.amg import calculate_stability_score
from segment_anything.utils.transforms import ResizeLongestSide
from torch import Tensor

from dataengine.models.interfaces import Image, Prompted, Segment

DECODER_HEADS = 8
"""Of the mask decoder's attention; the one number that no shape tells, and the same in all published sizes."""
PIXEL_MEAN, PIXEL_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
STABILITY_OFFSET = 1.0
"""Logits above and below the threshold between which a stable mask does not change, as in segment-anything."""


def read_state(file: Path) -> dict[str, Tensor]:
    """The tensors of a .pth or .safetensors file. Raises `ValueError` for a file that holds anything else."""
    if file.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(file)
        except SafetensorError as error:
            raise ValueError(f"{file}: cannot be read as safetensors: {error}") from error
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise ValueError(f"{file}: refused, as it is damaged or holds more than tensors: {error}") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{file}: expected tensors by name, as segment-anything's checkpoints hold them")
    return state


def load_network(file: Path, device: torch.device, dtype: torch.dtype) -> Network:
    """The network with a checkpoint's weights; the image encoder in `dtype`, the small rest in float32.

    Raises `ValueError` naming every tensor that is missing, unknown or of the wrong shape.
    """
    state = read_state(file)
    try:
        model = build(state)
        model.load_state_dict({name: tensor.float() for name, tensor in state.items()}, strict=True, assign=True)
    except (_Misfit, RuntimeError) as error:
        raise ValueError(f"{file}: not a checkpoint of segment-anything: {error}") from error
    model.pixel_mean = torch.tensor(PIXEL_MEAN).view(-1, 1, 1)
    model.pixel_std = torch.tensor(PIXEL_STD).view(-1, 1, 1)
    model.image_encoder.to(dtype)
    return Network(model.to(device).eval(), dtype)


def build(state: Mapping[str, Tensor]) -> Sam:
    """The network that these tensors are the weights of, without weights (on torch's meta device)."""
    shapes = _Shapes(state)
    _, grid, columns, dim = shapes.of("image_encoder.pos_embed")
    if grid != columns:
        raise _Misfit(f"image_encoder.pos_embed is for {grid}x{columns} patches, and SAM's images are square")
    patch = shapes.of("image_encoder.patch_embed.proj.weight")[-1]
    prompt_dim, mask_channels = shapes.of("image_encoder.neck.0.weight")[0], shapes.of(_MASKS_IN)[0]
    if prompt_dim // 2 % DECODER_HEADS:
        raise _Misfit(f"prompts of {prompt_dim} values do not divide among {DECODER_HEADS} heads of half the size")
    reach = [
        (shapes.of(f"image_encoder.blocks.{i}.attn.rel_pos_h")[0] + 1) // 2
        for i in range(shapes.count("image_encoder.blocks."))
    ]
    windows = {size for size in reach if size != grid}
    if len(windows) > 1:
        raise _Misfit(f"its blocks have windows of several sizes: {sorted(windows)}")
    head_dim = shapes.of("image_encoder.blocks.0.attn.rel_pos_h")[1]
    iou_head = "mask_decoder.iou_prediction_head.layers."
    with torch.device("meta"):
        return Sam(
            ImageEncoderViT(
                img_size=grid * patch,
                patch_size=patch,
                embed_dim=dim,
                depth=len(reach),
                num_heads=dim // head_dim,
                mlp_ratio=shapes.of("image_encoder.blocks.0.mlp.lin1.weight")[0] / dim,
                out_chans=prompt_dim,
                qkv_bias="image_encoder.blocks.0.attn.qkv.bias" in state,
                norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
                use_rel_pos=True,
                window_size=max(windows, default=0),
                global_attn_indexes=tuple(i for i, size in enumerate(reach) if size == grid),
            ),
            PromptEncoder(
                embed_dim=prompt_dim,
                image_embedding_size=(grid, grid),
                input_image_size=(grid * patch, grid * patch),
                mask_in_chans=mask_channels,
            ),
            MaskDecoder(
                transformer_dim=prompt_dim,
                transformer=TwoWayTransformer(
                    depth=shapes.count("mask_decoder.transformer.layers."),
                    embedding_dim=prompt_dim,
                    num_heads=DECODER_HEADS,
                    mlp_dim=shapes.of("mask_decoder.transformer.layers.0.mlp.lin1.weight")[0],
                ),
                num_multimask_outputs=shapes.of("mask_decoder.mask_tokens.weight")[0] - 1,
                iou_head_depth=shapes.count(iou_head),
                iou_head_hidden_dim=shapes.of(f"{iou_head}0.weight")[0],
            ),
            PIXEL_MEAN,
            PIXEL_STD,
        )


_MASKS_IN = "prompt_encoder.mask_downscaling.3.weight"


class _Misfit(Exception):
    """The tensors are not those of a SAM."""


@dataclass(frozen=True)
class _Shapes:
    state: Mapping[str, Tensor]

    def of(self, name: str) -> tuple[int, ...]:
        if name not in self.state:
            raise _Misfit(f"it has no {name}")
        return tuple(self.state[name].shape)

    def count(self, prefix: str) -> int:
        """How many numbered modules there are behind a prefix."""
        numbers = {int(name[len(prefix) :].split(".")[0]) for name in self.state if name.startswith(prefix)}
        if numbers != set(range(len(numbers))) or not numbers:
            raise _Misfit(f"it has {sorted(numbers) or 'no'} {prefix}*")
        return len(numbers)


@dataclass(frozen=True)
class Network:
    """A loaded SAM."""

    model: Any
    dtype: torch.dtype

    @torch.inference_mode()
    def segment(self, scenes: Sequence[Prompted]) -> list[list[Segment]]:
        """One encoder call for all images, one decoder call for all boxes of an image."""
        side = self.model.image_encoder.img_size
        scaled = [self._scaled(scene.image, ResizeLongestSide(side)) for scene in scenes]
        pixels = torch.stack([self.model.preprocess(image) for image in scaled])
        embeddings = self.model.image_encoder(pixels.to(self.dtype)).float()
        return [
            self._cut(scene, embedding[None], image.shape[-2:])
            for scene, embedding, image in zip(scenes, embeddings, scaled, strict=True)
        ]

    def _scaled(self, image: Image, resize: ResizeLongestSide) -> Tensor:
        return torch.as_tensor(resize.apply_image(image), device=self.model.device).permute(2, 0, 1).contiguous()

    def _cut(self, scene: Prompted, embedding: Tensor, seen: Sequence[int]) -> list[Segment]:
        size = scene.image.shape[:2]
        resize = ResizeLongestSide(self.model.image_encoder.img_size)
        boxes = resize.apply_boxes(np.array([prompt.box for prompt in scene.prompts]), size)
        sparse, dense = self.model.prompt_encoder(
            points=None, boxes=torch.as_tensor(boxes, dtype=torch.float, device=self.model.device), masks=None
        )
        coarse, quality = self.model.mask_decoder(
            image_embeddings=embedding,
            image_pe=self.model.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=False,
        )
        logits = self.model.postprocess_masks(coarse, seen, size)[:, 0]
        return segments_of(logits, quality[:, 0])


def segments_of(logits: Tensor, quality: Tensor) -> list[Segment]:
    """Masks (N, H, W) cut at 0, with predicted IoU and stability; both are 0…1, and 0 for a mask that is nowhere."""
    stability = calculate_stability_score(logits, 0.0, STABILITY_OFFSET).nan_to_num(0.0)
    return [
        Segment(pixels, min(1.0, max(0.0, score)), steady)
        for pixels, score, steady in zip((logits > 0).cpu().numpy(), quality.tolist(), stability.tolist(), strict=True)
    ]
