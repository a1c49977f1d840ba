"""The figures of an evaluation as a picture."""

from __future__ import annotations

import io

from dataengine.world.evaluate import ALL, Evaluation

_INK, _ALL, _PART = "#24292f", "#0072b2", "#8ab6d6"


def draw(found: Evaluation) -> bytes:
    """A PNG with a row a metric and group: the value and its interval."""
    from matplotlib.figure import Figure  # two seconds that only this needs

    rows = sorted(found.metrics, key=lambda m: (m.name, m.group != ALL, m.group), reverse=True)
    figure = Figure(figsize=(8, 0.9 + 0.24 * len(rows)), dpi=110, layout="constrained")
    axes = figure.subplots()
    for at, metric in enumerate(rows):
        colour = _ALL if metric.group == ALL else _PART
        below, above = max(0.0, metric.value - metric.low), max(0.0, metric.high - metric.value)
        axes.errorbar(metric.value, at, xerr=[[below], [above]], fmt="o", color=colour, capsize=3)
        axes.annotate(f"{metric.value:.2f}", (1.02, at), va="center", fontsize=8, annotation_clip=False, color=_INK)
    labels = [m.name if m.group == ALL else f"{m.group} " for m in rows]
    axes.set_yticks(range(len(rows)), labels, fontsize=8)
    for tick, metric in zip(axes.get_yticklabels(), rows, strict=True):
        tick.set_fontweight("bold" if metric.group == ALL else "normal")
    axes.set_xlim(0, 1.0)
    axes.set_title(f"{found.samples} samples of {found.videos} videos, with 95 % intervals", fontsize=9, color=_INK)
    axes.grid(axis="x", color="#d0d7de", linewidth=0.6)
    axes.spines[["top", "right", "left"]].set_visible(False)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()
