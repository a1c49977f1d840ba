from __future__ import annotations

import pytest

from dataengine.audit.scene import Scene
from dataengine.audit.wording import by_caption, pieces, shortened, visible


@pytest.mark.parametrize(
    ("hidden", "seen"),
    [
        ("a\u202eb", "a⟨U+202E⟩b"),
        ("a\x00b", "a⟨U+0000⟩b"),
        ("a\ud800b", "a⟨U+D800⟩b"),
        ("a\nb\tc", "a b c"),
        ("مرحبا 中文 👩\u200d🚀", "مرحبا 中文 👩\u200d🚀"),
    ],
)
def test_what_cannot_be_seen_is_spelt(hidden: str, seen: str) -> None:
    assert visible(hidden) == seen


def test_a_long_name_keeps_both_ends() -> None:
    name = "start" + "x" * 100_000 + "end.mp4"
    short = shortened(name, 40)
    assert len(short) == 40
    assert short.startswith("start")
    assert short.endswith("end.mp4")
    assert shortened("short.mp4", 40) == "short.mp4"


def test_pieces_are_the_caption(scenes: list[Scene]) -> None:
    pair = scenes[0].pair
    found = pieces(pair)
    assert "".join(piece.text for piece in found) == pair.caption
    tied = {piece.entity: piece.text for piece in found if piece.entity}
    assert tied["s0.face"] == "woman"
    assert tied["s1.face"] == "older woman"
    assert tied["s1.a1"] == "officer's cap"
    assert "s0.body" not in tied  # it is the noun again


def test_pieces_stop_at_the_limit_without_cutting_a_phrase(scenes: list[Scene]) -> None:
    pair = scenes[0].pair
    second = by_caption(pair)[1].phrase
    assert second.span is not None
    found = pieces(pair, limit=second.span.end - 1)
    assert [piece.entity for piece in found if piece.entity] == ["s0.face"]
    assert found[-1].text.endswith("…")


def test_overlapping_spans_still_show_the_whole_caption(scenes: list[Scene]) -> None:
    pair = scenes[0].pair
    subject = pair.subjects[0]
    clash = subject.attributes[1].model_copy(update={"phrase": subject.attributes[0].phrase})
    damaged = pair.model_copy(
        update={
            "subjects": (subject.model_copy(update={"attributes": (subject.attributes[0], clash)}), pair.subjects[1])
        }
    )
    assert "".join(piece.text for piece in pieces(damaged)) == pair.caption
