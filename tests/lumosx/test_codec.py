"""Codecs: the Wan VAE's shape contract, fidelity on photographs, and what happens without weights."""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage.data
import torch
from torch import Tensor

from dataengine.lumosx.codec import DctCodec, WanCodec, latent_frames, to_frames, to_pixels
from dataengine.weights import MissingWeightsError


def photograph(name: str, height: int, width: int) -> Tensor:
    """A scikit-image photograph as [1, 3, 1, H, W] pixels."""
    image = cv2.resize(getattr(skimage.data, name)(), (width, height), interpolation=cv2.INTER_AREA)
    return to_pixels(torch.from_numpy(image)[None, None])


def psnr(a: Tensor, b: Tensor) -> float:
    return 10 * math.log10(4 / (a - b).square().mean().item())


@pytest.fixture(scope="session")
def wan_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Wan VAE of the real architecture, small enough to run in a test."""
    from diffusers import AutoencoderKLWan

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("wan")
    AutoencoderKLWan(base_dim=4, num_res_blocks=1).save_pretrained(folder / "vae")
    return folder


def test_frames_are_4k_plus_1() -> None:
    assert [latent_frames(n) for n in (1, 5, 17, 81)] == [1, 2, 5, 21]
    for frames in (0, 4, 16, 18):
        with pytest.raises(ValueError, match="4k\\+1"):
            latent_frames(frames)


def test_uint8_survives_the_pixel_range() -> None:
    frames = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16, 1).expand(2, 16, 16, 3)
    pixels = to_pixels(frames)
    assert pixels.shape == (3, 2, 16, 16)
    assert (pixels.min(), pixels.max()) == (-1, 1)
    assert torch.equal(to_frames(pixels), frames)


@pytest.mark.parametrize("frames", [1, 5, 17])
def test_dct_shapes_and_projection(frames: int) -> None:
    """Decoding is the transposed encoding: a decoded clip encodes to its own latent (up to clipping to -1 … 1)."""
    codec = DctCodec()
    pixels = 0.3 * torch.randn(2, 3, frames, 24, 40, generator=torch.Generator().manual_seed(0))
    latents = codec.encode(pixels)
    assert latents.shape == (2, 16, latent_frames(frames), 3, 5)
    decoded = codec.decode(latents)
    assert decoded.shape == pixels.shape
    torch.testing.assert_close(codec.encode(decoded), latents, atol=1e-4, rtol=0)


def test_dct_keeps_what_it_names() -> None:
    """A brightness ramp in time and flat colours are inside the kept coefficients; a checkerboard is not."""
    codec = DctCodec()
    colour = torch.tensor([0.9, 0.1, -0.6]).reshape(1, 3, 1, 1, 1).expand(1, 3, 5, 16, 16)
    assert psnr(codec.decode(codec.encode(colour)), colour) > 60
    board = ((torch.arange(16)[:, None] + torch.arange(16)) % 2 * 1.0 - 0.5).expand(1, 3, 1, 16, 16)
    assert psnr(codec.decode(codec.encode(board)), board) < 13


@pytest.mark.parametrize(
    ("name", "floor_96", "floor_480"),
    [("astronaut", 21.5, 29.5), ("chelsea", 29.5, 37.0), ("coffee", 25.5, 30.0), ("rocket", 30.0, 31.0)],
)
def test_dct_fidelity_on_photographs(name: str, floor_96: float, floor_480: float) -> None:
    """Floors in dB, just under what was measured: at the embedded profile's size and at the released one."""
    codec = DctCodec()
    for height, floor in ((96, floor_96), (480, floor_480)):
        image = getattr(skimage.data, name)()
        width = round(height * image.shape[1] / image.shape[0]) // 8 * 8
        pixels = photograph(name, height, width)
        assert psnr(codec.decode(codec.encode(pixels)), pixels) > floor


def test_dct_channels_have_about_unit_variance() -> None:
    latents = [DctCodec().encode(photograph(n, 160, 240)) for n in ("astronaut", "chelsea", "coffee", "rocket")]
    channels = torch.cat(latents).movedim(1, 0).flatten(1)
    spread = channels[:14].std(dim=1)
    assert ((spread > 0.4) & (spread < 2.5)).all(), spread
    assert channels[14:].abs().max() < 1e-5, "the last two are temporal: a photograph has none"
    assert channels.abs().max() < 20


def test_a_still_is_the_first_frame_of_a_clip() -> None:
    """References and first frames share one latent space: the later frames do not leak into the first latent."""
    codec = DctCodec()
    clip = to_pixels(torch.randint(0, 256, (1, 9, 16, 16, 3), dtype=torch.uint8))
    torch.testing.assert_close(codec.encode(clip)[:, :, :1], codec.encode(clip[:, :, :1]))


def test_dct_refuses_other_shapes() -> None:
    for shape in ((1, 3, 1, 12, 16), (1, 3, 4, 16, 16), (1, 1, 1, 16, 16)):
        with pytest.raises(ValueError, match="got"):
            DctCodec().encode(torch.zeros(shape))


def test_wan_has_the_same_contract(wan_folder: Path) -> None:
    codec = WanCodec(str(wan_folder))
    pixels = torch.rand(1, 3, 5, 16, 24, generator=torch.Generator().manual_seed(0)) * 2 - 1
    latents = codec.encode(pixels)
    assert latents.shape == (1, 16, 2, 2, 3)
    assert torch.equal(latents, codec.encode(pixels)), "the posterior's mode, not a draw"
    decoded = codec.decode(latents)
    assert decoded.shape == pixels.shape
    assert decoded.dtype == torch.float32
    assert np.abs(decoded.numpy()).max() <= 1
    with pytest.raises(ValueError, match="4k\\+1"):
        codec.encode(pixels[:, :, :4])


def test_wan_latents_are_normalised(wan_folder: Path) -> None:
    """encode = (mode - mean) / std of the checkpoint's own config, and decode undoes it."""
    from diffusers import AutoencoderKLWan

    vae = AutoencoderKLWan.from_pretrained(wan_folder / "vae")
    pixels = torch.zeros(1, 3, 1, 16, 16)
    with torch.no_grad():
        raw = vae.encode(pixels).latent_dist.mode()
    mean, std = (torch.tensor(vae.config[key]).reshape(1, 16, 1, 1, 1) for key in ("latents_mean", "latents_std"))
    codec = WanCodec(str(wan_folder / "vae"))
    torch.testing.assert_close(codec.encode(pixels), (raw - mean) / std)
    with torch.no_grad():
        torch.testing.assert_close(codec.decode((raw - mean) / std), vae.decode(raw).sample.clamp(-1, 1))


def test_missing_weights_name_the_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(MissingWeightsError, match=r"hf download Wan-AI/None --revision abc --include 'vae/\*'"):
        WanCodec("Wan-AI/None", "abc")
    with pytest.raises(MissingWeightsError, match="no readable AutoencoderKLWan"):
        WanCodec(str(tmp_path))
