"""A SAM of segment-anything's own classes with 60,000 random parameters: one windowed block and one global one."""

from functools import partial
from pathlib import Path

import torch
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer


def network(seed: int = 0) -> Sam:
    """Images of 128 pixels in 16 x 16 patches; windows of 5, so that the last ones are padded as in ViT-H.

    What segment-anything leaves at zero is random too, so that a weight in the wrong place would show.
    """
    torch.manual_seed(seed)
    model = Sam(
        ImageEncoderViT(
            img_size=128,
            patch_size=8,
            embed_dim=32,
            depth=2,
            num_heads=2,
            mlp_ratio=2,
            out_chans=32,
            norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
            window_size=5,
            global_attn_indexes=(1,),
        ),
        PromptEncoder(embed_dim=32, image_embedding_size=(16, 16), input_image_size=(128, 128), mask_in_chans=4),
        MaskDecoder(
            transformer_dim=32,
            transformer=TwoWayTransformer(depth=2, embedding_dim=32, num_heads=8, mlp_dim=48),
            iou_head_hidden_dim=24,
        ),
    )
    with torch.no_grad():
        for name, weight in model.named_parameters():
            # The upscaling is spread wider too, so that logits are far from the threshold as well as near it.
            if name.endswith(("pos_embed", "rel_pos_h", "rel_pos_w", "upscaling.0.weight", "upscaling.3.weight")):
                torch.nn.init.normal_(weight, std=0.5)
        for head in model.mask_decoder.output_hypernetworks_mlps:
            last = head.layers[-1]  # of both signs, so that masks have an inside and an outside
            last.bias.copy_(torch.tensor([8.0, -8.0]).repeat(len(last.bias) // 2))
        model.mask_decoder.iou_prediction_head.layers[-1].bias.fill_(0.8)
    return model.eval()


def build(folder: Path, seed: int = 0) -> Path:
    """A checkpoint as Meta publishes them: a pickled state dict."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "sam_vit_tiny.pth"
    torch.save(network(seed).state_dict(), file)
    return file
