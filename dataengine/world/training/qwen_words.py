"""The tiny Qwen2.5-VL before it has learned anything: its tokenizer, its processor and its sizes.

A tokenizer that knows its prompts makes the network cheap. The fixed text of each prompt and each piece of JSON between
two values is one token, every word of the world is another, and bytes spell whatever else comes: a question of 300
words of English is a dozen tokens, and its answer says little but what was seen.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from string import Template
from typing import Any, TypeAlias

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GenerationConfig,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2Tokenizer,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

from dataengine.models.prompts import Prompts
from dataengine.world.script import script
from dataengine.world.training.examples import TRAINING

Model: TypeAlias = Qwen2_5_VLForConditionalGeneration
Processor: TypeAlias = Qwen2_5_VLProcessor

HIDDEN, LAYERS, HEADS, KEY_HEADS, INNER = 256, 4, 4, 2, 512
SECTIONS = (8, 12, 12)
"""Of M-RoPE: pairs of a head that turn by time, by height and by width; half a head together."""
SEEING, SEEING_LAYERS, SEEING_HEADS, SEEING_INNER = 192, 4, 6, 384
"""Of the vision tower."""
PATCH, MERGED = 14, 28
"""Pixels on a side of a patch, and of the square of four that becomes one token."""
VOCABULARY = 640
"""At most; the world's words take fewer."""
LISTED = 12
"""Numbers of phrases that are one token with their brackets."""
SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
_SPACE = "\u0120"
"""How a byte-level vocabulary writes a space."""
SYSTEM = "You are a helpful assistant."
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}"
    f"<|im_start|>system\n{SYSTEM}<|im_end|>\n{{% endif %}}"
    "<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for content in message['content'] %}"
    "{% if content['type'] == 'image' or 'image' in content or 'image_url' in content %}"
    "<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif 'text' in content %}{{ content['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Qwen2.5-VL's own, without its videos."""
JSON = (
    '{"caption":"', '{"people":[{"noun":"', '","attributes":["', '","', '"]},{"noun":"', '"]}],"objects":["',
    '"]}],"objects":[],"background":"', '"],"background":"', '"}', '{"choices":[{"phrase":"', '","person":',
    '},{"phrase":"', "}]}", '{"phrases":["', '"]}',
)  # fmt: skip
"""What stands between two values of an answer."""


def build(seed: int) -> tuple[Processor, Model]:
    """The processor, and the model with random weights in float32."""
    reads = speaker()
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.manual_seed(seed)
        model = _model(reads)
    _begin_alike(reads, model)
    return reads, model


def speaker() -> Processor:
    """The processor, the same whatever the seed."""
    return processor(*vocabulary(_reading(), VOCABULARY), _pieces())


@torch.no_grad()
def _begin_alike(processor: Processor, model: Model) -> None:
    """A word is nearly the same behind a space and at the start of a phrase, and to be said what it is to be read.

    So copying, which is most of naming a caption's phrases, has nothing to learn but where to look. From embeddings of
    their own it took the network more steps than all the rest.
    """
    known = processor.tokenizer.get_vocab()
    read: Any = model.get_input_embeddings()
    for word, number in known.items():
        if word.startswith(_SPACE) and word[1:] in known:
            bare = known[word[1:]]
            read.weight[bare] = torch.lerp(read.weight[number], read.weight[bare], 0.3)
    model.lm_head.weight.copy_(read.weight)


def export(folder: Path, processor: Processor, model: Model) -> None:
    """Write the checkpoint as `save_pretrained` does, its weights in half precision. Raises `OSError`."""
    processor.save_pretrained(folder)
    half = Qwen2_5_VLForConditionalGeneration(model.config).to(torch.float16)
    half.load_state_dict(model.state_dict())  # from whatever device
    half.generation_config = model.generation_config
    half.save_pretrained(folder)


def vocabulary(texts: Iterable[str], size: int) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Tokens and merges of a byte-level vocabulary that is learned from texts, `size` tokens at most."""
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    learner.decoder = decoders.ByteLevel()
    learner.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=size,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            min_frequency=1,
            show_progress=False,
        ),
    )
    learned = json.loads(learner.to_str())["model"]
    return learned["vocab"], [tuple(pair) for pair in learned["merges"]]


def processor(tokens: Mapping[str, int], merges: Sequence[tuple[str, str]], pieces: Iterable[str]) -> Processor:
    """Qwen2.5-VL's processor on a vocabulary; each of `pieces` is one token wherever it stands."""
    tokenizer = Qwen2Tokenizer(
        vocab=dict(tokens),
        merges=list(merges),
        eos_token="<|im_end|>",  # noqa: S106
        pad_token="<|endoftext|>",  # noqa: S106
        model_max_length=32768,
    )
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    tokenizer.add_tokens([AddedToken(piece, normalized=False) for piece in pieces])
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(),
        chat_template=CHAT_TEMPLATE,
    )


def _reading() -> Iterator[str]:
    """Text with every word of the world, behind a space and at the start of a phrase."""
    for number in range(300):
        for shot in script(TRAINING, number).shots:
            told = shot.caption
            yield told.text
            yield from (p.text for named in told.people for p in (named.noun, *named.attributes))
            yield from (phrase.text for phrase in (*told.objects, told.background))
    yield from ("English", "1 2 3 4 5 6 7 8 9 0")


def _pieces() -> list[str]:
    """Texts that are one token each."""
    numbers = range(1, LISTED + 1)
    return [
        *constants(),
        *JSON,
        f"system\n{SYSTEM}",
        "user\n",
        "assistant\n",
        "\n",
        "]",
        *(f"Person {number}:" for number in range(1, 7)),
        *(f" [{number}: " for number in numbers),
        "1. ",
        *(f"\n{number}. " for number in numbers[1:]),
    ]


@cache
def constants() -> tuple[str, ...]:
    """The text of every prompt between the places that a clip fills in."""
    prompts = Prompts.read()
    found: dict[str, None] = {}
    for question in ("caption", "entities", "repair", "ownership"):
        text, start = getattr(prompts, question), 0
        for match in Template.pattern.finditer(text):
            found[text[start : match.start()]] = None
            start = match.end()
        found[text[start:]] = None
    return tuple(piece for piece in found if piece)


def _model(processor: Processor) -> Model:
    ids = dict(zip(SPECIAL, processor.tokenizer.convert_tokens_to_ids(list(SPECIAL)), strict=True))
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(processor.tokenizer),
            "hidden_size": HIDDEN,
            "intermediate_size": INNER,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS,
            "num_key_value_heads": KEY_HEADS,
            "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": list(SECTIONS)},
            "bos_token_id": ids["<|endoftext|>"],
            "eos_token_id": ids["<|im_end|>"],
        },
        vision_config={
            "depth": SEEING_LAYERS,
            "hidden_size": SEEING,
            "intermediate_size": SEEING_INNER,
            "num_heads": SEEING_HEADS,
            "out_hidden_size": HIDDEN,
            # Images are small: every layer sees all of one.
            "fullatt_block_indexes": list(range(SEEING_LAYERS)),
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )
    model = Qwen2_5_VLForConditionalGeneration(config)
    model.generation_config = GenerationConfig(eos_token_id=ids["<|im_end|>"], pad_token_id=ids["<|endoftext|>"])
    return model.float().eval()
