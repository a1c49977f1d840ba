from __future__ import annotations

import pytest

from dataengine.audit.listening import addresses, listen
from dataengine.audit.security import Access, AccessError


def test_a_free_port_is_taken_and_printed() -> None:
    with listen("127.0.0.1", 0) as made:
        port = made.getsockname()[1]
        assert addresses(made, "127.0.0.1", Access.for_host("127.0.0.1")) == [f"http://127.0.0.1:{port}/"]


def test_a_port_that_is_in_use_is_told_with_what_to_do() -> None:
    with listen("127.0.0.1", 0) as made, pytest.raises(AccessError, match="try another --port"):
        listen("127.0.0.1", made.getsockname()[1])


def test_every_printed_address_is_one_that_is_let_in() -> None:
    for host, names in (("0.0.0.0", ()), ("0.0.0.0", ("audit.example.org",)), ("127.0.0.1", ())):
        access = Access.for_host(host, names)
        with listen("127.0.0.1", 0) as made:
            [address] = addresses(made, host, access)
        place, _, query = address.removeprefix("http://").partition("/")
        assert access.knows_host(place)
        assert query == ("" if host == "127.0.0.1" else f"?token={access.token}")
