"""Checks of masks: neither a speck nor a leak, whole, and the one that its reference was cut by."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np

from dataengine.audit.checks.basis import Case, Finding, finding, pixels, whole


def mask_area(case: Case) -> Iterator[Finding]:
    """A mask is neither a speck nor most of the frame."""
    least, most = case.limits.mask_area, case.limits.mask_area_most
    for reference, mask in case.masked():
        share = pixels(mask) / mask.size
        reason = f"{share:.2%} of the frame ({least:.1%} to {most:.0%})"
        yield finding(mask_area, reference.entity, share, least <= share <= most, reason)


def mask_inside_box(case: Case) -> Iterator[Finding]:
    """A mask lies inside the box it was cut by."""
    least = case.limits.inside_box
    for reference, mask in case.masked():
        total = pixels(mask)
        x0, y0, x1, y1 = whole(reference.box)
        share = pixels(mask[y0:y1, x0:x1]) / total if total else 0.0
        reason = f"{share:.0%} of it is inside its box (at least {least:.0%})"
        yield finding(mask_inside_box, reference.entity, share, share >= least, reason)


def mask_on_border(case: Case) -> Iterator[Finding]:
    """A mask is not mostly cut off by the frame's edge."""
    most = case.limits.on_border
    for reference, mask in case.masked():
        framed = np.pad(mask, 1)
        inner = framed[:-2, 1:-1] & framed[2:, 1:-1] & framed[1:-1, :-2] & framed[1:-1, 2:]
        outline = mask & ~inner
        border = outline.copy()
        border[1:-1, 1:-1] = False
        share = pixels(border) / max(1, pixels(outline))
        reason = f"{share:.0%} of its outline is the frame's edge (at most {most:.0%})"
        yield finding(mask_on_border, reference.entity, share, share <= most, reason)


def mask_holes(case: Case) -> Iterator[Finding]:
    """A mask is not riddled with holes."""
    most = case.limits.holes
    for reference, mask in case.masked():
        shapes, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        filled = int(cv2.drawContours(np.zeros(mask.shape, np.uint8), shapes, -1, 1, cv2.FILLED).sum())
        share = 1 - pixels(mask) / filled if filled else 0.0
        reason = f"{share:.0%} of its filled shape is holes (at most {most:.0%})"
        yield finding(mask_holes, reference.entity, share, share <= most, reason)


def mask_cuts_reference(case: Case) -> Iterator[Finding]:
    """A reference shows exactly what its mask covers, white around it."""
    least = case.limits.cut_by_mask
    for reference, mask in case.masked():
        x0, y0, x1, y1 = whole(reference.box)
        inside = mask[y0:y1, x0:x1]
        shown = np.asarray(case.scene.image(reference))
        if inside.shape != shown.shape[:2]:
            reason = f"its picture is {shown.shape[1]}x{shown.shape[0]}, its box {inside.shape[1]}x{inside.shape[0]}"
            yield finding(mask_cuts_reference, reference.entity, 0.0, False, reason)
            continue
        # White pixels under the mask are white clothes: only what is shown outside of it tells.
        stray = pixels((shown != 255).any(axis=2) & ~inside)
        lost = 0 if _mostly_white(shown, inside) else pixels((shown == 255).all(axis=2) & inside)
        share = 1 - (stray + lost) / max(1, pixels(inside) + stray)
        reason = f"{stray} pixels are shown beside its mask, {lost} are white inside it"
        yield finding(mask_cuts_reference, reference.entity, share, share >= least, reason)


def _mostly_white(shown: np.ndarray, inside: np.ndarray) -> bool:
    """Whether what is shown is so bright that white inside the mask says nothing."""
    seen = shown[inside & (shown != 255).any(axis=2)]
    return len(seen) == 0 or float(np.median(seen)) > 225
