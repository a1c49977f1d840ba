"""Grounding DINO and SAM at real size on one GPU: images a second, memory, and the share of what the GPU multiplies.

    python tests/bench/perception_gpu.py                      # every network, random weights
    python tests/bench/perception_gpu.py --models vit_h swin_b --images 1 4 8
    python tests/bench/perception_gpu.py --tiny               # the same code in seconds on a CPU, to check the script
    python tests/bench/perception_gpu.py --cpu --models vit_b --images 1 --boxes 4 --rounds 1

Runs from a plain checkout with torch, torchvision, transformers, segment-anything, pydantic and omegaconf. Frames are
480x832. The floor of a pass is its FLOPs (torch's counter: matrices and convolutions) at the rate of a large bfloat16
matrix product measured in the same run. Two ratios say what batching is worth: images together against one by one, and
one embedding a frame (SAM) or one backbone pass a frame (Grounding DINO) against one for each box or phrase.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))  # a plain checkout on a bare machine: nothing is installed

from lumosx_gpu import matmul_ceiling, seconds_of

from dataengine.config import GroundingDinoSettings
from dataengine.models.grounding_dino import Look
from dataengine.models.grounding_dino_network import Network as Dino
from dataengine.models.interfaces import Image, Prompt, Prompted
from dataengine.models.placement import device_of, dtype_of
from dataengine.models.sam_network import Network as Sam
from dataengine.records import Box
from tiny import grounding_dino as tiny_dino
from tiny import sam as tiny_sam

HEIGHT, WIDTH = 480, 832
PHRASES = ("person", "red ball", "dark jacket", "white hat", "orange top", "woman", "man", "shirt")
SWIN = {
    "swin_t": {"embed_dim": 96, "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24], "window_size": 7},
    "swin_b": {"embed_dim": 128, "depths": [2, 2, 18, 2], "num_heads": [4, 8, 16, 32], "window_size": 12},
}
"""The backbones of grounding-dino-tiny and grounding-dino-base."""
VIT = ("vit_h", "vit_l", "vit_b")


@dataclass(frozen=True)
class Subject:
    """A network, and its work on so many images: asked once an image, and several times of the same image."""

    name: str
    parameters: int
    asked: int
    """How many boxes or phrases `shared` and `anew` ask of one image."""
    run: Callable[[int], object]
    """One pass over so many different images, with one box or phrase each."""
    shared: Callable[[], object]
    """All boxes or phrases of one image as the engine asks them."""
    anew: Callable[[], object]
    """The same, each with the image looked at anew."""


def frames(count: int) -> list[Image]:
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8) for _ in range(count)]


def sam(name: str, boxes: int, device: torch.device, dtype: torch.dtype) -> Subject:
    from segment_anything import sam_model_registry

    torch.manual_seed(0)
    with device:
        model = tiny_sam.network() if name == "tiny" else sam_model_registry[name]().eval()
    model.to(device).image_encoder.to(dtype)
    network, images = Sam(model, dtype), frames(16)
    prompts = [Prompt("thing", Box(20 + 9 * i, 30, 320 + 9 * i, 400), None) for i in range(boxes)]
    return Subject(
        f"SAM {name}",
        sum(p.numel() for p in model.parameters()),
        boxes,
        lambda count: network.segment([Prompted(image, (), prompts[:1]) for image in images[:count]]),
        lambda: network.segment([Prompted(images[0], (), prompts)]),
        lambda: [network.segment([Prompted(images[0], (), [prompt])]) for prompt in prompts],
    )


def grounding_dino(name: str, phrases: int, device: torch.device, dtype: torch.dtype) -> Subject:
    torch.manual_seed(0)
    model, processor = _dino(name)
    settings = GroundingDinoSettings(device=str(device), dtype=str(dtype).removeprefix("torch."))  # type: ignore[arg-type]
    network, images = Dino.of(model, processor, settings), frames(16)
    size = network.seen_size(HEIGHT, WIDTH)
    frame = Box(0, 0, WIDTH, HEIGHT)
    asked = [PHRASES[i % len(PHRASES)] for i in range(phrases)]
    same = [Look(images[0], frame, phrase, size) for phrase in asked]
    copies = [Look(images[0].copy(), frame, phrase, size) for phrase in asked]
    return Subject(
        f"Grounding DINO {name} at {size[0]}x{size[1]}",
        sum(p.numel() for p in model.parameters()),
        phrases,
        lambda count: network.regions([Look(image, frame, "person", size) for image in images[:count]]),
        lambda: network.regions(same),
        lambda: network.regions(copies),
    )


def _dino(name: str) -> tuple[Any, Any]:
    from transformers import (
        BertConfig,
        BertTokenizerFast,
        GroundingDinoConfig,
        GroundingDinoForObjectDetection,
        GroundingDinoImageProcessor,
        GroundingDinoProcessor,
        SwinConfig,
    )

    with tempfile.TemporaryDirectory() as folder:
        if name == "tiny":
            tiny_dino.build(Path(folder))
            model = GroundingDinoForObjectDetection.from_pretrained(folder)
            return model.eval(), GroundingDinoProcessor.from_pretrained(folder)
        words = Path(folder, "vocab.txt")
        words.write_text("\n".join(tiny_dino.vocabulary()))
        processor = GroundingDinoProcessor(GroundingDinoImageProcessor(), BertTokenizerFast(str(words)))
    backbone = SwinConfig(**SWIN[name], out_indices=[2, 3, 4])
    config = GroundingDinoConfig(backbone_config=backbone, text_config=BertConfig())
    return GroundingDinoForObjectDetection(config).eval(), processor


def flops_of(work: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def peak_gib(work: Callable[[], object], device: torch.device) -> float:
    """Memory at its peak, weights and all; not a number on a CPU."""
    if device.type != "cuda":
        return float("nan")
    torch.cuda.reset_peak_memory_stats(device)
    work()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) / 2**30


def report(subject: Subject, counts: Sequence[int], device: torch.device, ceiling: float, rounds: int) -> None:
    print(f"{subject.name}: {subject.parameters / 1e6:.0f} M parameters")
    alone = 0.0
    for count in counts:
        work = lambda count=count: subject.run(count)  # noqa: E731
        flops, seconds, peak = flops_of(work), seconds_of(work, device, rounds), peak_gib(work, device)
        alone = alone or seconds / count
        print(
            f"  {count} at once: {count / seconds:.2f} images/s ({count * alone / seconds:.2f} times {counts[0]} at "
            f"once), {flops / count / 1e12:.3f} TFLOP an image, {flops / seconds / 1e12:.1f} TFLOP/s = "
            f"{flops / seconds / ceiling:.1%} of the ceiling, peak {peak:.1f} GiB"
        )
    shared, anew = (seconds_of(work, device, rounds) for work in (subject.shared, subject.anew))
    saved = flops_of(subject.shared) / flops_of(subject.anew)
    print(
        f"  {subject.asked} asked of one image: {shared:.3f} s looking once, {anew:.3f} s looking anew: "
        f"{anew / shared:.2f} times as fast, {saved:.2f} of the FLOPs"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="toy networks, on the CPU if there is no GPU")
    parser.add_argument("--cpu", action="store_true", help="the real sizes on the CPU: minutes, and gigabytes")
    parser.add_argument("--models", nargs="+", choices=[*VIT, *SWIN], default=[*VIT, *SWIN])
    parser.add_argument("--images", nargs="+", type=int, default=[1, 2, 4, 8], help="images in one pass")
    parser.add_argument("--boxes", type=int, default=8, help="boxes or phrases asked of one image")
    parser.add_argument("--dtype", default="auto", choices=["auto", "float32", "bfloat16", "float16"])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if not (options.tiny or options.cpu or torch.cuda.is_available()):
        parser.error("no GPU: use --tiny to check the script on a CPU, or --cpu for the real sizes")
    settings = GroundingDinoSettings(device="cpu" if options.cpu else "auto", dtype=options.dtype)
    device = device_of(settings)
    dtype = dtype_of(settings, device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    ceiling = matmul_ceiling(device, 8192 if device.type == "cuda" else 512)
    print(f"{name}, torch {torch.__version__}, {dtype}; matmul ceiling (bfloat16) {ceiling / 1e12:.2f} TFLOP/s")
    for model in ["tiny_sam", "tiny_dino"] if options.tiny else options.models:
        make = sam if model in (*VIT, "tiny_sam") else grounding_dino
        subject = make("tiny" if options.tiny else model, options.boxes, device, dtype)
        report(subject, options.images, device, ceiling, options.rounds)
        del subject
        if device.type == "cuda":
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
