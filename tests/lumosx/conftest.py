"""Shared by the tests of dataengine/lumosx: released fixtures and tiny models; a small dataset of real shards."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from dataengine.config import ShardSettings
from dataengine.lumosx import structure
from dataengine.lumosx.parity import FixtureSample, load_fixture, load_model
from dataengine.lumosx.transformer import DiT, DiTConfig
from dataengine.records import Box, Clip, Pair, Phrase, Provenance, Reference, Span, Subject
from dataengine.shards.assembly import Member
from dataengine.shards.index import write_index
from dataengine.shards.plan import SampleName, plan_shards
from dataengine.shards.writer import write_shard
from dataengine.store import Store
from dataengine.video import encode_clip

WIDTH, HEIGHT, FPS = 160, 96, 24
COLOURS = {"red": (200, 40, 40), "green": (40, 160, 60), "blue": (40, 60, 200), "yellow": (220, 200, 40)}
ROOMS = {"grey hall": (120, 120, 125), "white room": (225, 225, 220), "dark cellar": (40, 38, 45)}
SKIN = (215, 170, 140)

MakeSample = Callable[..., tuple[Pair, list[Member]]]
MakeDataset = Callable[..., Path]


def frame_at(time_s: float, tops: Sequence[str], room: str) -> NDArray[np.uint8]:
    """People sway from side to side before a flat wall."""
    picture = np.full((HEIGHT, WIDTH, 3), ROOMS[room], dtype=np.uint8)
    for i, top in enumerate(tops):
        x = int(WIDTH * (i + 1) / (len(tops) + 1) + 6 * np.sin(2 * np.pi * time_s + i))
        cv2.rectangle(picture, (x - 16, 52), (x + 16, HEIGHT), COLOURS[top], -1)
        cv2.circle(picture, (x, 36), 14, SKIN, -1)
    return picture


def png(pixels: NDArray[np.uint8]) -> bytes:
    stream = BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def phrase(caption: str, text: str, after: int = 0) -> Phrase:
    start = caption.index(text, after)
    return Phrase(text=text, span=Span(start, start + len(text)))


def sample(
    number: int,
    tops: Sequence[str] = ("red", "blue"),
    room: str = "grey hall",
    seconds: float = 1.25,
    split: str = "train",
) -> tuple[Pair, list[Member]]:
    """One pair and its files. One subject a top, each with a face, its top and a body; a background."""
    nouns = ("a man", "a woman", "a child")[: len(tops)]
    caption = (
        " beside ".join(f"{noun} in a {top} top" for noun, top in zip(nouns, tops, strict=True)) + f" in a {room}."
    )
    frames = [frame_at(k / FPS, tops, room) for k in range(round(seconds * FPS))]
    still = frames[0]
    members = [Member("mp4", encode_clip(frames, FPS, preset="ultrafast"))]

    def reference(entity: str, kind: str, words: Phrase, box: Box) -> Reference:
        x0, y0, x1, y1 = (int(v) for v in box)
        members.append(Member(f"{entity}.png", png(still[y0:y1, x0:x1])))
        return Reference(
            entity=entity, kind=kind, phrase=words, member=f"{entity}.png", mask_member=None, still=0, time_s=0.0,
            box=box, area_share=box.area / (WIDTH * HEIGHT), score=1.0,
        )  # fmt: skip

    subjects = []
    for i, (noun, top) in enumerate(zip(nouns, tops, strict=True)):
        x = int(WIDTH * (i + 1) / (len(tops) + 1) + 6 * np.sin(i))
        named = phrase(caption, noun)
        subjects.append(
            Subject(
                index=i,
                noun=named,
                face=reference(f"s{i}.face", "face", named, Box(x - 14, 22, x + 14, 50)),
                attributes=(
                    reference(f"s{i}.a0", "attribute", phrase(caption, f"{top} top"), Box(x - 16, 52, x + 16, HEIGHT)),
                ),
                body=reference(f"s{i}.body", "body", named, Box(x - 16, 22, x + 16, HEIGHT)),
                owner_share=1.0,
            )
        )
    background = reference("bg", "background", phrase(caption, room), Box(0, 0, WIDTH, HEIGHT))
    pair = Pair(
        key=f"clip_{number:04d}",
        split=split,  # type: ignore[arg-type]
        pairing="in_clip",
        clip=Clip.of(f"source{number}", 0.0, seconds),
        source_names=(f"{number}.mp4",),
        width=WIDTH,
        height=HEIGHT,
        fps=FPS,
        frames=len(frames),
        caption=caption,
        subjects=tuple(subjects),
        objects=(),
        background=background,
        provenance=Provenance(stages=(), decided_by="test"),
    )
    return pair, [*members, Member("json", pair.to_json().encode())]


@pytest.fixture(scope="session")
def make_sample() -> MakeSample:
    return sample


@pytest.fixture(scope="session")
def make_dataset() -> MakeDataset:
    def make(folder: Path, samples: Sequence[tuple[Pair, list[Member]]]) -> Path:
        """Write samples as `dataengine build` does, in shards of two."""
        store = Store.at(folder)
        by_key = {pair.key: (pair, members) for pair, members in samples}
        rows = []
        for plan in plan_shards((SampleName.of(pair) for pair, _ in samples), ShardSettings(samples=2)):
            with store.open_output(f"shards/{plan.name}") as stream:
                rows += write_shard(stream, plan.name, [by_key[key] for key in plan.keys])
        with store.open_output("index.parquet") as stream:
            write_index(stream, rows)
        return folder

    return make


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory, make_dataset: MakeDataset) -> Path:
    """Five training clips of one to three subjects, two held-out ones. Read-only: tests share it."""
    samples = [
        sample(0, ("red",)),
        sample(1, ("blue",), "white room"),
        sample(2, ("green", "red")),
        sample(3, ("yellow", "blue"), "dark cellar"),
        sample(4, ("red", "green", "blue"), "white room"),
        sample(5, ("green",), "dark cellar", split="val"),
        sample(6, ("blue", "yellow"), split="val"),
    ]
    return make_dataset(tmp_path_factory.mktemp("dataset"), samples)


CASES = ("case1_one_subject_face", "case3_two_subjects_bg_object")


@pytest.fixture(scope="session")
def fixtures() -> Path:
    """Folder of the released fixtures."""
    return Path(__file__).parents[1] / "fixtures" / "lumosx"


@pytest.fixture
def fixture_model(fixtures: Path) -> DiT:
    """The fixture model with released weights, gradients on."""
    return load_model(fixtures).requires_grad_(True)


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest, fixtures: Path) -> tuple[dict, dict[str, Tensor]]:
    """(json, tensors) of each released case."""
    path = fixtures / f"{request.param}.json"
    return json.loads(path.read_text()), load_file(path.with_suffix(".safetensors"))


@pytest.fixture
def case3(fixtures: Path, fixture_model: DiT) -> tuple[FixtureSample, dict, dict[str, Tensor]]:
    """The case that holds every intermediate result: (sample, json, tensors)."""
    path = fixtures / f"{CASES[1]}.json"
    (sample,) = load_fixture(path, fixture_model.config)
    return sample, json.loads(path.read_text()), load_file(path.with_suffix(".safetensors"))


@pytest.fixture
def tiny_config() -> DiTConfig:
    """A model small enough to run hundreds of times: 2 heads of 16, 2 layers, 12 text tokens."""
    return DiTConfig(
        dim=32, ffn_dim=48, heads=2, layers=2, in_channels=4, out_channels=4, text_dim=8, text_len=12, freq_dim=16
    )


@pytest.fixture
def make_model() -> Callable[..., DiT]:
    """Builds a model with random weights, biases and norms included (zero ones would hide mistakes)."""

    def make(config: DiTConfig, seed: int = 0) -> DiT:
        generator = torch.Generator().manual_seed(seed)
        model = DiT(config)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                noise = torch.randn(parameter.shape, generator=generator)
                fan_in = parameter[0].numel() if parameter.dim() > 1 else 1
                scale = 0.3 if parameter.dim() == 1 or "modulation" in name else fan_in**-0.5
                parameter.copy_(noise * scale + (1.0 if "norm" in name and name.endswith("weight") else 0.0))
        return model

    return make


@pytest.fixture
def make_inputs() -> Callable[..., dict]:
    """Builds random inputs of `DiT.forward` for a list of structures."""

    def make(
        config: DiTConfig, structures: list[structure.SampleStructure], seed: int = 0, crop: tuple[int, int] = (0, 0)
    ) -> dict:
        generator = torch.Generator().manual_seed(seed)

        def rand(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator)

        inputs: dict = {"latents": [], "references": [], "context": []}
        for index, one in enumerate(structures):
            height, width = 2 * one.grid[0] - crop[0], 2 * one.grid[1] - crop[1]
            count = len(one.references)
            inputs["latents"].append(rand(config.in_channels, one.frames, height, width))
            inputs["references"].append(rand(config.in_channels, count, height, width) if count else None)
            inputs["context"].append(rand(config.text_len - index % 3, config.text_dim))
        inputs["timesteps"] = torch.randint(0, 1000, (len(structures),), generator=generator)
        return inputs

    return make


@pytest.fixture
def family() -> structure.SampleStructure:
    """Background, two objects, a group of 3 and one of 2, and a third group without a member; 5x9 tokens, 2 frames."""
    return structure.SampleStructure(
        frames=2,
        grid=(5, 9),
        references=(
            structure.Reference(structure.Kind.BACKGROUND, (10, 11)),
            structure.Reference(structure.Kind.OBJECT, (8,)),
            structure.Reference(structure.Kind.OBJECT, ()),
            structure.Reference(structure.Kind.FACE, (1,), 0),
            structure.Reference(structure.Kind.ATTRIBUTE, (3, 4), 0),
            structure.Reference(structure.Kind.ATTRIBUTE, (6,), 0),
            structure.Reference(structure.Kind.FACE, (2,), 1),
            structure.Reference(structure.Kind.ATTRIBUTE, (3, 7), 1),
        ),
        group_count=3,
    )


@pytest.fixture
def wan_parts(tmp_path: Path) -> Path:
    """A folder with a random Wan VAE and a random UMT5 encoder and tokenizer, tiny, in the diffusers layout."""
    from diffusers import AutoencoderKLWan
    from transformers import T5Tokenizer, UMT5Config, UMT5EncoderModel

    torch.manual_seed(0)
    folder = tmp_path / "parts"
    AutoencoderKLWan(base_dim=4, num_res_blocks=1).save_pretrained(folder / "vae")
    letters = [(letter, -4.0) for letter in "abcdefghijklmnopqrstuvwxyz▁"]
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *letters]
    T5Tokenizer(vocab=vocabulary, extra_ids=0).save_pretrained(folder / "tokenizer")
    config = UMT5Config(vocab_size=128, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
    UMT5EncoderModel(config).save_pretrained(folder / "text_encoder")
    return folder
