"""The picture of a dataset card: how what the index knows of the samples is distributed."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataengine.shards.index import Index

_BAR, _INK = "#0072b2", "#24292f"
_PANELS = (
    ("subjects", "subjects in a sample", 1),
    ("attributes", "attributes in a sample", 1),
    ("objects", "objects in a sample", 1),
    ("seconds", "length of the clip, s", None),
    ("face_px", "short side of the smallest face, px", None),
    ("owner_share", "least agreement on the face", 0.05),
)
"""Columns of the index, what they are, and the width of their bars; None for twenty even ones."""


def distributions(index: Index) -> bytes:
    """A PNG of six histograms over all samples; the same index gives the same bytes."""
    import matplotlib  # two seconds that only this needs
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"font.size": 9, "axes.edgecolor": _INK, "text.color": _INK, "svg.hashsalt": "card"}):
        figure = Figure(figsize=(10, 4.8), dpi=110, layout="constrained")
        for panel, (column, title, width) in zip(figure.subplots(2, 3).flat, _PANELS, strict=True):
            _histogram(panel, index.table[column].to_numpy().astype(float), title, width)
        stream = io.BytesIO()
        figure.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()


def _histogram(panel: Any, values: NDArray[np.float64], title: str, width: float | None) -> None:
    if width == 1:
        edges = np.arange(values.min() - 0.5, values.max() + 1)
        panel.set_xticks(np.unique(np.linspace(values.min(), values.max(), 9).round()))
    elif width is not None:
        edges = np.arange(0, 1 + width, width)
    else:
        edges = np.histogram_bin_edges(values, 20)
    panel.hist(values, edges, color=_BAR, rwidth=0.9)
    panel.set_title(f"{title} (median {np.median(values):.3g})", fontsize=9)
    panel.set_ylabel("samples")
    panel.yaxis.get_major_locator().set_params(integer=True)
    panel.spines[["top", "right"]].set_visible(False)
