"""The sample video: an interview montage cut from two public-domain portraits that ship in wheels, with its truth.

Sources: Eileen Collins (NASA; ``astronaut.png`` of scikit-image), Grace Hopper (US Navy; ``grace_hopper.jpg`` of
matplotlib) and scikit-image's photographs. A person is cut out of the portrait once and stands before other photos; a
virtual camera pans and zooms over each scene, so every box of the truth follows from the camera, not from a detector.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import cv2
import matplotlib
import numpy as np
import skimage
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from dataengine.video import encode_clip

WIDTH, HEIGHT, FPS = 640, 360, 24
TRUTH_TIMES = (0.05, 0.5, 0.95)
"""Fractions of a shot at which its truth gives boxes."""

Box = tuple[float, float, float, float]
Image = NDArray[np.uint8]
Matrix = NDArray[np.float64]
Position = Literal["left", "centre", "right"]
Region = Literal["top", "hair", "headwear"]


class _Truth(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Worn(_Truth):
    """What a person has on, and every colour name that a careful viewer could give it."""

    region: Region
    colours: tuple[str, ...]
    nouns: tuple[str, ...]


class Sighting(_Truth):
    """Where a person is at one time. Boxes are pixels xyxy of the frame, cut at its edges."""

    time_s: float
    face_box: Box
    body_box: Box
    """All that is seen of the person, head included."""


class Appearance(_Truth):
    """One person in one shot."""

    person: str
    position: Position
    worn: tuple[Worn, ...]
    sightings: tuple[Sighting, ...]


class Shot(_Truth):
    """A span of one camera, [start_s, end_s) in seconds. Shots joined by a dissolve meet in its middle."""

    start_s: float
    end_s: float
    people: tuple[Appearance, ...]
    background: tuple[str, ...]
    """Words that a careful viewer could use for what is behind the people, or for what the shot shows."""


class Dissolve(_Truth):
    """A span in which one shot fades into the next."""

    start_s: float
    end_s: float


class SampleTruth(_Truth):
    """What is true of ``sample.mp4``."""

    width: int
    height: int
    fps: float
    duration_s: float
    shots: tuple[Shot, ...]
    hard_cuts_s: tuple[float, ...]
    dissolves: tuple[Dissolve, ...]


@dataclass(frozen=True)
class _Portrait:
    """A portrait, what it shows, and the outline of its person. Boxes and points in pixels of the photograph."""

    name: str
    file: str
    face: Box
    outline: tuple[tuple[int, int], ...]
    worn: tuple[Worn, ...]
    backdrop: tuple[str, ...]


_GREY = ("grey", "gray")
COLLINS = _Portrait(
    name="Eileen Collins",
    file="astronaut.png",
    face=(182, 58, 270, 178),
    outline=(
        # hair and left side down to the frame's bottom, then helmet, right shoulder and back up
        *(
            (235, 14),
            (206, 22),
            (187, 40),
            (168, 52),
            (156, 62),
            (153, 88),
            (165, 112),
            (182, 128),
            (185, 148),
            (141, 154),
            (126, 170),
        ),
        *(
            (116, 188),
            (114, 205),
            (97, 220),
            (76, 236),
            (62, 253),
            (50, 271),
            (42, 288),
            (34, 312),
            (28, 335),
            (26, 365),
            (20, 400),
        ),
        *(
            (20, 435),
            (29, 465),
            (36, 488),
            (46, 511),
            (511, 511),
            (511, 480),
            (500, 453),
            (494, 424),
            (482, 394),
            (465, 370),
        ),
        *(
            (435, 350),
            (406, 343),
            (376, 346),
            (364, 347),
            (359, 318),
            (353, 294),
            (347, 279),
            (338, 264),
            (320, 247),
            (305, 237),
        ),
        *(
            (303, 234),
            (297, 215),
            (282, 194),
            (258, 172),
            (266, 142),
            (285, 126),
            (297, 112),
            (301, 88),
            (297, 59),
            (285, 40),
            (267, 23),
        ),
    ),
    worn=(
        Worn(
            region="top",
            colours=("orange", "orange red", "red orange", "dark orange"),
            nouns=("suit", "spacesuit", "top", "jacket"),
        ),
        Worn(
            region="hair",
            colours=("brown", "light brown", "dark blond", "blond", "blonde", "golden brown", "tan"),
            nouns=("hair",),
        ),
    ),
    backdrop=("flag", "studio backdrop", "grey", "gray", "beige"),
)
HOPPER = _Portrait(
    name="Grace Hopper",
    file="grace_hopper.jpg",
    face=(174, 128, 358, 334),
    outline=(
        *(
            (260, 22),
            (228, 27),
            (222, 38),
            (200, 50),
            (183, 67),
            (176, 84),
            (157, 87),
            (152, 113),
            (152, 187),
            (156, 220),
            (166, 247),
        ),
        *(
            (160, 263),
            (167, 280),
            (180, 290),
            (200, 297),
            (203, 310),
            (193, 323),
            (167, 337),
            (133, 353),
            (87, 373),
            (50, 383),
        ),
        *(
            (33, 407),
            (27, 453),
            (20, 507),
            (12, 573),
            (10, 599),
            (511, 599),
            (511, 453),
            (500, 407),
            (490, 390),
            (453, 373),
        ),
        *(
            (400, 350),
            (353, 327),
            (334, 312),
            (337, 306),
            (357, 293),
            (363, 270),
            (358, 264),
            (367, 240),
            (375, 207),
            (377, 187),
        ),
        *((370, 168), (371, 87), (354, 86), (348, 68), (333, 53), (307, 42), (293, 27)),
    ),
    worn=(
        Worn(
            region="top",
            colours=("black", "navy", "navy blue", "dark blue", "dark", "dark grey", "dark gray"),
            nouns=("uniform", "jacket", "top", "suit", "coat"),
        ),
        Worn(
            region="hair",
            colours=(*_GREY, "silver", "light grey", "light gray", "white", "brown", "light brown"),
            nouns=("hair",),
        ),
        Worn(region="headwear", colours=("black", "dark", "navy", "black and white"), nouns=("hat", "cap")),
    ),
    backdrop=("flag", "blue", "blue backdrop", "studio backdrop"),
)


@dataclass(frozen=True)
class _Placed:
    """A person in a scene: the middle of the face lies at `at` of the canvas, the portrait enlarged by `scale`."""

    portrait: _Portrait
    position: Position
    scale: float
    at: tuple[float, float]
    on_photo: bool = False
    """The canvas is the portrait itself: the person is on it already."""


@dataclass(frozen=True)
class _Camera:
    """The canvas rectangle that fills the frame, by its centre and width."""

    x: float
    y: float
    width: float


@dataclass(frozen=True)
class _Backdrop:
    """A photograph behind a scene. Canvas None: at its own size; else scaled and cropped to fill (width, height)."""

    file: str
    words: tuple[str, ...]
    blur: float = 0.0
    tint: tuple[float, float, float] | None = None
    canvas: tuple[int, int] | None = None
    mirrored: bool = False
    """Turn it upright and lay a mirrored copy beside it."""
    without: _Portrait | None = None
    """Take this person out of it first."""


@dataclass(frozen=True)
class _Scene:
    backdrop: _Backdrop
    seconds: float
    start: _Camera
    end: _Camera
    people: tuple[_Placed, ...] = ()
    dissolve_s: float = 0.0
    """Length of the dissolve into the next scene; 0: a hard cut."""


_STAGE = (1280, 720)
_PAD = _Backdrop("rocket.jpg", ("rocket", "launch pad", "night sky", "dark blue sky"), blur=3.0, canvas=_STAGE)
_GARAGE = _Backdrop("motorcycle_left.png", ("garage", "workshop", "motorcycle"), blur=5.0, canvas=_STAGE)
_BRICK = _Backdrop(
    "brick.png", ("brick wall", "bricks", "wall"), blur=1.5, tint=(1.15, 0.86, 0.74), canvas=_STAGE, mirrored=True
)
_STARS = _Backdrop("hubble_deep_field.jpg", ("stars", "galaxies", "space", "black"), blur=2.0, canvas=_STAGE)
_STUDIO = _Backdrop("astronaut.png", COLLINS.backdrop, blur=14.0, canvas=_STAGE, without=COLLINS)
_FLAG = _Backdrop("grace_hopper.jpg", HOPPER.backdrop, blur=18.0, canvas=_STAGE, without=HOPPER)


def _collins(position: Position, x: float, y: float = 275, scale: float = 1.6) -> _Placed:
    return _Placed(COLLINS, position, scale, (x, y))


def _hopper(position: Position, x: float, y: float = 355, scale: float = 1.03) -> _Placed:
    return _Placed(HOPPER, position, scale, (x, y))


def _on_photo(portrait: _Portrait, seconds: float, start: _Camera, end: _Camera, dissolve_s: float = 0.0) -> _Scene:
    left, top, right, bottom = portrait.face
    person = _Placed(portrait, "centre", 1.0, ((left + right) / 2, (top + bottom) / 2), on_photo=True)
    return _Scene(_Backdrop(portrait.file, portrait.backdrop), seconds, start, end, (person,), dissolve_s)


def _without_people(file: str, words: tuple[str, ...], seconds: float, start: _Camera, end: _Camera) -> _Scene:
    return _Scene(_Backdrop(file, words), seconds, start, end)


_MONTAGE = (
    _without_people("rocket.jpg", ("rocket", "launch pad"), 2.5, _Camera(320, 210, 620), _Camera(320, 225, 520)),
    _Scene(_STUDIO, 3.0, _Camera(640, 365, 1160), _Camera(640, 360, 1020), (_collins("centre", 630, 280, 1.7),)),
    _Scene(_FLAG, 3.0, _Camera(640, 370, 1020), _Camera(640, 365, 1160), (_hopper("centre", 640, 345, 1.15),)),
    _Scene(
        _GARAGE, 3.5, _Camera(640, 360, 1270), _Camera(650, 366, 1190), (_hopper("right", 950), _collins("left", 380))
    ),
    _without_people("coffee.png", ("coffee", "cup", "table"), 2.25, _Camera(290, 190, 500), _Camera(330, 210, 420)),
    _Scene(_PAD, 3.0, _Camera(620, 350, 1080), _Camera(660, 350, 1080), (_collins("left", 440, 280, 1.7),)),
    _on_photo(HOPPER, 3.5, _Camera(256, 275, 505), _Camera(262, 262, 450), dissolve_s=1 / 3),
    _without_people(
        "hubble_deep_field.jpg", ("stars", "galaxies", "space"), 3.625, _Camera(480, 430, 800), _Camera(520, 440, 640)
    ),
    _Scene(
        _BRICK, 3.5, _Camera(630, 362, 1190), _Camera(650, 360, 1260), (_hopper("left", 340), _collins("right", 920))
    ),
    _without_people("chelsea.png", ("cat",), 2.25, _Camera(215, 150, 400), _Camera(235, 145, 350)),
    _Scene(_GARAGE, 3.0, _Camera(700, 365, 1120), _Camera(660, 365, 1090), (_hopper("right", 880, 345, 1.15),)),
    _without_people(
        "motorcycle_left.png", ("motorcycle", "garage"), 2.5, _Camera(330, 255, 600), _Camera(420, 265, 560)
    ),
    _Scene(_STARS, 3.0, _Camera(680, 350, 1060), _Camera(690, 350, 960), (_collins("centre", 680, 285, 1.7),)),
    _Scene(_PAD, 3.5, _Camera(655, 362, 1250), _Camera(630, 362, 1210), (_hopper("right", 950), _collins("left", 370))),
    _on_photo(COLLINS, 2.5, _Camera(250, 152, 430), _Camera(256, 147, 500)),
)


def make_sample(folder: Path, *, crf: int = 20) -> SampleTruth:
    """Write ``sample.mp4`` and ``sample.truth.json`` into a folder, which is made if need be; the same bytes each time.

    Returns:
        The truth that was written.

    Raises:
        FileNotFoundError: an installed scikit-image or matplotlib lacks one of the photographs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    truth = _truth()
    (folder / "sample.mp4").write_bytes(encode_clip(_frames(), FPS, crf=crf, preset="veryfast"))
    (folder / "sample.truth.json").write_text(truth.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return truth


# -- time line --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Take:
    """A scene's place on the time line, in frames: it is seen in [first, first + count), alone until the fade."""

    scene: _Scene
    first: int
    count: int
    fade: int
    """Frames shared with the next take."""

    def progress(self, frame: int) -> float:
        """0 at the take's first frame, 1 at its last."""
        return (frame - self.first) / (self.count - 1)


def _takes() -> list[_Take]:
    takes, first = [], 0
    for scene in _MONTAGE:
        take = _Take(scene, first, round(scene.seconds * FPS), round(scene.dissolve_s * FPS))
        takes.append(take)
        first += take.count - take.fade
    return takes


def _frames() -> Iterator[Image]:
    takes = _takes()
    grain = _grain()
    incoming: list[NDArray[np.float32]] = []  # the next take's frames that a dissolve has drawn already
    for take, following in zip(takes, [*takes[1:], None], strict=True):
        shown, incoming = incoming, []
        filmed, alone = _Set(take), take.count - take.fade
        faded = len(shown)
        for index in range(take.count):
            frame = take.first + index
            picture = filmed.film(frame)
            if index < faded:
                weight = (index + 1) / (faded + 1)
                picture = (1 - weight) * shown[index] + weight * picture
            if following is not None and index >= alone:
                incoming.append(picture)
                continue
            noisy = picture + np.roll(grain[frame % len(grain)], (frame * 37 % HEIGHT, frame * 101 % WIDTH), (0, 1))
            yield np.clip(np.rint(noisy), 0, 255).astype(np.uint8)


def _truth() -> SampleTruth:
    takes = _takes()
    total = takes[-1].first + takes[-1].count
    # A dissolve belongs half to each side.
    starts = [0, *(take.first + take.count - take.fade // 2 for take in takes[:-1])]
    shots = tuple(
        Shot(
            start_s=start / FPS,
            end_s=end / FPS,
            people=_appearances(take, start, end),
            background=take.scene.backdrop.words,
        )
        for take, start, end in zip(takes, starts, [*starts[1:], total], strict=True)
    )
    return SampleTruth(
        width=WIDTH,
        height=HEIGHT,
        fps=FPS,
        duration_s=total / FPS,
        shots=shots,
        hard_cuts_s=tuple((take.first + take.count) / FPS for take in takes[:-1] if not take.fade),
        dissolves=tuple(
            Dissolve(start_s=(take.first + take.count - take.fade) / FPS, end_s=(take.first + take.count) / FPS)
            for take in takes
            if take.fade
        ),
    )


def _appearances(take: _Take, start: int, end: int) -> tuple[Appearance, ...]:
    """The people of a take, in the order in which they are drawn, with boxes from the camera and the mattes."""
    people = take.scene.people
    seen: list[list[Sighting]] = [[] for _ in people]
    for fraction in TRUTH_TIMES:
        time = (start + fraction * (end - start)) / FPS
        frame = math.floor(time * FPS)
        hidden = np.zeros((HEIGHT, WIDTH), dtype=bool)
        for index in reversed(range(len(people))):  # front to back
            matrix = _person_matrix(take, people[index], frame)
            matte = _warp(_cut_out(people[index].portrait)[..., 3], matrix) > 0.5
            rows, columns = np.nonzero(matte & ~hidden)
            hidden |= matte
            body = (float(columns.min()), float(rows.min()), float(columns.max() + 1), float(rows.max() + 1))
            seen[index].append(
                Sighting(time_s=time, face_box=_moved(people[index].portrait.face, matrix), body_box=body)
            )
    return tuple(
        Appearance(person=p.portrait.name, position=p.position, worn=p.portrait.worn, sightings=tuple(sightings))
        for p, sightings in zip(people, seen, strict=True)
    )


# -- camera -----------------------------------------------------------------------------------------------------------


def _camera_matrix(take: _Take, frame: int) -> Matrix:
    """Canvas to frame, 2 x 3. The move eases in and out; a hand-held sway of a pixel or so rides on it."""
    t = take.progress(frame)
    t = t * t * (3 - 2 * t)
    start, end = take.scene.start, take.scene.end
    width = start.width * (end.width / start.width) ** t
    x = start.x + (end.x - start.x) * t
    y = start.y + (end.y - start.y) * t
    scale = WIDTH / width
    seconds = frame / FPS
    sway_x = 0.7 * math.sin(1.3 * seconds) + 0.3 * math.sin(3.1 * seconds)
    sway_y = 0.6 * math.sin(1.7 * seconds + 1.0)
    return np.array([[scale, 0, WIDTH / 2 - scale * x + sway_x], [0, scale, HEIGHT / 2 - scale * y + sway_y]])


def _person_matrix(take: _Take, person: _Placed, frame: int) -> Matrix:
    """Portrait to frame, 2 x 3. People stand nearer than the backdrop, so a pan moves them more; and they sway."""
    camera = _camera_matrix(take, frame)
    left, top, right, bottom = person.portrait.face
    x, y = person.at
    if not person.on_photo:
        pan = (take.scene.start.x - take.scene.end.x) * (take.progress(frame) - 0.5)
        seconds = frame / FPS + (0.0 if person.portrait is COLLINS else 2.0)
        x += 0.15 * pan + 2.0 * math.sin(1.1 * seconds)
        y += 1.2 * math.sin(1.9 * seconds)
    scale = person.scale
    place = np.array(
        [[scale, 0, x - scale * (left + right) / 2], [0, scale, y - scale * (top + bottom) / 2], [0, 0, 1]]
    )
    return camera @ place


def _moved(box: Box, matrix: Matrix) -> Box:
    (left, top), (right, bottom) = (matrix @ (x, y, 1) for x, y in (box[:2], box[2:]))
    return (
        min(max(float(left), 0.0), WIDTH),
        min(max(float(top), 0.0), HEIGHT),
        min(max(float(right), 0.0), WIDTH),
        min(max(float(bottom), 0.0), HEIGHT),
    )


# -- pictures ---------------------------------------------------------------------------------------------------------


class _Set:
    """A take's backdrop and people, ready to be filmed: each is smoothed once, for the take's middle scale."""

    def __init__(self, take: _Take) -> None:
        self._take = take
        middle = take.first + take.count // 2
        self._canvas = _smoothed(_canvas(take.scene.backdrop), float(_camera_matrix(take, middle)[0, 0]))
        self._people = [
            (person, _smoothed(_cut_out(person.portrait), float(_person_matrix(take, person, middle)[0, 0])))
            for person in take.scene.people
            if not person.on_photo
        ]

    def film(self, frame: int) -> NDArray[np.float32]:
        """One noiseless frame, float32 (H, W, 3) in 0..255."""
        picture = _warp(self._canvas, _camera_matrix(self._take, frame))
        for person, cut_out in self._people:
            layer = _warp(cut_out, _person_matrix(self._take, person, frame))
            picture = picture * (1 - layer[..., 3:]) + layer[..., :3]
        return picture


def _smoothed(image: NDArray[np.float32], scale: float) -> NDArray[np.float32]:
    """Blurred as much as shrinking by `scale` calls for, so that fine detail does not shimmer under a moving camera."""
    return cv2.GaussianBlur(image, (0, 0), 0.45 * math.sqrt(1 / scale**2 - 1)) if scale < 0.99 else image


def _warp(image: NDArray[np.float32], matrix: Matrix) -> NDArray[np.float32]:
    """Resample to the frame."""
    border = cv2.BORDER_REPLICATE if image.ndim == 3 and image.shape[2] == 3 else cv2.BORDER_CONSTANT
    return cv2.warpAffine(image, matrix, (WIDTH, HEIGHT), flags=cv2.INTER_LINEAR, borderMode=border)


def _canvas(backdrop: _Backdrop) -> NDArray[np.float32]:
    """A scene's backdrop, float32 (h, w, 3)."""
    image = photo(backdrop.file)
    if backdrop.without is not None:
        person = cv2.dilate((_matte(backdrop.without) > 0).astype(np.uint8), np.ones((25, 25), np.uint8))
        image = cv2.inpaint(image, person, 5, cv2.INPAINT_TELEA)
    picture = image.astype(np.float32)
    if backdrop.mirrored:
        upright = np.rot90(picture)
        picture = np.concatenate([upright, upright[:, ::-1]], axis=1)
    if backdrop.canvas is not None:
        width, height = backdrop.canvas
        grow = max(width / picture.shape[1], height / picture.shape[0])
        picture = cv2.resize(picture, None, fx=grow, fy=grow, interpolation=cv2.INTER_CUBIC)
        top, left = (picture.shape[0] - height) // 2, (picture.shape[1] - width) // 2
        picture = picture[top : top + height, left : left + width]
    if backdrop.tint is not None:
        picture = picture * np.array(backdrop.tint, dtype=np.float32)
    if backdrop.blur:
        picture = cv2.GaussianBlur(picture, (0, 0), backdrop.blur)
    return np.clip(picture, 0, 255)


@cache
def _cut_out(portrait: _Portrait) -> NDArray[np.float32]:
    """The person alone: float32 (h, w, 4), colours (0..255) multiplied by the matte (0..1) in the last channel."""
    matte = _matte(portrait)[..., None]
    return np.concatenate([photo(portrait.file) * matte, matte], axis=-1)


@cache
def _matte(portrait: _Portrait) -> NDArray[np.float32]:
    """0..1, float32 (h, w): GrabCut near the drawn outline, softened, drawn in a little against halos."""
    image = cv2.cvtColor(photo(portrait.file), cv2.COLOR_RGB2BGR)
    inside = np.zeros(image.shape[:2], dtype=np.uint8)
    cv2.fillPoly(inside, [np.array(portrait.outline, dtype=np.int32)], 255)
    margin = 20  # so that the frame's edge counts as the person going on
    wide = cv2.copyMakeBorder(inside, margin, margin, margin, margin, cv2.BORDER_REPLICATE)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (15, 15))
    surely = cv2.erode(wide, disc)[margin:-margin, margin:-margin] > 0
    maybe = cv2.dilate(wide, disc)[margin:-margin, margin:-margin] > 0
    labels = np.where(inside > 0, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    labels[surely] = cv2.GC_FGD
    labels[~maybe] = cv2.GC_BGD
    cv2.setRNGSeed(0)
    cv2.grabCut(image, labels, None, np.zeros((1, 65)), np.zeros((1, 65)), 4, cv2.GC_INIT_WITH_MASK)
    person = np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.uint8) * 255
    soft = cv2.GaussianBlur(cv2.medianBlur(person, 5).astype(np.float32) / 255, (0, 0), 1.6)
    return np.clip((soft - 0.5) / 0.45, 0, 1)


@cache
def photo(file: str) -> Image:
    """A photograph from an installed wheel, rgb uint8."""
    folders = (Path(skimage.__file__).parent / "data", Path(matplotlib.get_data_path()) / "sample_data")
    path = next((folder / file for folder in folders if (folder / file).is_file()), None)
    image = None if path is None else cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise FileNotFoundError(f"{file} is in neither scikit-image's nor matplotlib's data: reinstall both")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _grain() -> list[NDArray[np.float32]]:
    """Sensor noise, a few frames of it."""
    rng = np.random.default_rng(0)
    return [rng.normal(0.0, 1.2, (HEIGHT, WIDTH, 1)).astype(np.float32) for _ in range(4)]
