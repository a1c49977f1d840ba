"""From a decoded picture to rgb as it is meant to be seen: upright, with square pixels, in SDR."""

from fractions import Fraction

import av
import numpy as np
from av.video.reformatter import Colorspace, ColorTrc, Interpolation, VideoReformatter
from numpy.typing import NDArray

from dataengine.video.hdr import tone_map

# BITEXACT and ACCURATE_RND: the same bytes on every CPU.
SCALING = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.BITEXACT | Interpolation.FULL_CHR_H_INT

_MAX_PIXEL_ASPECT = 8  # beyond it the header is taken to be wrong
_HDR_TRANSFER = {int(ColorTrc.SMPTE2084): "pq", int(ColorTrc.ARIB_STD_B67): "hlg"}
_UNTAGGED = 2  # AVCOL_SPC_UNSPECIFIED

# (transpose, flip x, flip y) as (degrees clockwise, mirrored left to right before that).
_TURN: dict[tuple[bool, bool, bool], tuple[int, bool]] = {
    (False, False, False): (0, False),
    (True, True, False): (90, False),
    (False, True, True): (180, False),
    (True, False, True): (270, False),
    (False, True, False): (0, True),
    (True, True, True): (90, True),
    (False, False, True): (180, True),
    (True, False, False): (270, True),
}


class Display:
    """How a stream is shown, settled by its first frame: all of its frames come out in one size and orientation.

    Attributes:
        size: (width, height) in square pixels, upright.
        rotation: degrees clockwise by which the stored picture is turned.
        mirrored: the stored picture is flipped left to right before that.
        pixel_aspect: width of a stored pixel over its height.
        pix_fmt, bit_depth: as stored.
        transfer: ``sdr``, ``pq`` or ``hlg``.
    """

    def __init__(self, first: av.VideoFrame, pixel_aspect: Fraction | None) -> None:
        aspect = pixel_aspect or Fraction(1)
        plausible = Fraction(1, _MAX_PIXEL_ASPECT) <= aspect <= _MAX_PIXEL_ASPECT
        self.pixel_aspect = aspect if plausible else Fraction(1)
        self._turn = _orientation(first)
        self.rotation, self.mirrored = _TURN[self._turn]
        # The short side of the pixels is stretched, so no detail is lost.
        width = max(1, round(first.width * max(self.pixel_aspect, Fraction(1))))
        height = max(1, round(first.height / min(self.pixel_aspect, Fraction(1))))
        self.size = (height, width) if self._turn[0] else (width, height)
        self.pix_fmt = first.format.name
        self.bit_depth = max(component.bits for component in first.format.components)
        self.transfer = _HDR_TRANSFER.get(int(first.color_trc), "sdr")
        self._reformatter = VideoReformatter()

    def rgb(self, frame: av.VideoFrame, size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
        """A frame as rgb uint8 (H, W, 3), scaled to `size` = (width, height) if given, else in `self.size`."""
        transpose, flip_x, flip_y = self._turn
        width, height = size or self.size
        if width < 1 or height < 1:
            raise ValueError(f"size must be at least 1 x 1, got {size}")
        if transpose:
            width, height = height, width
        hdr = self.transfer != "sdr"
        picture = self._reformatter.reformat(
            frame,
            width=width,
            height=height,
            format="rgb48le" if hdr else "rgb24",
            src_colorspace=self._assumed_matrix(frame),
            interpolation=SCALING,
            threads=1,
        )
        pixels = picture.to_ndarray()
        if hdr:
            pixels = tone_map(pixels.astype(np.uint16, copy=False), self.transfer)
        if transpose:
            pixels = pixels.transpose(1, 0, 2)
        # A copy of its own: a view would keep the decoder's buffer alive.
        return np.array(pixels[:: -1 if flip_y else 1, :: -1 if flip_x else 1], dtype=np.uint8, order="C")

    def _assumed_matrix(self, frame: av.VideoFrame) -> Colorspace | None:
        """What players assume of a frame without a tag; None: it has one, or needs none."""
        if frame.colorspace != _UNTAGGED or frame.format.is_rgb:
            return None
        if self.transfer != "sdr":
            return Colorspace.BT2020
        return Colorspace.ITU709 if min(frame.width, frame.height) >= 720 else Colorspace.ITU601


def _orientation(frame: av.VideoFrame) -> tuple[bool, bool, bool]:
    """How to turn stored pixels upright: transpose, then flip x, then flip y.

    From the display matrix [a b u; c d v; x y w] (ISO 14496-12), which sends (x, y) to (a x + c y, b x + d y), y down.
    Angles between right angles go to the nearest.
    """
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return False, False, False
    a, b, _, c, d = np.frombuffer(bytes(matrix), dtype="<i4")[:5].tolist()
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return False, a < 0, d < 0
    return True, c < 0, b < 0
