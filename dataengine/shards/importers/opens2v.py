"""OpenS2V-5M: JSON objects of clips with flat labels, boxes and run-length masks on one frame; nobody owns anything.

Read off the demo data and `demo_dataloader.py` of OpenS2V-Nexus, and the file listing of BestWishYsh/OpenS2V-5M. A JSON
file has a member a clip: `metadata` (`path`, `crop` as x0, x1, y0, y1, `face_cut` or `cut` in frames,
`face_cap_qwen`), `word_tags` (`subject`, `object`, `background`) and `annotation` (`ann_frame_data`, `mask_map`,
`mask_annotation`, in pixels of the cropped frame). Videos are below `Videos/<json's name>/`, backgrounds are
`Background/<json's name>/<key>.png`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dataengine import masks
from dataengine.records import Box, EncodedClip, Mask
from dataengine.shards.importers.clip import cut_clip
from dataengine.shards.importers.contract import ImportRefused, Item, Refusal, SourceError, safe_name
from dataengine.shards.importers.images import MAX_IMAGE_BYTES, take_picture
from dataengine.shards.importers.json_members import JsonError, json_members
from dataengine.shards.importers.tree import Tree
from dataengine.video import Video, VideoError

MAX_MEMBER_BYTES = 64_000_000
MAX_LABELS = 128
_CUT = re.compile(r"_(?:part|segment).*$")
"""What the names of clips of one video differ in, as the released loader cuts it off."""


class _Loose(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class _Metadata(_Loose):
    path: str
    crop: tuple[int, int, int, int] | None = None
    cut: tuple[int, int] | None = None
    face_cut: tuple[int, int] | None = None
    face_cap_qwen: str = ""
    fps: float | None = None


class _WordTags(_Loose):
    subject: tuple[str, ...] = Field((), max_length=MAX_LABELS)
    object: tuple[str, ...] = Field((), max_length=MAX_LABELS)
    background: tuple[str, ...] = Field((), max_length=MAX_LABELS)


class _Boxed(_Loose):
    class_name: str
    bbox: tuple[float, float, float, float]
    gme_score: float | None = None


class _FrameData(_Loose):
    ann_frame_idx: int
    annotations: tuple[_Boxed, ...] = Field(max_length=MAX_LABELS)
    img_width: int
    img_height: int


class _Name(_Loose):
    class_name: str


class _Runs(_Loose):
    size: tuple[int, int]
    counts: str


class _Annotation(_Loose):
    ann_frame_data: _FrameData
    mask_map: dict[str, _Name]
    mask_annotation: dict[str, dict[str, _Runs]]


class _Clip(_Loose):
    metadata: _Metadata
    word_tags: _WordTags = _WordTags()
    annotation: _Annotation


@dataclass(frozen=True, eq=False)
class Label:
    """A phrase with its mask (H, W) over the clip's frame."""

    phrase: str
    pixels: NDArray[np.bool_]
    mask: Mask
    box: Box
    score: float
    """How well image and phrase go together (GME), as the dataset has it; 0 where it has none."""


@dataclass(frozen=True, eq=False)
class FlatSample:
    """A clip with labels on one of its frames, none of them tied to another."""

    name: str
    caption: str
    video_name: str
    source: str
    """The video that the clip was cut from, without the part's number."""
    start_s: float
    end_s: float
    clip: EncodedClip
    frame: NDArray[np.uint8]
    """RGB (H, W, 3), of the clip's size."""
    time_s: float
    """Of the frame, from the clip's start."""
    labels: tuple[Label, ...]
    subjects: frozenset[str]
    backgrounds: tuple[str, ...]
    background: bytes | None
    """PNG of the clip's size."""


@dataclass(frozen=True)
class OpenS2VSource:
    """Lists and reads OpenS2V's clips; `pipelines.opens2v` finds out what is whose."""

    tree: Tree
    videos: Tree

    def items(self) -> Iterator[Item | Refusal]:
        files = sorted(name for name in self._json_files())
        if not files:
            raise SourceError(f"{self.tree.root}: no .json file in it: is it OpenS2V-5M's layout?")
        for name in files:
            stamp = self.tree.stamp(name)
            try:
                with self.tree.open(name) as stream:
                    for member in json_members(stream):
                        key = json.loads(b'"' + member.key + b'"')
                        yield Item(
                            name=f"{PurePosixPath(name).stem}/{key}",
                            place=name,
                            offset=member.offset,
                            size=member.size,
                            stamp=stamp,
                        )
            except (JsonError, ImportRefused, ValueError) as error:
                yield Refusal(name=safe_name(name), reason=f"{error}; what stands before that place was taken")

    def _json_files(self) -> Iterator[str]:
        """Those of the source, and of the folders that the dataset keeps masks in."""
        for folder in ("", "Jsons", "mask_and_bbox", "Jsons/mask_and_bbox", "Jsons/mask_and_bbox_High-Quality"):
            try:
                entries = self.tree.entries(folder)
            except ImportRefused:
                continue
            prefix = f"{folder}/" if folder else ""
            yield from (prefix + e.name for e in entries if e.is_file and e.name.lower().endswith(".json"))

    def read(self, item: Item) -> FlatSample:
        """Raises `ImportRefused`."""
        told = self._told(item)
        key, part = item.name.rpartition("/")[2], PurePosixPath(item.place).stem
        metadata, annotation = told.metadata, told.annotation
        caption = metadata.face_cap_qwen.strip()
        if not caption:
            raise ImportRefused("no caption (metadata.face_cap_qwen)")
        path = self._find(part, metadata.path)
        with self.videos.open(path) as stream:
            clip, frame, times = _cut(stream, metadata, annotation.ann_frame_data)
        size = (clip.width, clip.height)
        return FlatSample(
            name=item.name,
            caption=caption,
            video_name=safe_name(metadata.path),
            source=_CUT.sub("", PurePosixPath(metadata.path).stem),
            start_s=times[0],
            end_s=times[1],
            clip=clip,
            frame=frame,
            time_s=times[2],
            labels=_labels(annotation, size),
            subjects=frozenset(told.word_tags.subject),
            backgrounds=told.word_tags.background,
            background=self._background(part, key, size),
        )

    def _told(self, item: Item) -> _Clip:
        if item.size > MAX_MEMBER_BYTES:
            raise ImportRefused(f"{item.size} bytes of JSON, at most {MAX_MEMBER_BYTES} are taken")
        with self.tree.open(item.place) as stream:
            stream.seek(item.offset)
            data = stream.read(item.size)
        try:
            return _Clip.model_validate_json(data)
        except ValidationError as error:
            first = error.errors()[0]
            raise ImportRefused(f"its JSON: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error

    def _find(self, part: str, path: str) -> str:
        for under in (f"Videos/{part}", part, "Videos", ""):
            if (found := self.videos.by_tail(path, under)) is not None:
                return found
        raise ImportRefused(f"its video {safe_name(path)} is not below the folder of videos: name it by --videos")

    def _background(self, part: str, key: str, size: tuple[int, int]) -> bytes | None:
        for folder in (f"Background/{part}", f"{part}/foreground", "foreground"):
            name = f"{folder}/{key}.png"
            if self.videos.has(name):
                picture = take_picture(self.videos.read(name, MAX_IMAGE_BYTES), name, size)
                return picture.png if (picture.width, picture.height) == size else None
        return None


def _cut(
    source: BinaryIO, metadata: _Metadata, data: _FrameData
) -> tuple[EncodedClip, NDArray[np.uint8], tuple[float, float, float]]:
    """The clip, the annotated frame, and the clip's span in the video with the frame's time in the clip."""
    first, last = metadata.face_cut or metadata.cut or (0, 1 << 30)
    number = data.ann_frame_idx
    if not 0 <= first < last or not first <= number < last:
        raise ImportRefused(f"frames {first} to {last} with the annotated frame {number} are no clip")
    try:
        with Video(source) as video:
            start_s, end_s, time_s, frame = _times(video, first, last, number)
        x0, x1, y0, y1 = metadata.crop or (0, frame.shape[1], 0, frame.shape[0])
        clip = cut_clip(source, start_s, end_s, crop=(x0, y0, x1, y1))
    except VideoError as error:
        raise ImportRefused(f"the video: {error.problem}") from error
    if (data.img_width, data.img_height) != (x1 - x0, y1 - y0):
        raise ImportRefused(
            f"labels on {data.img_width}x{data.img_height} pixels, the cropped frame has {x1 - x0}x{y1 - y0}"
        )
    cropped = frame[y0:y1, x0:x1][: clip.height, : clip.width]
    return clip, np.ascontiguousarray(cropped), (start_s, end_s, round(time_s - start_s, 6))


def _times(video: Video, first: int, last: int, number: int) -> tuple[float, float, float, NDArray[np.uint8]]:
    """Frames by number, as decord counts them: when the first begins and the last ends, and the annotated one."""
    start_s, time_s, shown, count = 0.0, 0.0, None, 0
    end_s = video.info.duration_s
    for count, frame in enumerate(video.iter_frames()):
        if count == first:
            start_s = frame.time_s
        if count == number:
            time_s, shown = frame.time_s, frame.rgb
        if count == last:
            end_s = frame.time_s
            break
    if shown is None:
        raise ImportRefused(f"the video has {count + 1} frames, none with the number {number}")
    return start_s, end_s, time_s, shown


def _labels(annotation: _Annotation, size: tuple[int, int]) -> tuple[Label, ...]:
    """Every label with a usable mask. A mask's number is the place of its box in the list, from 1."""
    data = annotation.ann_frame_data
    runs = annotation.mask_annotation.get(str(data.ann_frame_idx))
    if not runs:
        raise ImportRefused(f"no masks for the annotated frame {data.ann_frame_idx}")
    if len(runs) > MAX_LABELS:
        raise ImportRefused(f"{len(runs)} masks, at most {MAX_LABELS} are taken")
    width, height = size
    labels = []
    for number, coded in sorted(runs.items(), key=lambda pair: (len(pair[0]), pair[0])):
        if number not in annotation.mask_map:
            raise ImportRefused(f"mask {safe_name(number)} has no name in mask_map")
        if coded.size != (data.img_height, data.img_width):
            raise ImportRefused(
                f"mask {number} is {coded.size[1]}x{coded.size[0]}, the frame {data.img_width}x{data.img_height}"
            )
        try:
            pixels = masks.decode(Mask(height=coded.size[0], width=coded.size[1], counts=coded.counts))
        except ValueError as error:
            raise ImportRefused(f"mask {number}: {error}") from error
        pixels = pixels[:height, :width]
        mask = masks.encode(pixels)
        place = int(number) - 1 if number.isdecimal() else -1
        told = data.annotations[place] if 0 <= place < len(data.annotations) else None
        score = told.gme_score or 0.0 if told else 0.0
        if pixels.any():
            phrase = annotation.mask_map[number].class_name
            labels.append(Label(phrase, pixels, mask, masks.tight_box(mask), score))
    return tuple(labels)
