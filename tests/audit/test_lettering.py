from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from dataengine.audit import lettering
from dataengine.audit.lettering import Style

STYLE = Style(16)


def test_a_paragraph_keeps_its_words_and_tags() -> None:
    stretches = [("On the left, a ", None), ("woman", "s0"), (" in an ", None), ("orange suit", "s0.a0"), (".", None)]
    words = lettering.wrap(stretches, STYLE, 120, 20)
    assert "".join(word.text for word in words) == "On the left, a woman in an orange suit."
    assert [word.text.strip() for word in words if word.tag == "s0.a0"] == ["orange", "suit"]
    assert all(word.x + lettering.width(word.text.rstrip(), STYLE) <= 120 for word in words[:-1])
    assert words[-1].text == "."
    assert words[-1].x > 0  # punctuation never starts a line


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=80), st.integers(60, 300))
def test_no_text_leaves_its_column_or_its_lines(text: str, room: int) -> None:
    words = lettering.wrap([(text, None)], STYLE, room, 3)
    assert all(word.line < 3 for word in words)
    hanging = set(",.;:!?)]}…")
    for word in words:
        if word.text[:1] not in hanging:
            assert word.x + lettering.width(word.text.rstrip(), STYLE) <= room + 1


def test_what_does_not_fit_ends_in_an_ellipsis() -> None:
    words = lettering.wrap([("word " * 200, None)], STYLE, 200, 2)
    assert words[-1].line == 1
    assert words[-1].text.endswith("…")
    assert lettering.fit("a long phrase that does not fit", STYLE, 90).endswith("…")
    assert lettering.width(lettering.fit("a long phrase that does not fit", STYLE, 90), STYLE) <= 90


@pytest.mark.parametrize("text", ["woman", "中文", "😀", "हिन्दी", "العربية"])
def test_every_script_leaves_ink(text: str) -> None:
    picture = Image.new("L", (200, 40), 255)
    lettering.draw(ImageDraw.Draw(picture), 5, 28, text, STYLE, "#000000")
    assert np.asarray(picture).min() < 100
    assert lettering.width(text, STYLE) > 8
