"""Members of large JSON objects are found without parsing them, in pieces of any size."""

import json
from io import BytesIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataengine.shards.importers import json_members as module
from dataengine.shards.importers.json_members import JsonError, json_members

values = st.recursive(
    st.none() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@settings(max_examples=40)
@given(st.dictionaries(st.text(), values, max_size=4), st.integers(1, 64), st.sampled_from([None, 1]))
def test_members_are_those_of_the_json(told, chunk, indent) -> None:
    data = json.dumps(told, indent=indent, ensure_ascii=False).encode("utf-8", "surrogatepass")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK", chunk)
        found = list(json_members(BytesIO(data)))
    wanted = [(key, value) for key, value in told.items() if isinstance(value, dict | list)]
    got = [
        (
            json.loads(b'"' + m.key + b'"'),
            json.loads(data[m.offset : m.offset + m.size].decode("utf-8", "surrogatepass")),
        )
        for m in found
    ]
    assert got == wanted


@pytest.mark.parametrize("data", [b"", b"[1]", b"no json", b'"text"', b'{"a": {"b": 1}', b'{"a": {"b": "\\"}}'])
def test_what_is_no_object_or_is_cut_short_is_refused_after_what_stands_before(data: bytes) -> None:
    with pytest.raises(JsonError):
        list(json_members(BytesIO(data)))


def test_a_string_without_an_end_is_not_held_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 16)
    monkeypatch.setattr(module, "MAX_STRING", 64)
    with pytest.raises(JsonError, match="more than 64 bytes"):
        list(json_members(BytesIO(b'{"a": "' + b"x" * 10_000)))
