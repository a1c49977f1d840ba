"""Addresses of pictures and clips. They name an edition of the dataset, so that browsers may keep what they got."""

from __future__ import annotations

import re
from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Response
from fastapi.responses import JSONResponse

from dataengine.audit.desk import Desk, Edition, NoSuchSample, Rebuilt
from dataengine.records import Record

Number = Annotated[int, Path(ge=0, le=2**31 - 1)]
_KEEP = {"cache-control": "private, max-age=3600, immutable"}
_BASE = "/media/{generation}/{position}"


class Problem(Record):
    """Why a request was refused or could not be answered, and what to do."""

    problem: str
    remedy: str


def media_routes(desk: Desk) -> APIRouter:
    """Everything under /media for one dataset."""
    router = APIRouter()

    def at(generation: int, position: int) -> tuple[Edition, int]:
        """The edition that an address speaks of, and the sample's row in the index."""
        found = desk.edition()
        if generation != found.number:
            raise Rebuilt("the dataset was built or checked anew since this page was loaded")
        return found, found.place(position).row

    @router.get(_BASE + "/thumb", response_class=Response, responses=_answers("image/jpeg"))
    def thumb(generation: Number, position: Number) -> Response:
        """The main still, small, with what was cut from it drawn in."""
        edition, _ = at(generation, position)
        return _picture(desk.thumb(edition, position), "image/jpeg")

    @router.get(_BASE + "/frames/{number}", response_class=Response, responses=_answers("image/jpeg"))
    def frame(generation: Number, position: Number, number: Number) -> Response:
        """An exact frame of the clip."""
        edition, row = at(generation, position)
        return _picture(edition.media.frame(row, number), "image/jpeg")

    @router.get(_BASE + "/references/{number}", response_class=Response, responses=_answers("image/png"))
    def reference(generation: Number, position: Number, number: Number) -> Response:
        """A reference image as the trainer gets it; `number` counts the stored sample's references."""
        edition, row = at(generation, position)
        media = edition.media
        references = media.pair(row).references
        if number >= len(references):
            raise NoSuchSample(f"sample {position} has {len(references)} references")
        return _picture(media.reference(row, references[number]), "image/png")

    @router.get(_BASE + "/masks/{number}", response_class=Response, responses=_answers("image/png"))
    def mask(generation: Number, position: Number, number: Number) -> Response:
        """A reference's mask over the whole frame: opaque where the entity is."""
        edition, row = at(generation, position)
        media = edition.media
        pair = media.pair(row)
        if number >= len(pair.references) or pair.references[number].mask_member is None:
            raise NoSuchSample(f"sample {position} has no mask {number}")
        return _picture(media.overlay(row, pair, pair.references[number]), "image/png")

    part = {"description": "a part of it", "content": {"video/mp4": {}}}

    @router.get(_BASE + "/clip", response_class=Response, responses={**_answers("video/mp4"), 206: part})
    def clip(
        generation: Number, position: Number, range: Annotated[str | None, Header(max_length=100)] = None
    ) -> Response:
        """The clip's file, or a range of its bytes."""
        edition, row = at(generation, position)
        media = edition.media
        size = media.clip_size(row)
        span = byte_range(range, size)
        if span is None:
            body = Problem(problem=f"the clip has {size} bytes", remedy="ask for a range inside of it")
            return JSONResponse(body.model_dump(), 416, {"content-range": f"bytes */{size}"})
        start, end = span
        headers = {**_KEEP, "accept-ranges": "bytes"}
        if range is None or (start, end) == (0, size):
            return Response(media.clip_range(row, 0, size), 200, headers, "video/mp4")
        headers["content-range"] = f"bytes {start}-{end - 1}/{size}"
        return Response(media.clip_range(row, start, end), 206, headers, "video/mp4")

    return router


def byte_range(header: str | None, size: int) -> tuple[int, int] | None:
    """The bytes (half open) that a Range header asks for; all of them where it asks for none or for several parts.

    None when it asks for nothing that is there.
    """
    match = re.fullmatch(r"bytes=(\d{0,18})-(\d{0,18})", header.strip()) if header else None
    if match is None or match.groups() == ("", ""):
        return 0, size
    first, last = match.groups()
    if not first:
        return (max(0, size - int(last)), size) if int(last) else None
    start, end = int(first), min(size, int(last) + 1) if last else size
    return (start, end) if start < end else None


def _answers(kind: str) -> dict[int | str, dict[str, Any]]:
    return {200: {"description": "it", "content": {kind: {"schema": {"type": "string", "format": "binary"}}}}}


def _picture(data: bytes, kind: str) -> Response:
    return Response(data, media_type=kind, headers=_KEEP)
