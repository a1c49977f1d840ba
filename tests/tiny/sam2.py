"""A SAM 2 of random parameters, saved with its processor: the architecture of the published ones."""

from pathlib import Path

import torch
from transformers import (
    Sam2Config,
    Sam2HieraDetConfig,
    Sam2ImageProcessor,
    Sam2MaskDecoderConfig,
    Sam2Model,
    Sam2Processor,
    Sam2PromptEncoderConfig,
    Sam2VisionConfig,
)

SIDE = 128


def build(folder: Path, seed: int = 0) -> Path:
    """The folder, filled with a checkpoint as `save_pretrained` writes it."""
    torch.manual_seed(seed)
    backbone = Sam2HieraDetConfig(
        hidden_size=8,
        image_size=[SIDE, SIDE],
        blocks_per_stage=[1, 1, 2, 1],
        embed_dim_per_stage=[8, 16, 32, 64],
        num_attention_heads_per_stage=[1, 2, 4, 8],
        window_size_per_stage=[4, 2, 4, 2],
        global_attention_blocks=[3],
    )
    vision = Sam2VisionConfig(
        backbone_config=backbone,
        backbone_channel_list=[64, 32, 16, 8],
        backbone_feature_sizes=[[SIDE // stride] * 2 for stride in (4, 8, 16)],
        fpn_hidden_size=32,
    )
    config = Sam2Config(
        vision_config=vision,
        prompt_encoder_config=Sam2PromptEncoderConfig(
            hidden_size=32, image_size=SIDE, patch_size=16, mask_input_channels=4
        ),
        mask_decoder_config=Sam2MaskDecoderConfig(
            hidden_size=32, mlp_dim=48, num_attention_heads=4, iou_head_hidden_dim=24
        ),
    )
    model = Sam2Model(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                torch.nn.init.normal_(weight, std=1.4 / weight[0].numel() ** 0.5)
        for head in model.mask_decoder.output_hypernetworks_mlps:
            bias = head.proj_out.bias  # of both signs, so that masks have an inside and an outside
            bias.copy_(torch.tensor([3.0, -3.0]).repeat(len(bias) // 2))
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    images = Sam2ImageProcessor(
        size={"height": SIDE, "width": SIDE}, mask_size={"height": SIDE // 4, "width": SIDE // 4}
    )
    Sam2Processor(images).save_pretrained(folder)
    return folder
