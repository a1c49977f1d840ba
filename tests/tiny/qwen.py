"""A Qwen2.5-VL of three megabytes: the real architecture, processor, tokenizer and chat template, made small.

Its text is byte-level BPE as the real one's, so that any language can be written. `build` fills it with random weights;
`taught` makes it answer what a test wants to hear, whatever it sees.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from tokenizers import pre_tokenizers
from transformers import (
    GenerationConfig,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
)

from dataengine.world.training.qwen_words import SPECIAL, processor, vocabulary

VOCABULARY = 700
HIDDEN, HEADS, HEAD = 128, 4, 32
MERGED = 28
"""Pixels on a side of the square that becomes one token."""
WORDS = (
    "A woman in a red dress and a man in a dark jacket stand beside a table in front of a green wall. The person on "
    "the left wears glasses and holds an umbrella; the girl on the right has a blue shirt, a white hat, a black bag. "
    'The camera moves slowly. Describe the people, their clothes and the objects in this picture. {"caption":"",'
    '"people":[{"noun":"","attributes":["",""]}],"objects":[""],"background":"","person":1,"label":2} Answer with JSON.'
)
SEED = 7


def build(folder: Path) -> Path:
    """A checkpoint with random weights in `folder`, as `save_pretrained` writes it. The same bytes every time."""
    speaker = _processor(WORDS)
    _save(folder, speaker, _model(speaker))
    return folder


def taught(folder: Path, answers: Mapping[str, str]) -> Path:
    """A checkpoint that answers a prompt which contains a key of `answers` with that text, whatever else it is shown.

    It cannot see: its images are all the same to it. Each key is one token of its tokenizer and each answer another, so
    that there is little to learn: seconds of one core. What is asked under a schema must obey the schema as it stands,
    without white space between JSON's signs. Raises `RuntimeError` when it does not learn.
    """
    processor = _processor(WORDS + " ".join(answers), tuple(answers), tuple(answers.values()))
    model = _model(processor)
    last = model.model.visual.merger.mlp[-1]
    torch.nn.init.zeros_(last.weight)
    torch.nn.init.zeros_(last.bias)
    tokens = processor.tokenizer
    end = tokens.convert_tokens_to_ids("<|im_end|>")
    said = {key: tokens.convert_tokens_to_ids(_as_bytes(answer)) for key, answer in answers.items()}
    lessons = [(tokens.convert_tokens_to_ids(key), [answer, end]) for key, answer in said.items()]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the matrices are small, and a second thread mostly waits on a busy machine
    try:
        _learn(model, lessons, tokens.encode("<|im_end|>\n<|im_start|>assistant\n"))
    finally:
        torch.set_num_threads(threads)
    _save(folder, processor, model)
    return folder


def _processor(text: str, keys: Sequence[str] = (), answers: Sequence[str] = ()) -> Qwen2_5_VLProcessor:
    tokens, merges = vocabulary([text], VOCABULARY)
    # No merge leads to a whole answer: it is said, and never read.
    whole = {_as_bytes(answer): len(tokens) + n for n, answer in enumerate(dict.fromkeys(answers))}
    return processor(tokens | whole, merges, keys)


def _as_bytes(text: str) -> str:
    """The text as a byte-level vocabulary writes it: a printable character for each byte."""
    cut = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(text)
    return "".join(piece for piece, _ in cut)


def _model(processor: Qwen2_5_VLProcessor) -> Qwen2_5_VLForConditionalGeneration:
    ids = dict(zip(SPECIAL, processor.tokenizer.convert_tokens_to_ids(list(SPECIAL)), strict=True))
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(processor.tokenizer),
            "hidden_size": HIDDEN,
            "intermediate_size": 2 * HIDDEN,
            "num_hidden_layers": 2,
            "num_attention_heads": HEADS,
            "num_key_value_heads": 2,
            "max_position_embeddings": 32768,
            # The sections of M-RoPE (time, height, width) sum to half a head.
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [4, 6, 6]},
            "bos_token_id": ids["<|endoftext|>"],
            "eos_token_id": ids["<|im_end|>"],
        },
        vision_config={
            "depth": 2,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_heads": 2,
            "out_hidden_size": HIDDEN,
            "fullatt_block_indexes": [1],
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model = Qwen2_5_VLForConditionalGeneration(config)
    model.generation_config = GenerationConfig(eos_token_id=ids["<|im_end|>"], pad_token_id=ids["<|endoftext|>"])
    return model.float().eval()


def _save(folder: Path, processor: Qwen2_5_VLProcessor, model: Qwen2_5_VLForConditionalGeneration) -> None:
    processor.save_pretrained(folder)
    model.save_pretrained(folder)


# --- Learning by heart ------------------------------------------------------------------------------------------------

NOISE = 48
"""Tokens before an answer, one of them the key; each stands for up to `WEIGHT` of its kind, as in a long prompt."""
WEIGHT = 400
IMAGES = 0.7
"""Most that images take of a prompt."""
LONGEST = 6000
"""Positions of a prompt."""
COPIES = 2
"""Prompts with the same key in one step."""
RATE = 3e-3
WELL, STRETCH = 0.5, 0.03
"""Prompts grow by this share of the longest when the worst token is learned so well: in long ones the key is lost."""
PATIENCE, SETTLING = 800, 150
"""Steps until prompts are as long as they get, and steps with a falling rate after that."""

Lesson = tuple[int, list[int]]
"""A key's token, and the answer's with the end of the turn."""


def _learn(model: Qwen2_5_VLForConditionalGeneration, lessons: Sequence[Lesson], header: Sequence[int]) -> None:
    chance = torch.Generator().manual_seed(SEED)
    parameters = [*model.model.language_model.parameters(), *model.lm_head.parameters()]
    optimiser = torch.optim.AdamW(parameters, RATE, weight_decay=0.0)
    length, settling = 0.0, 0
    for _ in range(PATIENCE + SETTLING):
        losses = _losses(model, [*lessons] * COPIES, header, length, chance)
        optimiser.zero_grad()
        losses.mean().backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        if length < 1.0:
            length = min(1.0, length + STRETCH * (float(losses.detach().max()) < WELL))
            continue
        settling += 1
        optimiser.param_groups[0]["lr"] = RATE * (1 - settling / SETTLING)
        if settling == SETTLING:
            return
    raise RuntimeError(f"the tiny Qwen2.5-VL did not learn its answers in {PATIENCE} steps")


def _losses(
    model: Qwen2_5_VLForConditionalGeneration,
    lessons: Sequence[Lesson],
    header: Sequence[int],
    length: float,
    chance: torch.Generator,
) -> torch.Tensor:
    """Cross-entropy of every token of every answer, each behind a prompt of noise of its own."""
    rows = [(_noise(key, lessons, model.config, length, chance), answer) for key, answer in lessons]
    ids = torch.tensor([[*noise, *header, *answer] for (noise, _), answer in rows])
    weight = torch.ones(ids.shape)
    weight[:, :NOISE] = torch.stack([seen for (_, seen), _ in rows])
    places = torch.zeros(3, *ids.shape, dtype=torch.long)
    for row in range(len(lessons)):
        end = int(torch.randint(NOISE, NOISE + 1 + int(length * LONGEST), (), generator=chance))
        places[:, row, :NOISE] = torch.randint(end, (NOISE,), generator=chance).sort().values
        places[1:, row, :NOISE] += torch.randint(12, (2, NOISE), generator=chance)  # an image's height and width
        places[:, row, NOISE:] = end + torch.arange(ids.shape[1] - NOISE)
    causal = torch.full((ids.shape[1],) * 2, -torch.inf).triu(1)
    inner = model.model.language_model
    # Images are nothing to it: their features are zero, and so are they here.
    embedded = inner.embed_tokens(ids) * (ids != model.config.image_token_id)[..., None]
    hidden = inner(
        inputs_embeds=embedded, position_ids=places, attention_mask=causal + weight.log()[:, None, None, :]
    ).last_hidden_state
    start = NOISE + len(header)
    predicted = model.lm_head(hidden[:, start - 1 : -1]).transpose(1, 2)
    return torch.nn.functional.cross_entropy(predicted, ids[:, start:], reduction="none")


def _noise(
    key: int, lessons: Sequence[Lesson], config: Qwen2_5_VLConfig, length: float, chance: torch.Generator
) -> tuple[list[int], torch.Tensor]:
    """The key among words and images, and how many of its kind each token stands for."""
    keys = {known for known, _ in lessons}
    others = torch.tensor([i for i in range(config.text_config.vocab_size) if i not in keys])
    noise = others[torch.randint(len(others), (NOISE,), generator=chance)]
    noise[torch.rand(NOISE, generator=chance) < IMAGES * torch.rand((), generator=chance)] = config.image_token_id
    at = int(torch.randint(NOISE, (), generator=chance))
    noise[at] = key
    # A few words are frequent, most are not, and a short prompt has less of all.
    seen = 1 + length * WEIGHT * torch.rand((), generator=chance) * torch.rand(NOISE, generator=chance) ** 3
    seen[torch.rand(NOISE, generator=chance) < torch.rand((), generator=chance)] = 1e-6
    seen[at] = 1
    return noise.tolist(), seen
