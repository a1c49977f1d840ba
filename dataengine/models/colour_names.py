"""Names of colours: which of the eleven basic colour terms people would use for a pixel.

The terms are those of Berlin & Kay (*Basic Color Terms*, 1969). Where chromatic ones reach comes from the XKCD colour
survey (Munroe 2010, 222,500 participants, public domain, in matplotlib as `XKCD_COLORS`): every surveyed colour whose
name ends in a basic term ("dull orange", "navy blue") is a prototype of that term, and a pixel takes the term that its
nearest prototypes in CIELAB hold. Pixels without a hue to speak of are black, grey or white by their lightness, with
the limits of the ISCC-NBS system (Kelly & Judd, *Color*, 1976): Munsell value 2.5 and 8.5.
Averaging names over pixels, and not pixels, keeps a shirt of black and white stripes from being grey.
"""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

TERMS = ("black", "white", "grey", "red", "green", "yellow", "blue", "brown", "purple", "pink", "orange")

_GREY = TERMS.index("grey")

NEIGHBOURS = 5
"""Prototypes that vote on a colour, by inverse distance: single survey names are noisy."""
SURFACES = 4
"""Groups of like pixels that a garment is divided into."""
BLACK_L, WHITE_L = 26.0, 86.0
"""Munsell values 2.5 and 8.5 as CIELAB lightness: neutral pixels below are black, above white, between grey."""
NEUTRAL_CHROMA = ((0.0, 10.0, 20.0, 30.0, 80.0, 100.0), (20.0, 14.0, 10.0, 8.0, 7.0, 10.0))
"""Lightness and chroma: pixels of less chroma than this are neutral. In the dark, hue is a codec's guess."""
_BITS = 5  # the table has a cell for every 8 × 8 × 8 RGB values


def shares(rgb: NDArray[np.uint8]) -> dict[str, float]:
    """The share of the pixels (…, 3) that each term names, largest first; empty for no pixels."""
    counts = np.bincount(term_of(rgb).ravel(), minlength=len(TERMS))
    total = counts.sum()
    return {TERMS[i]: float(counts[i] / total) for i in np.argsort(-counts, kind="stable")} if total else {}


def surface_shares(rgb: NDArray[np.uint8]) -> dict[str, float]:
    """As `shares`, but pixels (N, 3) are first grouped by colour, and a group takes the name of most of its pixels.

    A lit orange sleeve is orange in the middle, red in its folds and pink where it shines: one surface, one name.
    Lightness counts less than hue in the grouping (k-means).
    """
    if len(rgb) < SURFACES:
        return shares(rgb)
    sample = rgb[np.linspace(0, len(rgb) - 1, min(len(rgb), 3000)).astype(int)]
    points = lab(sample) * np.array([0.4, 1, 1], np.float32)
    cv2.setRNGSeed(0)
    stop = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_MAX_ITER, 20, 0.5)
    _, labels, _ = cv2.kmeans(points, SURFACES, None, stop, 3, cv2.KMEANS_PP_CENTERS)
    named: dict[str, float] = dict.fromkeys(TERMS, 0.0)
    for group in range(SURFACES):
        members = sample[labels.ravel() == group]
        if len(members):
            named[next(iter(shares(members)))] += len(members) / len(sample)
    return dict(sorted(named.items(), key=lambda item: -item[1]))


def term_of(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Index in `TERMS` of each pixel (…, 3)."""
    cell = (rgb >> (8 - _BITS)).astype(np.int64)
    return _table()[(cell[..., 0] << 2 * _BITS) + (cell[..., 1] << _BITS) + cell[..., 2]]


def lab(rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    """sRGB pixels (…, 3) in CIELAB: L 0…100, a and b about -100…100."""
    flat = np.ascontiguousarray(rgb, dtype=np.float32).reshape(1, -1, 3) / 255
    return cv2.cvtColor(flat, cv2.COLOR_RGB2LAB).reshape(rgb.shape)


@cache
def _table() -> NDArray[np.uint8]:
    # Here, not above: every process that holds a pipeline imports this module, few of them name a colour.
    from matplotlib.colors import XKCD_COLORS, to_rgb
    from scipy.spatial import cKDTree

    names, colours = [], []
    for name, code in XKCD_COLORS.items():
        term = name.removeprefix("xkcd:").split()[-1].replace("gray", "grey")
        if term in TERMS and term not in ("black", "white"):
            names.append(TERMS.index(term))
            colours.append([round(255 * v) for v in to_rgb(code)])
    tree = cKDTree(lab(np.array(colours, np.uint8)))
    step = 1 << (8 - _BITS)
    axis = np.arange(0, 256, step, dtype=np.uint8) + step // 2
    cells = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    distance, index = tree.query(lab(cells), NEIGHBOURS)
    votes = np.zeros((len(cells), len(TERMS)))
    for d, i in zip(distance.T, index.T, strict=True):
        votes[np.arange(len(cells)), np.array(names)[i]] += 1 / (d + 1)
    terms = votes.argmax(axis=1)
    light, a, b = lab(cells).T
    neutral = np.hypot(a, b) < np.interp(light, *NEUTRAL_CHROMA)
    greys = np.select([light < BLACK_L, light > WHITE_L], [TERMS.index("black"), TERMS.index("white")], _GREY)
    return np.where(neutral, greys, terms).astype(np.uint8)
