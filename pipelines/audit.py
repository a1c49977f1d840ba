"""What an audit takes from the rooms that it may not see itself: networks, tokenizers, measurements."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dataengine.models import colour_names

_TERMS = {**{term: term for term in colour_names.TERMS}, "gray": "grey", "golden": "yellow", "navy": "blue"}
_LEAST_PIXELS = 60


def colour_scorer(pictures: Sequence[Image.Image], phrases: Sequence[str]) -> NDArray[np.float64]:
    """A `Scorer`: the share of a picture's pixels that have the colour which a phrase names.

    White around a cut-out does not count. NaN for a phrase that names no colour, or a picture with next to no pixels.
    """
    scores = np.full((len(pictures), len(phrases)), np.nan)
    named = [
        {_TERMS[word] for word in re.findall(r"[a-z]+", phrase.casefold()) if word in _TERMS} for phrase in phrases
    ]
    for i, picture in enumerate(pictures):
        rgb = np.asarray(picture.convert("RGB")).reshape(-1, 3)
        rgb = rgb[(rgb != 255).any(axis=1)]
        if len(rgb) < _LEAST_PIXELS:
            continue
        shares = colour_names.surface_shares(rgb)
        for j, words in enumerate(named):
            if words:
                scores[i, j] = sum(shares.get(term, 0.0) for term in {_TERMS[word] for word in words})
    return scores
