"""Fixtures that several rooms share: real videos, and complete measurements of drawn clips."""

import io
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import ray
from numpy.typing import NDArray
from PIL import Image

from dataengine import masks
from dataengine.decide.facts import Measured
from dataengine.records import (
    STILL_POSITIONS,
    Background,
    Box,
    Caption,
    Clip,
    EncodedClip,
    EntityMask,
    GroundedBox,
    Grounding,
    Mention,
    People,
    Person,
    PersonMention,
    Phrase,
    Segmentation,
    Sighting,
    Span,
    Still,
    Stills,
    Vote,
)
from dataengine.video import encode_clip
from dataengine.world.bad_videos import BadFile, make_bad_videos
from dataengine.world.sample import SampleTruth, make_sample

# A busy machine is no bug: no example may fail for the time it took.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")


@pytest.hookimpl(tryfirst=True)  # before `-m` selects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what uses Ray: of the two processes that share the tests (`make test`), one gets all of it."""
    for item in items:
        if "ray_here" in getattr(item, "fixturenames", ()):
            item.add_marker("ray")


@dataclass(frozen=True)
class SampleVideo:
    path: Path
    truth: SampleTruth


@dataclass(frozen=True)
class BadVideoFolder:
    folder: Path
    files: tuple[BadFile, ...]

    def expected(self, outcome: str) -> list[BadFile]:
        return [file for file in self.files if file.expected == outcome]


@pytest.fixture(scope="session")
def ray_here() -> Iterator[None]:
    """One Ray for all tests, told of more cores than there are so that every pool of a test fits."""
    ray.init(num_cpus=8, include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def sample_video(tmp_path_factory: pytest.TempPathFactory) -> SampleVideo:
    """``sample.mp4`` and its truth. Read-only: tests share it."""
    folder = tmp_path_factory.mktemp("sample")
    truth = make_sample(folder)
    return SampleVideo(folder / "sample.mp4", truth)


@pytest.fixture(scope="session")
def bad_video_folder(tmp_path_factory: pytest.TempPathFactory) -> BadVideoFolder:
    """Videos as they come in real life, and what should become of each. Read-only: tests share it."""
    folder = tmp_path_factory.mktemp("bad") / "videos"
    return BadVideoFolder(folder, make_bad_videos(folder))


@pytest.fixture
def driver_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """`driver_of(listing)`: a machine whose nvidia-smi says that, in this process and those it starts."""

    def make(listing: str) -> None:
        folder = tmp_path / "driver"
        folder.mkdir(exist_ok=True)
        tool = folder / "nvidia-smi"
        tool.write_text(f"#!/bin/sh\necho '{listing}'\n")
        tool.chmod(0o755)
        monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)

    return make


# --- Tiny checkpoints of the real architectures, with random weights --------------------------------------------------


@pytest.fixture(scope="session")
def tiny_qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen2.5-VL with random weights. Read-only: tests share it."""
    from tiny import qwen  # transformers and torch, for those who want them

    return qwen.build(tmp_path_factory.mktemp("models") / "tiny-qwen")


@pytest.fixture(scope="session")
def tiny_grounding_dino(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tiny import grounding_dino

    return grounding_dino.build(tmp_path_factory.mktemp("grounding_dino"))


@pytest.fixture(scope="session")
def tiny_sam(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A .pth file of segment-anything."""
    from tiny import sam

    return sam.build(tmp_path_factory.mktemp("sam"))


@pytest.fixture(scope="session")
def tiny_sam2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tiny import sam2

    return sam2.build(tmp_path_factory.mktemp("sam2"))


# --- A clip's measurements, drawn instead of measured: plain shapes at known places -----------------------------------

NOUNS = ("woman", "man", "girl")
TOPS = ("orange top", "dark jacket", "white shirt")
COLOURS = ((240, 140, 30), (40, 40, 60), (235, 235, 240))


@pytest.fixture(scope="session")
def measured_clip() -> Callable[..., Measured]:
    """`measured_clip(number, people=2, media=False)`: all measurements of a clip of the number-th source.

    320x180, three stills in which everybody moves to the right by 4 pixels; one attribute each and a body mask, a red
    ball and a green wall. Without `media` the blobs are empty, as decisions see them.
    """
    return cache(measured)


def measured(number: int = 0, people: int = 2, media: bool = False) -> Measured:
    width, height, frames, fps = 320, 180, 12, 12
    clip = Clip.of(f"source{number}", 2.0, 2.0 + frames / fps)
    names = [f"{noun} in {'an' if top[0] in 'aeiou' else 'a'} {top}" for noun, top in zip(NOUNS, TOPS, strict=True)]
    text = f"A {' beside a '.join(names[:people])}, with a red ball in front of a green wall."

    def phrase(words: str) -> Phrase:
        start = text.lower().index(f" {words}") + 1
        return Phrase(text=words, span=Span(start, start + len(words)))

    def picture(shift: int) -> tuple[NDArray[np.uint8], dict[str, NDArray[np.bool_]], list[Box]]:
        y, x = np.mgrid[:height, :width]
        image = np.stack([30 + x // 8, 120 + y // 4, np.full_like(x, 50 + number % 64)], axis=2).astype(np.uint8)
        masks_seen: dict[str, NDArray[np.bool_]] = {"o0": (x - 300) ** 2 + (y - 160) ** 2 < 12**2}
        image[masks_seen["o0"]] = (220, 30, 30)
        faces = []
        for i in range(people):
            middle = 55 + 104 * i + shift
            top = (abs(x - middle) < 36) & (y >= 80) & (y < 150) & (abs(x - middle) + 80 > y - 60)
            head = (x - middle) ** 2 + (y - 52) ** 2 < 20**2
            image[top], image[head] = COLOURS[i], (225, 180, 150)
            masks_seen |= {f"s{i}.a0": top, f"s{i}.body": top | head}
            faces.append(Box(middle - 20, 32, middle + 20, 72))
        return image, masks_seen, faces

    scenes = [picture(4 * still) for still in range(3)]
    sightings = [
        [
            Sighting(
                still=still,
                face=faces[i],
                face_score=0.9,
                landmarks=(),
                body=Box(faces[i].x0 - 20, 20, faces[i].x1 + 20, 180),
                body_score=None,
                sharpness=(50.0, 80.0, 60.0)[still],
            )
            for still, (_, _, faces) in enumerate(scenes)
        ]
        for i in range(people)
    ]
    found = tuple(
        EntityMask(entity=entity, still=still, box=masks.tight_box(mask), mask=mask, score=0.8 + 0.05 * still)
        for still, (_, pixels, _) in enumerate(scenes)
        for entity, mask in ((entity, masks.encode(m)) for entity, m in pixels.items())
    )

    def blob(encode: Callable[[], bytes]) -> bytes:
        return encode() if media else b""

    return Measured(
        clip=clip,
        source_names=(f"folder/video {number}.mp4",),
        stills=Stills(
            width=width,
            height=height,
            stills=tuple(
                Still(time_s=clip.start_s + share * clip.seconds, image=blob(partial(_image, scene[0], "JPEG")))
                for share, scene in zip(STILL_POSITIONS, scenes, strict=True)
            ),
        ),
        people=People(people=tuple(Person(index=i, sightings=tuple(s)) for i, s in enumerate(sightings))),
        caption=Caption(
            text=text,
            people=tuple(
                PersonMention(
                    noun=Mention(phrase=phrase(NOUNS[i]), votes=(Vote(person=i, share=0.9),)),
                    attributes=(Mention(phrase=phrase(TOPS[i]), votes=(Vote(person=i, share=0.8),)),),
                )
                for i in range(people)
            ),
            objects=(phrase("red ball"),),
            background=phrase("green wall"),
            answers=(),
        ),
        grounding=Grounding(
            boxes=tuple(GroundedBox(entity=f.entity, still=f.still, box=f.box, score=0.7) for f in found)
        ),
        segmentation=Segmentation(masks=found),
        background=Background(image=blob(partial(_image, scenes[0][0], "PNG")), seen_share=0.5, filled_share=0.1),
        encoded=EncodedClip(
            mp4=blob(lambda: encode_clip([picture(k)[0] for k in range(frames)], fps, preset="ultrafast")),
            width=width,
            height=height,
            fps=fps,
            frames=frames,
        ),
    )


def _image(pixels: NDArray[np.uint8], kind: str) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()
