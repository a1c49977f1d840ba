"""A question as Qwen2.5-VL reads it: one user's turn of texts and images, the images at the size that the model sees.

The images go through `qwen_vl_utils` once, here, and no backend changes their size again: their sides are multiples of
28 pixels, which the checkpoints' own processors leave as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from PIL.Image import Image as Picture
from PIL.Image import fromarray

from dataengine.models.interfaces import Question
from dataengine.stage import BadInput


@dataclass(frozen=True, slots=True)
class Turn:
    """The texts and resized images of one question, in order."""

    parts: tuple[str | Picture, ...]

    @property
    def images(self) -> list[Picture]:
        return [part for part in self.parts if not isinstance(part, str)]

    @property
    def messages(self) -> list[dict[str, Any]]:
        """What a chat template takes; the images themselves go beside it."""
        content = [{"type": "text", "text": p} if isinstance(p, str) else {"type": "image"} for p in self.parts]
        return [{"role": "user", "content": content}]


def turn(question: Question, max_pixels: int) -> Turn:
    """The question with its images in RGB, of at most `max_pixels` each, sides rounded to multiples of 28 pixels.

    Raises `BadInput` for an image that is too narrow for the model.
    """
    from qwen_vl_utils import process_vision_info

    content: list[dict[str, Any]] = [
        {"type": "text", "text": _plain(part)}
        if isinstance(part, str)
        else {"type": "image", "image": fromarray(part), "max_pixels": max_pixels}
        for part in question.parts
    ]
    try:
        resized, _ = process_vision_info([{"role": "user", "content": content}])
    except ValueError as error:
        raise BadInput(f"an image cannot be shown to Qwen2.5-VL: {error}") from error
    images = iter(resized or ())
    return Turn(tuple(part["text"] if part["type"] == "text" else next(images) for part in content))


def chat(template: Any, shown: Turn) -> str:
    """The text that the model continues. `template`: the checkpoint's processor or tokenizer."""
    return template.apply_chat_template(shown.messages, tokenize=False, add_generation_prompt=True)


def _plain(text: str) -> str:
    """Text that ends no turn and stands for no image, even where a caption says so."""
    return text.replace("<|", "< |")
