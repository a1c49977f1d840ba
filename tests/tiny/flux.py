"""A FLUX.1 Fill of half a megabyte: the real pipeline, networks and tokenizers, with other numbers in them."""

from __future__ import annotations

import string
from pathlib import Path

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxFillPipeline, FluxTransformer2DModel
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel, T5TokenizerFast

LATENTS = 4
"""Channels of the autoencoder; the real one has 16."""
SEED = 11


def build(folder: Path) -> Path:
    """A pipeline with random weights in `folder`, as `save_pretrained` writes it. The same bytes every time."""
    torch.manual_seed(SEED)
    clip, t5 = _clip_tokenizer(), _t5_tokenizer()
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(4, 4, 8, 8),  # four levels: eight pixels a latent, as the real one
        norm_num_groups=2,
        layers_per_block=1,
        latent_channels=LATENTS,
        use_quant_conv=False,
        use_post_quant_conv=False,
        shift_factor=0.1159,
        scaling_factor=0.3611,
    )
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=4 * (2 * LATENTS + 64),  # noise, what is known, and the hole's 8 x 8 pixels
        out_channels=4 * LATENTS,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        guidance_embeds=True,
        axes_dims_rope=(4, 6, 6),
    )
    clip_text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(clip),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=2,
            bos_token_id=clip.bos_token_id,
            eos_token_id=clip.eos_token_id,
            pad_token_id=clip.pad_token_id,
        )
    )
    t5_text = T5EncoderModel(
        T5Config(vocab_size=len(t5), d_model=32, d_kv=16, d_ff=64, num_layers=1, num_heads=2, is_gated_act=True)
    )
    pipeline = FluxFillPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=vae,
        text_encoder=clip_text,
        tokenizer=clip,
        text_encoder_2=t5_text,
        tokenizer_2=t5,
        transformer=transformer,
    )
    pipeline.save_pretrained(folder)
    return folder


def _clip_tokenizer() -> CLIPTokenizer:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[], model_max_length=77)


def _t5_tokenizer() -> T5TokenizerFast:
    pieces = ["<pad>", "</s>", "<unk>", "\u2581", *string.ascii_lowercase]
    spoken = Tokenizer(models.Unigram([(piece, -2.0) for piece in pieces], unk_id=2))
    spoken.pre_tokenizer = pre_tokenizers.Metaspace()
    return T5TokenizerFast(tokenizer_object=spoken, extra_ids=0, model_max_length=512)
