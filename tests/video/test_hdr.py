"""Tone mapping: reference levels land where BT.2408 and our curve put them; hue and order are kept."""

import numpy as np
import pytest

from dataengine.video.hdr import tone_map


def _pq(nits: float) -> float:
    power = (nits / 10_000) ** 0.1593017578125
    return ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375


def _signal(*values: float) -> np.ndarray:
    return np.array([[[round(v * 65535)] * 3 for v in values]], dtype=np.uint16)


def _srgb(linear: float) -> float:
    return 255 * (12.92 * linear if linear <= 0.0031308 else 1.055 * linear ** (1 / 2.4) - 0.055)


def test_pq_below_the_knee_is_left_alone() -> None:
    nits = [0.0, 2.0, 20.0, 60.0, 100.0]
    grey = tone_map(_signal(*map(_pq, nits)), "pq")[0, :, 0]
    np.testing.assert_allclose(grey, [_srgb(n / 203) for n in nits], atol=1.5)


def test_highlights_are_compressed_to_white_at_the_peak() -> None:
    grey = tone_map(_signal(*(_pq(n) for n in (100, 203, 400, 700, 1000, 4000))), "pq")[0, :, 0].astype(int)
    assert np.all(np.diff(grey[:5]) > 0)
    assert 215 <= grey[1] <= 235  # diffuse white stays bright and leaves room above
    assert grey[4] == grey[5] == 255


def test_hlg_reference_white_is_where_pqs_is() -> None:
    """BT.2408: HLG's 75 % signal is 203 cd/m² on a 1000 cd/m² display."""
    white = int(tone_map(_signal(0.75), "hlg")[0, 0, 0])
    assert abs(white - int(tone_map(_signal(_pq(203)), "pq")[0, 0, 0])) <= 2
    assert tone_map(_signal(0.0, 1.0), "hlg")[0, :, 0].tolist() == [0, 255]


def test_greys_stay_grey_and_bt2020_colours_gain_saturation() -> None:
    grey = tone_map(_signal(0.2, 0.4, 0.6, 0.8), "pq").astype(int)
    assert (grey.max(axis=-1) - grey.min(axis=-1)).max() <= 1
    muted = np.array([[[_pq(80) * 65535, _pq(30) * 65535, _pq(30) * 65535]]]).astype(np.uint16)
    red, green, _ = tone_map(muted, "pq")[0, 0].astype(int)
    assert red > _srgb(80 / 203) and green < _srgb(30 / 203)  # the wider gamut's red is a stronger red


def test_unknown_transfer_is_refused() -> None:
    with pytest.raises(ValueError, match="'pq' or 'hlg'"):
        tone_map(_signal(0.5), "log")
