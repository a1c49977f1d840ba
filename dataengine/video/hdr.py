"""HDR (PQ, HLG) to SDR: what a 10-bit phone or broadcast frame looks like on an ordinary display."""

from functools import cache

import numpy as np
from numpy.typing import NDArray

# Diffuse white of HDR pictures, cd/m² (ITU-R BT.2408): it becomes SDR's reference white, linear 1.0.
DIFFUSE_WHITE = 203.0
# Luminance that maps to the brightest SDR value: the nominal peak of HLG displays and of most PQ masters.
PEAK = 1000.0
# Below this linear value the picture is left as it is; above it highlights are compressed.
KNEE = 0.5

_LUMA_2020 = np.array([0.2627, 0.6780, 0.0593], dtype=np.float32)
# Linear BT.2020 to linear BT.709 primaries (ITU-R BT.2087, table 3).
_TO_709 = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]],
    dtype=np.float32,
)


def tone_map(rgb: NDArray[np.uint16], transfer: str) -> NDArray[np.uint8]:
    """Map full-range BT.2020 R'G'B' to sRGB.

    Linearise (SMPTE ST 2084, or ARIB STD-B67 with BT.2100's OOTF at a 1000 cd/m² peak), put diffuse white at 1,
    compress highlights above a knee by an extended Reinhard curve on the largest channel (so hue is kept), convert
    the primaries to BT.709, clip, apply the sRGB curve.

    Args:
        rgb: uint16 (H, W, 3), 65535 = full signal.
        transfer: ``"pq"`` or ``"hlg"``.

    Returns:
        uint8 (H, W, 3).
    """
    linear = _linear_table(transfer)[rgb]
    if transfer == "hlg":  # scene light to display light: BT.2100's system gamma of 1.2
        luma = linear @ _LUMA_2020
        linear = linear * (np.power(luma, 0.2) * (PEAK / DIFFUSE_WHITE))[..., None]
    brightest = linear.max(axis=-1, keepdims=True)
    linear *= _compress(brightest) / np.maximum(brightest, 1e-6)
    linear = linear @ _TO_709.T
    return _srgb_table()[(np.clip(linear, 0.0, 1.0) * 65535.0 + 0.5).astype(np.uint16)]


def _compress(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Identity up to the knee, then falling slope; PEAK reaches 1 (Reinhard et al. 2002, equation 4, from the knee)."""
    over = np.maximum(x - KNEE, 0.0) / (1.0 - KNEE)
    peak = (PEAK / DIFFUSE_WHITE - KNEE) / (1.0 - KNEE)
    return np.minimum(x, KNEE) + (1.0 - KNEE) * over * (1.0 + over / peak**2) / (1.0 + over)


@cache
def _linear_table(transfer: str) -> NDArray[np.float32]:
    """uint16 signal to linear light; PQ: 1 = diffuse white; HLG: 1 = peak scene light."""
    signal = np.arange(65536, dtype=np.float64) / 65535.0
    if transfer == "pq":
        power = np.power(signal, 1 / 78.84375)
        base = np.maximum(power - 0.8359375, 0.0) / (18.8515625 - 18.6875 * power)
        light = 10000.0 * np.power(base, 1 / 0.1593017578125) / DIFFUSE_WHITE
    elif transfer == "hlg":
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        light = np.where(signal <= 0.5, signal**2 / 3.0, (np.exp((signal - c) / a) + b) / 12.0)
    else:
        raise ValueError(f"unknown HDR transfer {transfer!r}: expected 'pq' or 'hlg'")
    return light.astype(np.float32)


@cache
def _srgb_table() -> NDArray[np.uint8]:
    """Linear light as uint16 to the 8-bit sRGB signal (IEC 61966-2-1)."""
    light = np.arange(65536, dtype=np.float64) / 65535.0
    signal = np.where(light <= 0.0031308, 12.92 * light, 1.055 * np.power(light, 1 / 2.4) - 0.055)
    return np.round(signal * 255.0).astype(np.uint8)
