"""Pictures in which people are told apart by numbers: what the question of ownership shows."""

from __future__ import annotations

from collections.abc import Mapping

import cv2

from dataengine.models.interfaces import Image
from dataengine.records import Box, Person

COLOURS = ((230, 25, 75), (0, 130, 200), (60, 180, 75), (245, 130, 48), (145, 30, 180), (0, 128, 128))
MARGIN = 0.05
"""What a crop shows around the body, as a share of its size: enough for a hat, little of a neighbour."""


def boxed(image: Image, bodies: Mapping[int, Box]) -> Image:
    """The image with each body's box drawn and its number in the box's upper left corner."""
    drawn = image.copy()
    height, width = image.shape[:2]
    line = max(1, round(height / 200))
    size = max(0.4, height / 600)
    for number, body in sorted(bodies.items()):
        colour = COLOURS[(number - 1) % len(COLOURS)]
        x0, y0, x1, y1 = (round(value) for value in body.clipped(width, height))
        cv2.rectangle(drawn, (x0, y0), (x1 - 1, y1 - 1), colour, line)
        (w, h), below = cv2.getTextSize(str(number), cv2.FONT_HERSHEY_SIMPLEX, size, line)
        cv2.rectangle(drawn, (x0, y0), (x0 + w + 2 * line, y0 + h + below + 2 * line), colour, cv2.FILLED)
        corner = (x0 + line, y0 + h + line + below // 2)
        cv2.putText(drawn, str(number), corner, cv2.FONT_HERSHEY_SIMPLEX, size, (255, 255, 255), line, cv2.LINE_AA)
    return drawn


def crop(image: Image, body: Box) -> Image:
    """The person alone, with a narrow margin."""
    height, width = image.shape[:2]
    dx, dy = MARGIN * body.width, MARGIN * body.height
    part = Box(body.x0 - dx, body.y0 - dy, body.x1 + dx, body.y1 + dy).clipped(width, height)
    x0, y0, x1, y1 = (round(value) for value in part)
    return image[y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)]


def best_still(person: Person) -> int:
    """The still that shows the person's body largest, the sharper face among equals."""
    best = max(person.sightings, key=lambda s: (round(s.body.area), s.sharpness, -s.still))
    return best.still
