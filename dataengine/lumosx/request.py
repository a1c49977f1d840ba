"""What a clip is asked for: a caption, and images of subjects, objects and a background tied to its words.

Also the reader of the released scripts' layout, a directory per request: `caption.txt`,
`subjects/<i>/face_<label>.png`, `subjects/<i>/<attribute phrase>.png`, `objects/<phrase>.png`,
`background/<phrase>.png`. Such a directory may come from anybody: nothing in it is followed, run or believed.
"""

from __future__ import annotations

import os
import re
import stat
import unicodedata
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image as PilImage
from PIL import ImageOps

from dataengine.lumosx.augment import Image, letterbox
from dataengine.lumosx.data import MAX_REFERENCE_PIXELS, Binding, Example
from dataengine.lumosx.settings import DataSettings
from dataengine.lumosx.structure import Kind
from dataengine.lumosx.windows import SampleError
from dataengine.records import Reason, Span
from dataengine.spans import resolve_all

MAX_CAPTION_BYTES = 16_384
MAX_IMAGE_BYTES = 64_000_000
MAX_REFERENCES = 32
_SUFFIXES = (".png", ".jpg", ".jpeg")
_PARTS = ("subjects", "objects", "background")
_FACE = "face_"
_WHOLE_BODY = "fullfullbody"  # in the released benchmark beside face and attributes, and ignored by its scripts


@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """An image, and the phrase of the caption that it shows. The image is rgb uint8 [H, W, 3], of any size."""

    phrase: str
    image: Image


@dataclass(frozen=True, slots=True, eq=False)
class SubjectRequest:
    """A person: the face, tied to the person's noun, and what the person wears or carries."""

    face: Shown | None
    attributes: tuple[Shown, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """A clip to generate. Equal phrases ("man" twice) are taken in the order in which the caption has them."""

    name: str
    caption: str
    subjects: tuple[SubjectRequest, ...] = ()
    objects: tuple[Shown, ...] = ()
    background: Shown | None = None

    def to_example(self, settings: DataSettings) -> Example:
        """The model's input. Attributes and objects come in the order of their phrases in the caption.

        The example's video is black: it has the size and the length that were trained, and nothing is taken from it.

        Raises:
            SampleError: a phrase has no place of its own in the caption, or there are too many references.
        """
        asked = self._asked()
        if len(asked) > MAX_REFERENCES:
            raise SampleError(f"{self.name}: {len(asked)} references, at most {MAX_REFERENCES} are taken")
        spans = resolve_all(self.caption, [shown.phrase for _, _, shown in asked])
        wrong = [span.detail for span in spans if isinstance(span, Reason)]
        if wrong:
            raise SampleError(
                f"{self.name}: {'; '.join(wrong)}. Every image needs words of its own in the caption {self.caption!r}"
            )
        places = [
            _Place(kind, group, span, shown)
            for (kind, group, shown), span in zip(asked, spans, strict=True)
            if isinstance(span, Span)
        ]
        places.sort(key=_Place.order)
        height, width = settings.height, settings.width
        images = [letterbox(place.shown.image, height, width) for place in places]
        none = torch.zeros((0, height, width, 3), dtype=torch.uint8)
        return Example(
            key=self.name,
            position=0,
            caption=self.caption,
            text_dropped=False,
            video=torch.zeros((settings.frames, height, width, 3), dtype=torch.uint8),
            references=torch.from_numpy(np.stack(images)) if images else none,
            bindings=tuple(Binding(place.label, place.kind, place.span, place.group) for place in places),
            groups=len(self.subjects),
        )

    def _asked(self) -> list[tuple[Kind, int | None, Shown]]:
        asked: list[tuple[Kind, int | None, Shown]] = []
        if self.background is not None:
            asked.append((Kind.BACKGROUND, None, self.background))
        asked += [(Kind.OBJECT, None, shown) for shown in self.objects]
        for group, subject in enumerate(self.subjects):
            if subject.face is not None:
                asked.append((Kind.FACE, group, subject.face))
            asked += [(Kind.ATTRIBUTE, group, shown) for shown in subject.attributes]
        return asked


@dataclass(frozen=True, slots=True, eq=False)
class _Place:
    kind: Kind
    group: int | None
    span: Span
    shown: Shown

    def order(self) -> tuple[int, int, bool, int]:
        """Background, objects, then the groups; in a group the face first; else as the caption is read."""
        lone = (Kind.BACKGROUND, Kind.OBJECT).index(self.kind) if self.group is None else 2
        return lone, self.group or 0, self.kind is not Kind.FACE, self.span.start

    @property
    def label(self) -> str:
        return self.kind.value if self.group is None else f"s{self.group}.{self.kind.value}"


# --- The released layout ----------------------------------------------------------------------------------------------


def read_request(folder: Path) -> Request:
    """Read a directory in the released layout. Subjects come in the order of their numbers.

    Nothing is followed out of the directory: links, and whatever else is no plain file or directory, are refused.
    Names that begin with a dot are passed over (`.DS_Store`), as are `fullfullbody…` images, which the released scripts
    do not use either.

    Raises:
        SampleError: the layout is another one, a file is no image or too large, or something is missing; names it.
    """
    entries = _entries(folder)
    unknown = [name for name, is_folder in entries.items() if is_folder and name not in _PARTS]
    if unknown:
        raise SampleError(f"{folder}: unknown folder {unknown[0]!r}; there may be {', '.join(_PARTS)}")
    if entries.get("caption.txt", True):
        raise SampleError(f"{folder}: no file caption.txt")
    backgrounds = _images(folder / "background") if entries.get("background") else []
    if len(backgrounds) > 1:
        raise SampleError(f"{folder / 'background'}: {len(backgrounds)} images, one background is possible")
    return Request(
        name=folder.resolve().name,
        caption=_caption(folder / "caption.txt"),
        subjects=_subjects(folder / "subjects") if entries.get("subjects") else (),
        objects=tuple(_images(folder / "objects")) if entries.get("objects") else (),
        background=backgrounds[0] if backgrounds else None,
    )


def _subjects(folder: Path) -> tuple[SubjectRequest, ...]:
    entries = _entries(folder)
    wrong = [name for name, is_folder in entries.items() if not (is_folder and re.fullmatch(r"[0-9]{1,4}", name))]
    if wrong:
        raise SampleError(f"{folder}: {wrong[0]!r} is no numbered folder; a subject's images are in subjects/0, …")
    subjects = []
    for name in sorted(entries, key=int):
        images = _images(folder / name)
        faces = [Shown(i.phrase.removeprefix(_FACE), i.image) for i in images if i.phrase.startswith(_FACE)]
        if len(faces) > 1:
            raise SampleError(f"{folder / name}: {len(faces)} faces, a subject has one")
        attributes = tuple(i for i in images if not i.phrase.startswith(_FACE))
        subjects.append(SubjectRequest(faces[0] if faces else None, attributes))
    return tuple(subjects)


def _images(folder: Path) -> list[Shown]:
    """The images of a folder by file name without its ending; sorted, whatever the file system's order."""
    entries = _entries(folder)
    found = []
    for name in sorted(entries):
        path = Path(name)
        if entries[name] or path.suffix.lower() not in _SUFFIXES:
            raise SampleError(f"{folder}: {name!r} is no image file ({', '.join(_SUFFIXES)})")
        if path.stem.startswith(_WHOLE_BODY):
            continue
        found.append(Shown(path.stem, _image(folder / name)))
    return found


def _entries(folder: Path) -> dict[str, bool]:
    """Names in a folder and whether each is a folder. Raises `SampleError` for links and everything else."""
    try:
        with os.scandir(folder) as scan:
            entries = [entry for entry in scan if not entry.name.startswith(".")]
            if len(entries) > MAX_REFERENCES * 4:
                raise SampleError(f"{folder}: {len(entries)} entries are too many for one request")
            kinds = {entry.name: entry.stat(follow_symlinks=False).st_mode for entry in entries}
    except OSError as error:
        raise SampleError(f"{folder}: {error.strerror or error}") from error
    for name, mode in kinds.items():
        if any(unicodedata.category(character) in ("Cc", "Cs") for character in name):
            raise SampleError(f"{folder}: the name {name!r} has characters that are no text")
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise SampleError(f"{folder}: {name!r} is a link or no plain file: copy the file itself there")
    return {name: stat.S_ISDIR(mode) for name, mode in kinds.items()}


def _read(path: Path, limit: int) -> bytes:
    """The bytes of a plain file. It is opened without following a link or waiting, whatever it became since listed."""
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as stream:
            if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                raise SampleError(f"{path}: not a plain file")
            data = stream.read(limit + 1)
    except OSError as error:
        raise SampleError(f"{path}: {error.strerror or error}") from error
    if len(data) > limit:
        raise SampleError(f"{path}: more than {limit} bytes")
    return data


def _caption(path: Path) -> str:
    try:
        caption = _read(path, MAX_CAPTION_BYTES).decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise SampleError(f"{path}: not UTF-8 text: {error}") from error
    if not caption:
        raise SampleError(f"{path}: empty")
    return caption


def _image(path: Path) -> Image:
    """On white where it is transparent, as references are; turned as its camera says."""
    data = _read(path, MAX_IMAGE_BYTES)
    try:
        with PilImage.open(BytesIO(data), formats=("PNG", "JPEG")) as image:
            if image.width * image.height > MAX_REFERENCE_PIXELS:
                raise SampleError(f"{path}: {image.width}×{image.height} pixels are too many for a reference")
            upright = ImageOps.exif_transpose(image).convert("RGBA")
    except (OSError, SyntaxError, ValueError, PilImage.DecompressionBombError) as error:
        if isinstance(error, SampleError):
            raise
        raise SampleError(f"{path}: not a readable image: {error}") from error
    white = PilImage.new("RGBA", upright.size, "white")
    return np.asarray(PilImage.alpha_composite(white, upright).convert("RGB"))
