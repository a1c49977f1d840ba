"""The layout of the LumosX benchmark and inference scripts, a folder a sample, with a clip beside.

`caption.txt`, `subjects/<i>/face_<noun>.png`, `subjects/<i>/<attribute phrase>.png`, `objects/<phrase>.png`,
`background/<phrase>.png`: an image's name is its phrase in the caption. `clip.mp4` is ours: the benchmark has no
videos, and the released scripts pass over what they do not know. Source: `lumosx_inference_t2v_subject.py` and the
benchmark's `eval_decouple_ddp_multi.py` in alibaba-damo-academy/Lumos-Custom.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from dataengine.records import Box
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
from dataengine.shards.importers.drafting import Draft, Person, Place, Shown
from dataengine.shards.importers.images import MAX_IMAGE_BYTES, SUFFIXES, take_picture
from dataengine.shards.importers.tree import Tree
from dataengine.shards.losses import LossCount

CAPTION = "caption.txt"
CLIP = "clip.mp4"
PARTS = ("subjects", "objects", "background")
FACE = "face_"
WHOLE_BODY = "fullfullbody"
"""How the benchmark calls whole bodies; its scripts skip them."""
MAX_CAPTION_BYTES = 16_384
MAX_ENTRIES = 128
"""Of a sample's folder: a hundred thousand files are no sample."""


@dataclass(frozen=True)
class LumosX:
    """Implements `Importer`."""

    tree: Tree
    format: str = "lumosx"
    version: int = 1

    def options(self) -> dict[str, Any]:
        return {}

    def items(self) -> Iterator[Item | Refusal]:
        """Every folder in the source, or the source itself where it is one sample."""
        entries = self.tree.entries()
        if any(entry.is_file and entry.name == CAPTION for entry in entries):
            yield self._item("")
            return
        if not any(entry.is_folder for entry in entries):
            raise SourceError(f"{self.tree.root}: no folders with a {CAPTION} in them: is it the LumosX layout?")
        for entry in entries:
            if entry.is_folder:
                yield self._item(entry.name)
            elif not entry.is_file:
                yield Refusal(name=safe_name(entry.name), reason="a link or no plain folder: links are not followed")

    def _item(self, folder: str) -> Item:
        stamp = f"{self.tree.stamp(_join(folder, CAPTION))}/{self.tree.stamp(_join(folder, CLIP))}"
        return Item(name=folder or PurePosixPath(self.tree.root).name, place=folder, stamp=stamp)

    def read(self, item: Item) -> Imported:
        folder, tree = item.place, self.tree
        entries = {entry.name: entry for entry in tree.entries(folder, MAX_ENTRIES)}
        for name, entry in entries.items():
            if not entry.is_file and not entry.is_folder:
                raise ImportRefused(f"{safe_name(name)}: a link or no plain file: links are not followed")
        if CAPTION not in entries:
            raise ImportRefused(f"no {CAPTION}")
        caption = tree.text(_join(folder, CAPTION), MAX_CAPTION_BYTES)
        if CLIP not in entries:
            raise ImportRefused(
                f"no {CLIP}: the benchmark has no videos, so there is nothing to train on; "
                "`dataengine sample --folder` generates from it as it is"
            )
        data = tree.read(_join(folder, CLIP), MAX_CLIP_BYTES)
        clip = take_clip(data)
        reader = _Folder(tree, folder, item.name, (clip.width, clip.height))
        backgrounds = reader.images("background") if "background" in entries else ()
        if len(backgrounds) > 1:
            raise ImportRefused(f"{len(backgrounds)} backgrounds, one is possible")
        draft = Draft(
            key=key_of(item.name, data),
            clip=clip,
            caption=caption,
            people=reader.people() if "subjects" in entries else (),
            objects=reader.images("objects") if "objects" in entries else (),
            background=backgrounds[0] if backgrounds else None,
            losses=reader.losses,
        )
        if clip.mp4 != data:
            draft.losses.add(
                "clip.mp4", "encoded anew: not H.264 at a constant rate with a keyframe a second", item.name
            )
        for name in sorted(entries.keys() - {CAPTION, CLIP, *PARTS}):
            draft.losses.add(f"file {safe_name(name)}", "not part of the layout", item.name)
        name = safe_name(item.name)
        return draft.finish(provenance(self, name), name)


@dataclass
class _Folder:
    """The images of one sample."""

    tree: Tree
    folder: str
    name: str
    frame: tuple[int, int]

    def __post_init__(self) -> None:
        self.losses = LossCount()

    def people(self) -> tuple[Person, ...]:
        """Subjects in the order of their numbers."""
        folders = self.tree.entries(_join(self.folder, "subjects"), MAX_ENTRIES)
        numbers: dict[int, str] = {}
        for entry in folders:
            if not (entry.is_folder and re.fullmatch(r"[0-9]{1,4}", entry.name)):
                raise ImportRefused(f"subjects/{safe_name(entry.name)}: no numbered folder (subjects/0, …)")
            if int(entry.name) in numbers:
                raise ImportRefused(f"subjects/{entry.name}: the number {int(entry.name)} comes twice")
            numbers[int(entry.name)] = entry.name
        return tuple(self._person(number, numbers[number]) for number in sorted(numbers))

    def _person(self, number: int, name: str) -> Person:
        images = self.images(f"subjects/{name}")
        faces = [shown for shown in images if shown.phrase.startswith(FACE)]
        bodies = [shown for shown in images if shown.phrase.startswith(WHOLE_BODY)]
        if len(faces) > 1 or len(bodies) > 1:
            raise ImportRefused(f"subjects/{name}: {len(faces)} faces, {len(bodies)} bodies; a subject has one")
        attributes = tuple(shown for shown in images if shown not in (*faces, *bodies))
        noun = faces[0].phrase.removeprefix(FACE) if faces else f"subjects/{name}"
        return Person(number, noun, faces[0] if faces else None, attributes, bodies[0] if bodies else None)

    def images(self, part: str) -> tuple[Shown, ...]:
        """The images of a folder by their names without the ending."""
        where = _join(self.folder, part)
        found: dict[str, Shown] = {}
        for entry in self.tree.entries(where, MAX_ENTRIES):
            path = PurePosixPath(entry.name)
            if not entry.is_file or path.suffix.lower() not in SUFFIXES:
                raise ImportRefused(f"{part}/{safe_name(entry.name)}: no image file ({', '.join(SUFFIXES)})")
            if safe_name(entry.name) != entry.name:
                raise ImportRefused(f"{part}/{safe_name(entry.name)}: a name that is no text")
            if path.stem in found:
                raise ImportRefused(f"{part}: two images are called {path.stem!r}")
            found[path.stem] = self._shown(f"{where}/{entry.name}", path.stem)
        return tuple(found.values())

    def _shown(self, path: str, phrase: str) -> Shown:
        picture = take_picture(self.tree.read(path, MAX_IMAGE_BYTES), path, self.frame)
        if picture.scaled:
            self.losses.add("an image's size", "larger than the clip: scaled down to it", self.name)
        # A background as large as the clip can only be all of its frame.
        whole = path.startswith(_join(self.folder, "background/")) and (picture.width, picture.height) == self.frame
        place = Place(Box(0, 0, *self.frame), 0, 0.0) if whole else None
        shown = picture.width * picture.height if whole else picture.shown
        return Shown(phrase, picture.png, picture.width, picture.height, shown, place=place)


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name
