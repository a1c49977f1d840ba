"""Pixels to latents and back: the Wan VAE, and a fixed linear transform of the same shape that needs no weights."""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from dataengine.lumosx.pretrained import local_folder
from dataengine.weights import MissingWeightsError

LATENT_CHANNELS = 16
TIME_STRIDE = 4
SPACE_STRIDE = 8


def latent_frames(frames: int) -> int:
    """Latent frames of a video: the first frame alone, then one for every four.

    Raises:
        ValueError: `frames` is not 4k + 1.
    """
    if frames < 1 or frames % TIME_STRIDE != 1:
        raise ValueError(f"a video must have 4k+1 frames (1, 5, 9, …), got {frames}")
    return 1 + (frames - 1) // TIME_STRIDE


def to_pixels(frames: Tensor) -> Tensor:
    """uint8 frames [..., F, H, W, 3] to what a codec takes: float32 [..., 3, F, H, W] in -1 … 1."""
    return frames.movedim(-1, -4).float().div_(127.5).sub_(1.0)


def to_frames(pixels: Tensor) -> Tensor:
    """The inverse of `to_pixels`, rounded and clipped to uint8."""
    return pixels.add(1.0).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8).movedim(-4, -1)


class Codec(Protocol):
    """Maps videos to latents of the Wan VAE's shape, each channel of about zero mean and unit variance.

    Frozen: no parameter is trained and no gradient flows. A reference image is a video of one frame.
    """

    def encode(self, pixels: Tensor) -> Tensor:
        """[B, 3, F, H, W] in -1 … 1 to [B, 16, 1 + (F-1)/4, H/8, W/8], float32.

        Raises:
            ValueError: F is not 4k + 1, or H or W is no multiple of 8.
        """
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """[B, 16, T, h, w] to [B, 3, 4T - 3, 8h, 8w] in -1 … 1, float32."""
        ...


class _Coefficient(NamedTuple):
    """One latent channel of `DctCodec`: a colour axis, its frequencies, and its moments on natural video."""

    colour: int
    time: int
    row: int
    column: int
    mean: float
    std: float


_LUMA, _ORANGE_BLUE, _GREEN_PURPLE = 0, 1, 2

_COLOUR_AXES = (
    torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 2.0, -1.0]]) / torch.tensor([[3.0], [2.0], [6.0]]).sqrt()
)
"""Orthonormal opponent colours, as rows over RGB: an error in a coefficient is the same error in RGB."""

_COEFFICIENTS = (
    _Coefficient(_LUMA, 0, 0, 0, -6.3, 12.0),
    _Coefficient(_ORANGE_BLUE, 0, 0, 0, 2.4, 5.5),
    _Coefficient(_GREEN_PURPLE, 0, 0, 0, -0.53, 1.7),
    _Coefficient(_LUMA, 0, 1, 0, 0.0, 2.8),
    _Coefficient(_LUMA, 0, 0, 1, 0.0, 2.8),
    _Coefficient(_LUMA, 0, 2, 0, 0.0, 1.4),
    _Coefficient(_LUMA, 0, 0, 2, 0.0, 1.4),
    _Coefficient(_LUMA, 0, 1, 1, 0.0, 1.4),
    _Coefficient(_ORANGE_BLUE, 0, 1, 0, 0.0, 0.94),
    _Coefficient(_ORANGE_BLUE, 0, 0, 1, 0.0, 0.94),
    _Coefficient(_LUMA, 0, 2, 1, 0.0, 0.92),
    _Coefficient(_LUMA, 0, 1, 2, 0.0, 0.92),
    _Coefficient(_LUMA, 0, 3, 0, 0.0, 0.83),
    _Coefficient(_LUMA, 0, 0, 3, 0.0, 0.83),
    _Coefficient(_LUMA, 1, 0, 0, 0.0, 1.04),
    _Coefficient(_LUMA, 1, 0, 1, 0.0, 0.8),
)
"""The 16 of 768 coefficients with the most energy, measured on eight photographs (those of scikit-image, scikit-learn
and matplotlib) at 96 and 128 lines, still and panned by 0.5 and 2 pixels a frame."""


class DctCodec:
    """A fixed linear codec: the low frequencies of a 3-D DCT of 4×8×8 patches in opponent colours.

    The basis is orthonormal, so decoding is the transposed matrix. The first frame stands for a patch of four equal
    frames, as a still image does; decoding averages that patch in time. It exists so that training runs, and can be
    looked at, without weights: it keeps 16 numbers of 768 and loses fine detail.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        time, space = _dct(TIME_STRIDE), _dct(SPACE_STRIDE)
        rows = [
            torch.einsum("t,i,j,k->tijk", time[c.time], space[c.row], space[c.column], _COLOUR_AXES[c.colour].double())
            for c in _COEFFICIENTS
        ]
        self._basis = torch.stack(rows).flatten(1).float().to(device)
        self._mean = torch.tensor([c.mean for c in _COEFFICIENTS], device=device)
        self._std = torch.tensor([c.std for c in _COEFFICIENTS], device=device)

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        """See `Codec.encode`."""
        frames = _check_pixels(pixels)
        pixels = pixels.to(self._basis)
        pixels = torch.cat([pixels[:, :, :1].expand(-1, -1, TIME_STRIDE, -1, -1), pixels[:, :, 1:]], dim=2)
        batch, _, _, height, width = pixels.shape
        h, w = height // SPACE_STRIDE, width // SPACE_STRIDE
        patches = pixels.reshape(batch, 3, latent_frames(frames), TIME_STRIDE, h, SPACE_STRIDE, w, SPACE_STRIDE)
        patches = patches.permute(0, 2, 4, 6, 3, 5, 7, 1).flatten(4)
        return (((patches @ self._basis.T) - self._mean) / self._std).movedim(-1, 1).contiguous()

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """See `Codec.decode`."""
        batch, _, frames, h, w = latents.shape
        patches = (latents.to(self._basis).movedim(1, -1) * self._std + self._mean) @ self._basis
        patches = patches.reshape(batch, frames, h, w, TIME_STRIDE, SPACE_STRIDE, SPACE_STRIDE, 3)
        video = patches.permute(0, 7, 1, 4, 2, 5, 3, 6)
        video = video.reshape(batch, 3, frames * TIME_STRIDE, h * SPACE_STRIDE, w * SPACE_STRIDE)
        first = video[:, :, :TIME_STRIDE].mean(dim=2, keepdim=True)
        return torch.cat([first, video[:, :, TIME_STRIDE:]], dim=2).clamp_(-1, 1)


class WanCodec:
    """The Wan2.1 VAE of diffusers, normalised by its own per-channel mean and deviation.

    Encoding takes the posterior's mode, so that a clip has one latent.

    Args:
        model: a local folder (whole pipeline or the VAE alone) or a hub id that is in the cache.
        revision: of the hub id.

    Raises:
        MissingWeightsError: the weights are not on this machine, or cannot be read.
    """

    def __init__(self, model: str, revision: str = "main", device: torch.device | str = "cpu") -> None:
        from diffusers import AutoencoderKLWan  # seconds to import, and the embedded codec does not need it

        folder = local_folder(model, revision, "vae")
        try:
            self._vae = AutoencoderKLWan.from_pretrained(folder, use_safetensors=True, local_files_only=True)
        except (OSError, ValueError) as error:
            raise MissingWeightsError(f"{folder}: no readable AutoencoderKLWan weights: {error}") from error
        self._vae.requires_grad_(False).eval().to(device)
        moments = torch.tensor([self._vae.config.latents_mean, self._vae.config.latents_std], device=device)
        self._mean, self._std = moments.reshape(2, 1, LATENT_CHANNELS, 1, 1, 1)

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        """See `Codec.encode`."""
        latent_frames(_check_pixels(pixels))
        latents = self._vae.encode(pixels.to(self._vae.device, self._vae.dtype)).latent_dist.mode().float()
        return (latents - self._mean) / self._std

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """See `Codec.decode`."""
        latents = latents.to(self._mean) * self._std + self._mean
        return self._vae.decode(latents.to(self._vae.dtype)).sample.float().clamp_(-1, 1)


def _check_pixels(pixels: Tensor) -> int:
    """Number of frames. Raises ValueError for shapes that no latent has."""
    _, colours, frames, height, width = pixels.shape
    if colours != 3 or height % SPACE_STRIDE or width % SPACE_STRIDE:
        raise ValueError(f"pixels must be [B, 3, F, H, W] with H and W multiples of 8, got {tuple(pixels.shape)}")
    latent_frames(frames)
    return frames


def _dct(size: int) -> Tensor:
    """The orthonormal DCT-II, [frequency, position], float64."""
    frequency, position = torch.arange(size).double()[:, None], torch.arange(size).double()[None]
    matrix = torch.cos(math.pi * (2 * position + 1) * frequency / (2 * size)) * math.sqrt(2 / size)
    matrix[0] /= math.sqrt(2)
    return matrix
