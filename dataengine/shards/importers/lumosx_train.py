"""What the released LumosX trainer reads: a folder a video with `info.json` and masks, and a table of captions.

Read off `VideoAlchemyDataset` (`LumosX/source/datasets/datasets.py` in alibaba-damo-academy/Lumos-Custom), the only
public description: `info.json` has `video`, `selected_frames` (frame numbers) and `word_tags_path` with

- `person`: a list of `{"subject": {"<noun>": ["<noun>_frame<n>.png", …], "face": {"<n>": [x0, y0, x1, y1], …}},
  "attributes": [{"<phrase>": ["<phrase>_frame<n>.png", …]}, …]}`,
- `other_subjects`: a list of `{"<phrase>": [masks]}`,
- `background`: `{"<phrase>": [images]}`; of three images the second is the background, else the first.

Masks cover the whole frame. Captions are in the trainer's table (`path`, `text`), by the video's name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dataengine.records import Box, EncodedClip
from dataengine.shards.importers.clip import MAX_CLIP_BYTES, take_clip
from dataengine.shards.importers.contract import (
    Imported,
    ImportRefused,
    Item,
    Refusal,
    SourceError,
    key_of,
    provenance,
    safe_name,
)
from dataengine.shards.importers.cutting import cropped, cut_out
from dataengine.shards.importers.drafting import Draft, Person, Place, Shown
from dataengine.shards.importers.images import MAX_IMAGE_BYTES, take_mask, take_picture
from dataengine.shards.importers.rows import read_rows
from dataengine.shards.importers.tree import Tree
from dataengine.shards.losses import LossCount
from dataengine.video import Video, VideoError

INFO = "info.json"
MAX_INFO_BYTES = 4_000_000
MAX_FRAMES = 16
"""Selected frames of a sample; the released ones have three."""
_MASK = re.compile(r"_frame([0-9]{1,9})\.png$")
_TABLES = (".csv", ".parquet", ".jsonl")


class _Loose(BaseModel):
    """Other people's JSON: what is known of it is checked, the rest is passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class _PersonTags(_Loose):
    subject: dict[str, tuple[str, ...] | dict[str, tuple[float, float, float, float]]]
    attributes: tuple[dict[str, tuple[str, ...]], ...] = ()


class _Tags(_Loose):
    person: tuple[_PersonTags, ...] = Field((), max_length=32)
    other_subjects: tuple[dict[str, tuple[str, ...]], ...] = Field((), max_length=64)
    background: dict[str, tuple[str, ...]] = {}


class _Info(_Loose):
    video: str
    selected_frames: tuple[int, ...] = Field(max_length=MAX_FRAMES)
    word_tags_path: _Tags
    text: str = ""


@dataclass(frozen=True)
class LumosXTrain:
    """Implements `Importer`. `videos` is where the paths of `info.json` are looked for, by their last parts."""

    tree: Tree
    videos: Tree
    format: str = "lumosx-train"
    version: int = 1

    def options(self) -> dict[str, Any]:
        return {}

    def items(self) -> Iterator[Item | Refusal]:
        captions, refusals = self._captions()
        yield from refusals
        found = False
        for path in self.tree.walk(INFO):
            found = True
            folder = str(PurePosixPath(path).parent)
            name = PurePosixPath(folder).name
            yield Item(name=folder, place=folder, stamp=self.tree.stamp(path), text=captions.get(name, ""))
        if not found:
            raise SourceError(f"{self.tree.root}: no {INFO} in it: is it what the LumosX trainer reads?")

    def _captions(self) -> tuple[dict[str, str], list[Refusal]]:
        """The captions of the tables beside the folders, by the video's name without its ending."""
        captions: dict[str, str] = {}
        refusals: list[Refusal] = []
        for entry in self.tree.entries():
            if entry.is_file and PurePosixPath(entry.name).suffix.lower() in _TABLES:
                for row in read_rows(self.tree, entry.name):
                    if isinstance(row, Refusal):
                        refusals.append(row)
                    elif row.path and row.caption:
                        captions.setdefault(PurePosixPath(row.path).stem, row.caption)
        return captions, refusals

    def read(self, item: Item) -> Imported:
        info = self._info(item.place)
        caption = (item.text or info.text).strip()
        if not caption:
            raise ImportRefused(
                f"no caption: no table beside the folders ({', '.join(_TABLES)}, columns path and text) has a row "
                f"for {safe_name(PurePosixPath(item.place).name)!r}"
            )
        data = self._video(item.place, info.video)
        clip = take_clip(data)
        frames = frames_of(data, info.selected_frames)
        reader = _Sample(self.tree, item.place, info, frames, clip)
        draft = Draft(
            key=key_of(item.name, data),
            clip=clip,
            caption=caption,
            people=tuple(reader.person(n, person) for n, person in enumerate(info.word_tags_path.person)),
            objects=reader.objects(),
            background=reader.background(),
            losses=reader.losses,
        )
        if clip.mp4 != data:
            draft.losses.add("video", "encoded anew: not H.264 at a constant rate with a keyframe a second", item.name)
        name = safe_name(item.name)
        return draft.finish(provenance(self, f"{name}/{INFO}"), name)

    def _info(self, folder: str) -> _Info:
        try:
            return _Info.model_validate_json(self.tree.read(f"{folder}/{INFO}", MAX_INFO_BYTES))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise ImportRefused(f"{INFO}: {where}: {first['msg']}") from error

    def _video(self, folder: str, path: str) -> bytes:
        """The video by its path's last parts, the longest that there is, or beside the masks."""
        if (name := self.videos.by_tail(path)) is not None:
            return self.videos.read(name, MAX_CLIP_BYTES)
        beside = f"{folder}/{PurePosixPath(path).name}"
        if self.tree.has(beside):
            return self.tree.read(beside, MAX_CLIP_BYTES)
        raise ImportRefused(f"its video {safe_name(path)} is not below the folder of videos: name it by --videos")


def frames_of(data: bytes, numbers: Sequence[int]) -> dict[int, tuple[float, NDArray[np.uint8]]]:
    """Frames by number, as decord counts them: in order of presentation, with their times in seconds.

    Raises `ImportRefused` for a number outside the video.
    """
    wanted, found = set(numbers), dict[int, tuple[float, NDArray[np.uint8]]]()
    try:
        with Video(BytesIO(data)) as video:
            for number, frame in enumerate(video.iter_frames()):
                if number in wanted:
                    found[number] = (frame.time_s, frame.rgb)
                if len(found) == len(wanted):
                    break
    except VideoError as error:
        raise ImportRefused(f"the video: {error.problem}") from error
    if missing := sorted(wanted - found.keys()):
        raise ImportRefused(f"the video has no frame {missing[0]}, which is a selected one")
    return found


@dataclass
class _Sample:
    """The references of one sample. Of several frames that show one, that with most pixels of it is taken."""

    tree: Tree
    folder: str
    info: _Info
    frames: Mapping[int, tuple[float, NDArray[np.uint8]]]
    clip: EncodedClip
    losses: LossCount = field(default_factory=LossCount)

    def person(self, number: int, tags: _PersonTags) -> Person:
        faces = tags.subject.get("face", {})
        nouns = {word: names for word, names in tags.subject.items() if word != "face"}
        if len(nouns) != 1:
            raise ImportRefused(f"{INFO}: person {number} has {len(nouns)} nouns, one is expected")
        noun, names = next(iter(nouns.items()))
        if not isinstance(faces, dict) or isinstance(names, dict):
            raise ImportRefused(f"{INFO}: person {number}: boxes and masks are not where they should be")
        attributes = [
            shown
            for attribute in tags.attributes
            for phrase, masks in attribute.items()
            if (shown := self._masked(phrase, masks)) is not None
        ]
        return Person(number, noun, self._face(noun, faces), tuple(attributes), self._masked(noun, names))

    def objects(self) -> tuple[Shown, ...]:
        found = (
            self._masked(phrase, names)
            for subject in self.info.word_tags_path.other_subjects
            for phrase, names in subject.items()
        )
        return tuple(shown for shown in found if shown is not None)

    def background(self) -> Shown | None:
        for phrase, names in self.info.word_tags_path.background.items():
            if names:
                path = f"{self.folder}/{names[1 if len(names) == 3 else 0]}"
                size = (self.clip.width, self.clip.height)
                picture = take_picture(self.tree.read(path, MAX_IMAGE_BYTES), path, size)
                whole = (picture.width, picture.height) == size
                return Shown(
                    phrase,
                    picture.png,
                    picture.width,
                    picture.height,
                    picture.width * picture.height,
                    place=Place(Box(0, 0, *size), 0, 0.0) if whole else None,
                )
        return None

    def _face(self, noun: str, boxes: Mapping[str, tuple[float, float, float, float]]) -> Shown | None:
        if not boxes:
            return None
        self._count(len(boxes), "face")
        text, box = max(boxes.items(), key=lambda pair: Box(*pair[1]).area)
        if not text.isdecimal() or int(text) not in self.frames:
            raise ImportRefused(f"{INFO}: a face in frame {safe_name(text)}, which is no selected one")
        time_s, frame = self.frames[int(text)]
        return cropped(noun, self._even(frame), Box(*box), self._still(int(text)), time_s)

    def _masked(self, phrase: str, names: Sequence[str]) -> Shown | None:
        if len(names) > MAX_FRAMES:
            raise ImportRefused(f"{INFO}: {len(names)} masks of {phrase!r}")
        shown = [one for name in names if (one := self._one(phrase, name)) is not None]
        if not shown:
            self.losses.add("mask", "empty, or none is named: the reference is left out", self.folder)
            return None
        self._count(len(shown), "mask")
        return max(shown, key=lambda one: one.shown)

    def _one(self, phrase: str, name: str) -> Shown | None:
        match = _MASK.search(name)
        if match is None or int(match[1]) not in self.frames:
            raise ImportRefused(f"{safe_name(name)}: not <word>_frame<n>.png of a selected frame")
        time_s, frame = self.frames[int(match[1])]
        path = f"{self.folder}/{name}"
        pixels = take_mask(self.tree.read(path, MAX_IMAGE_BYTES), path, (frame.shape[1], frame.shape[0]))
        return cut_out(phrase, self._even(frame), self._even(pixels), self._still(int(match[1])), time_s)

    def _even(self, pixels: NDArray) -> NDArray:
        """Without the last row or column that a clip of even size lacks."""
        return pixels[: self.clip.height, : self.clip.width]

    def _still(self, number: int) -> int:
        return self.info.selected_frames.index(number)

    def _count(self, frames: int, what: str) -> None:
        if frames > 1:
            self.losses.add(
                f"{what}s in further frames", "a reference is one image: the largest", self.folder, frames - 1
            )
