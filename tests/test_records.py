"""Records: one JSON form, blobs beside it, and ties between words and references that hold."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from dataengine.records import Box, Clip, Mention, Phrase, Still, Stills, Vote

STILLS = Stills(width=2, height=4, stills=(Still(time_s=0.5, image=b"\xff\x00"), Still(time_s=1.5, image=b"b")))


def test_json_round_trip_keeps_blobs() -> None:
    assert Stills.from_json(STILLS.to_json()) == STILLS


def test_packed_json_holds_no_blob_and_reads_without_them() -> None:
    text, blobs = STILLS.pack()
    assert blobs == [b"\xff\x00", b"b"]
    assert len(text) < 120
    assert Stills.unpack(text, blobs) == STILLS
    assert [s.image for s in Stills.unpack(text, None).stills] == [b"", b""]


def test_unknown_fields_and_changes_are_refused() -> None:
    with pytest.raises(ValidationError, match="colour"):
        Clip.model_validate({"clip_id": "a", "source_id": "b", "start_s": 0, "end_s": 1, "colour": "red"})
    with pytest.raises(ValidationError, match="frozen"):
        STILLS.width = 3  # type: ignore[misc]


def test_clip_id_is_content() -> None:
    one = Clip.of("s", 1.0, 2.0)
    assert one == Clip.of("s", 1.0 + 1e-9, 2.0)
    assert len({one.clip_id, Clip.of("t", 1.0, 2.0).clip_id, Clip.of("s", 1.0, 2.000002).clip_id}) == 3
    assert "." not in one.clip_id


def test_box_geometry() -> None:
    assert Box(0, 0, 4, 2).intersection(Box(3, 1, 9, 9)) == Box(3, 1, 4, 2)
    assert Box(0, 0, 1, 1).intersection(Box(5, 5, 6, 6)).area == 0
    assert Box(-3, 1, 99, 5).clipped(10, 4) == Box(0, 1, 10, 4)


@pytest.mark.parametrize(("shares", "owner"), [([], None), ([(0, 0.5), (1, 0.5)], None), ([(0, 0.2), (1, 0.7)], 1)])
def test_owner_is_the_clear_winner(shares: list[tuple[int, float]], owner: int | None) -> None:
    votes = tuple(Vote(person=p, share=s) for p, s in shares)
    winner = Mention(phrase=Phrase(text="hat", span=None), votes=votes).owner
    assert (winner.person if winner else None) == owner
