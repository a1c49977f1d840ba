"""Text encoders: which tokens a phrase is, through accents, emoji, scripts and the token limit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dataengine.lumosx.text import MiniLmEncoder, PhraseError, TextEmbedding, TextEncoder, Umt5Encoder
from dataengine.records import Span
from dataengine.weights import MissingWeightsError

CAPTION = "A woman with café-blond hair in an orange top 😀 beside a man in a black 外套, in a garden."


def span_of(caption: str, phrase: str) -> Span:
    start = caption.index(phrase)
    return Span(start, start + len(phrase))


def words(embedding: TextEmbedding, phrase: str) -> list[str]:
    found = embedding.positions(span_of(embedding.caption, phrase))
    return [embedding.offsets[position].of(embedding.caption) for position in found]


@pytest.fixture(scope="module")
def minilm() -> MiniLmEncoder:
    return MiniLmEncoder(max_tokens=64)


@pytest.fixture(scope="module")
def umt5_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random UMT5 encoder and a sentencepiece-style (unigram) tokenizer, in the diffusers layout."""
    from transformers import T5Tokenizer, UMT5Config, UMT5EncoderModel

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("umt5")
    pieces = ["▁orange", "▁top", "▁bla", "ck", "▁shirt", "▁man", "▁in", "▁A", "▁a", "▁"]
    letters = sorted(set(CAPTION + "abcdefghijklmnopqrstuvwxyz") - set(" 😀"))
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    vocabulary += [(piece, -1.0) for piece in pieces] + [(letter, -4.0) for letter in letters]
    T5Tokenizer(vocab=vocabulary, extra_ids=0).save_pretrained(folder / "tokenizer")
    config = UMT5Config(vocab_size=128, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
    UMT5EncoderModel(config).save_pretrained(folder / "text_encoder")
    return folder


def test_phrases_to_tokens(minilm: MiniLmEncoder) -> None:
    (embedding,) = minilm.encode([CAPTION])
    assert embedding.context.shape == (len(embedding.offsets), minilm.dim) == (len(embedding.offsets), 384)
    assert words(embedding, "café-blond hair") == ["café", "-", "blond", "hair"]
    assert words(embedding, "orange top") == ["orange", "top"]
    assert words(embedding, "😀") == ["😀"]
    assert words(embedding, "black 外套") == ["black", "外", "套"]
    assert words(embedding, "garden") == ["garden"]


def test_decomposed_accents_count_in_the_original_characters(minilm: MiniLmEncoder) -> None:
    caption = "a man in a cafe\u0301-brown coat and a red tie"  # e + combining acute: one character more than it looks
    (embedding,) = minilm.encode([caption])
    assert words(embedding, "red tie") == ["red", "tie"]


def test_only_the_span_counts_not_the_word(minilm: MiniLmEncoder) -> None:
    """Two men in one caption: the released code would mark both."""
    caption = "a man in a grey suit and a man in a red shirt"
    (embedding,) = minilm.encode([caption])
    first, second = caption.index("man"), caption.rindex("man")
    assert embedding.positions(Span(first, first + 3)) == (2,)
    assert embedding.positions(Span(second, second + 3)) == (9,)


def test_part_of_a_token_is_enough(minilm: MiniLmEncoder) -> None:
    (embedding,) = minilm.encode(["an orange top"])
    assert embedding.positions(Span(5, 7)) == (2,)


def test_a_phrase_without_tokens_is_refused_by_name(minilm: MiniLmEncoder) -> None:
    (embedding,) = minilm.encode(["a man\u200b in a suit"])  # BERT's normaliser drops the zero-width space
    with pytest.raises(PhraseError, match="no token"):
        embedding.positions(Span(5, 6))


def test_a_phrase_past_the_limit_is_refused_by_name() -> None:
    encoder = MiniLmEncoder(max_tokens=8)
    (embedding,) = encoder.encode(["a man in a grey suit and a blue tie"])
    assert embedding.context.shape == (8, 384)
    assert words(embedding, "grey suit") == ["grey", "suit"]
    with pytest.raises(PhraseError, match=r"'blue tie' .* past the 8 tokens"):
        embedding.positions(span_of(embedding.caption, "blue tie"))


def test_a_caption_does_not_depend_on_its_neighbours(minilm: MiniLmEncoder) -> None:
    alone = minilm.encode(["a man"])[0].context
    beside = minilm.encode([CAPTION, "a man", ""])[1].context
    assert torch.equal(alone, beside)
    assert not alone.requires_grad


def test_the_empty_caption_has_a_context(minilm: MiniLmEncoder) -> None:
    (embedding,) = minilm.encode([""])
    assert embedding.context.shape == (2, 384)


def test_umt5_has_the_same_contract(umt5_folder: Path) -> None:
    encoder: TextEncoder = Umt5Encoder(str(umt5_folder))
    embedding, empty = encoder.encode([CAPTION, ""])
    assert embedding.context.shape == (len(embedding.offsets), 16)
    assert encoder.dim == 16
    assert "".join(words(embedding, "orange top")).replace(" ", "") == "orangetop"
    assert set(words(embedding, "外套")) == {"外", "套"}, "the word mark ▁ counts as the word's first character"
    assert embedding.offsets[-1] == (0, 0), "the closing token stands for no character"
    assert empty.context.shape == (1, 16), "the empty prompt is the closing token, as in Wan2.1"


def test_umt5_limit(umt5_folder: Path) -> None:
    (embedding,) = Umt5Encoder(str(umt5_folder), max_tokens=6).encode([CAPTION])
    assert embedding.context.shape == (6, 16)
    with pytest.raises(PhraseError, match="'garden'"):
        embedding.positions(span_of(CAPTION, "garden"))


def test_missing_weights_name_the_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        MissingWeightsError, match=r"hf download Wan-AI/None --revision abc --include 'text_encoder/\*'"
    ):
        Umt5Encoder("Wan-AI/None", "abc")
    with pytest.raises(MissingWeightsError, match="no readable UMT5"):
        Umt5Encoder(str(tmp_path))
