"""What networks of the profiles take of a GPU, told without one: numbers counted, a forward pass followed.

Each network is made at its real size of torch's fake tensors, which have shapes and no numbers, and run once. The most
that is alive at once beside the weights are its activations. Fragments, workspaces and CUDA itself are not in them, nor
are kernels that differ between CPU and GPU. `python tests/bench/model_memory.py` prints the table of docs/models.md.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker

GIB = 1 << 30
BF16 = torch.bfloat16
Run = tuple[nn.Module, Callable[[nn.Module], Any]]


def flux_transformer(side: int) -> Run:
    """FLUX.1 Fill's transformer on one picture; 512 tokens of prompt."""
    from diffusers import FluxTransformer2DModel

    network = FluxTransformer2DModel(
        in_channels=384, out_channels=64, num_layers=19, num_single_layers=38, guidance_embeds=True
    )
    tokens = (side // 16) ** 2

    def forward(model: nn.Module) -> Any:
        return model(
            hidden_states=torch.empty(1, tokens, 384, dtype=BF16),
            timestep=torch.empty(1, dtype=BF16),
            guidance=torch.empty(1),
            pooled_projections=torch.empty(1, 768, dtype=BF16),
            encoder_hidden_states=torch.empty(1, 512, 4096, dtype=BF16),
            txt_ids=torch.empty(512, 3, dtype=BF16),
            img_ids=torch.empty(tokens, 3, dtype=BF16),
        )

    return network, forward


def _flux_autoencoder() -> nn.Module:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        latent_channels=16,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )


def flux_encoder(side: int) -> Run:
    return _flux_autoencoder(), lambda model: model.encode(torch.empty(1, 3, side, side, dtype=BF16))


def flux_decoder(side: int) -> Run:
    latents = side // 8
    return _flux_autoencoder(), lambda model: model.decode(torch.empty(1, 16, latents, latents, dtype=BF16))


def flux_t5(side: int) -> Run:
    """The larger of its text encoders, which are gone before the others are read."""
    from transformers import T5Config, T5EncoderModel

    config = T5Config(
        vocab_size=32128, d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64, feed_forward_proj="gated-gelu"
    )
    return T5EncoderModel(config), lambda model: model(torch.zeros(1, 512, dtype=torch.long))


def qwen_vision(side: int) -> Run:
    """Qwen2.5-VL's vision tower; its memory for images is vLLM's to plan, only its size is told."""
    from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLVisionConfig
    from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel

    config = Qwen2_5_VLVisionConfig(hidden_size=1280, out_hidden_size=3584, intermediate_size=3420)
    return Qwen2_5_VisionTransformerPretrainedModel(config), lambda model: None


def qwen_text(side: int) -> Run:
    """Qwen2.5-VL-7B's language model; likewise."""
    from transformers import Qwen2_5_VLTextConfig
    from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLTextModel

    config = Qwen2_5_VLTextConfig(
        vocab_size=152064,
        hidden_size=3584,
        intermediate_size=18944,
        num_hidden_layers=28,
        num_attention_heads=28,
        num_key_value_heads=4,
    )
    network = nn.ModuleDict(
        {"text": Qwen2_5_VLTextModel(config), "head": nn.Linear(3584, 152064, bias=False)}  # not tied
    )
    return network, lambda model: None


def sam_vit_h(side: int) -> Run:
    """The image encoder, which has nearly all of SAM's weights and all of its memory."""
    from segment_anything import build_sam_vit_h

    return build_sam_vit_h().image_encoder, lambda model: model(torch.empty(1, 3, side, side, dtype=BF16))


def sam_vit_b(side: int) -> Run:
    from segment_anything import build_sam_vit_b

    return build_sam_vit_b().image_encoder, lambda model: model(torch.empty(1, 3, side, side, dtype=BF16))


def clip_vit_l(side: int) -> Run:
    """The encoder under the aesthetic score, on eight frames."""
    from transformers import CLIPVisionConfig, CLIPVisionModel

    config = CLIPVisionConfig(
        hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, patch_size=14
    )
    return CLIPVisionModel(config), lambda model: model(torch.empty(8, 3, side, side, dtype=BF16))


RUNS: tuple[tuple[str, Callable[[int], Run], tuple[int, ...]], ...] = (
    ("FLUX Fill transformer", flux_transformer, (512, 1024)),
    ("FLUX autoencoder, encoding", flux_encoder, (512, 1024)),
    ("FLUX autoencoder, decoding", flux_decoder, (512, 1024)),
    ("T5-XXL of FLUX", flux_t5, (512,)),
    ("SAM ViT-H image encoder", sam_vit_h, (1024,)),
    ("SAM ViT-B image encoder", sam_vit_b, (1024,)),
    ("CLIP ViT-L/14, 8 frames", clip_vit_l, (224,)),
    ("Qwen2.5-VL-7B vision tower", qwen_vision, (0,)),
    ("Qwen2.5-VL-7B language model", qwen_text, (0,)),
)


def measured(make: Callable[[int], Run], size: int) -> tuple[int, float, float]:
    """Parameters, GiB of weights, and GiB of activations."""
    with FakeTensorMode(), torch.no_grad():
        torch.set_default_dtype(BF16)
        try:
            network, forward = make(size)
        finally:
            torch.set_default_dtype(torch.float32)
        parameters = sum(p.numel() for p in network.parameters())
        tracker = MemTracker()
        with tracker:
            forward(network)
        most = sum(snapshot["Total"] for snapshot in tracker.get_tracker_snapshot("peak").values())
    weights = parameters * BF16.itemsize / GIB
    return parameters, weights, max(0.0, most / GIB - weights)  # the tracker counts the weights that it meets


def main() -> None:
    table = Table("network", "side", "parameters", "weights GiB", "activations GiB", box=None)
    for name, make, sizes in RUNS:
        for size in sizes:
            parameters, weights, activations = measured(make, size)
            alive = f"{activations:.2f}" if activations else "·"
            table.add_row(name, str(size or "·"), f"{parameters / 1e9:.3f}e9", f"{weights:.2f}", alive)
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
