from __future__ import annotations

import socket

import pytest
from fastapi import FastAPI, Request
from fastapi.testclient import TestClient

from dataengine.audit.security import CSRF_HEADER, HEADERS, MAX_BODY, Access, AccessError, Guard, is_loopback

TOKEN = "a-token-of-some-length"


def client(access: Access, host: str = "127.0.0.1:8780") -> TestClient:
    app = FastAPI()

    @app.get("/")
    def page() -> str:
        return "page"

    @app.post("/write")
    async def write(request: Request) -> int:
        return len(await request.body())

    app.add_middleware(Guard, access=access)
    return TestClient(app, base_url=f"http://{host}", follow_redirects=False)


def headers(access: Access, **more: str) -> dict[str, str]:
    return {CSRF_HEADER: access.csrf, "content-type": "application/json"} | more


@pytest.mark.parametrize("host", ["127.0.0.1:8780", "localhost:8780", "[::1]:8780", "LOCALHOST"])
def test_our_own_names_are_let_in(host: str) -> None:
    assert client(Access()).get("/", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "", "localhost@evil.example", "[", "10.0.0.7"]
)
def test_other_names_are_not(host: str) -> None:
    answer = client(Access()).get("/", headers={"host": host})
    assert answer.status_code == 421
    assert "problem" in answer.json()


@pytest.mark.parametrize(
    ("more", "status"),
    [
        ({}, 200),
        ({"origin": "http://127.0.0.1:8780"}, 200),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "http://127.0.0.1:9999"}, 403),
        ({"origin": "null"}, 403),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}, 403),
        ({"sec-fetch-site": "same-origin"}, 200),
        ({CSRF_HEADER: ""}, 403),
        ({CSRF_HEADER: "wrong"}, 403),
        ({"content-type": "text/plain"}, 415),
        ({"content-type": "application/json; charset=utf-8"}, 200),
    ],
)
def test_writes_come_from_our_page_alone(more: dict[str, str], status: int) -> None:
    access = Access()
    assert client(access).post("/write", content=b"{}", headers=headers(access) | more).status_code == status


def test_a_link_from_elsewhere_may_open_the_page_and_no_more() -> None:
    page = client(Access())
    assert page.get("/", headers={"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}).status_code == 200
    assert page.get("/", headers={"sec-fetch-site": "cross-site", "sec-fetch-mode": "cors"}).status_code == 403


def test_large_bodies_are_refused_also_when_they_do_not_say_so() -> None:
    access = Access()
    page = client(access)
    assert page.post("/write", content=bytes(MAX_BODY), headers=headers(access)).json() == MAX_BODY
    assert page.post("/write", content=bytes(MAX_BODY + 1), headers=headers(access)).status_code == 413

    def chunks():
        for _ in range(3):
            yield bytes(MAX_BODY // 2)

    from starlette.requests import ClientDisconnect

    with pytest.raises(ClientDisconnect):
        page.post("/write", content=chunks(), headers=headers(access))


def test_every_answer_has_the_headers_refusals_too() -> None:
    page = client(Access())
    for answer in (page.get("/"), page.get("/nothing"), page.get("/", headers={"host": "evil.example"})):
        for name, value in HEADERS.items():
            assert answer.headers[name] == value
        assert answer.headers["cache-control"] == "no-store"
    policy = HEADERS["content-security-policy"]
    assert "unsafe" not in policy
    assert "default-src 'none'" in policy


def test_away_from_loopback_a_token_is_needed() -> None:
    access = Access.for_host("0.0.0.0", token=TOKEN)
    page = client(access, "10.0.0.7:8780")
    assert page.get("/").status_code == 401
    assert page.get("/", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200
    assert page.get("/", headers={"authorization": f"Bearer {TOKEN}x"}).status_code == 401
    assert page.get("/?token=wrong").status_code == 401
    moved = page.get(f"/?sample=3&token={TOKEN}")
    assert moved.status_code == 303
    assert moved.headers["location"] == "/?sample=3", "the token is out of the address"
    assert "httponly" in moved.headers["set-cookie"].lower()
    assert "samesite=strict" in moved.headers["set-cookie"].lower()
    assert page.get("/").status_code == 200, "the cookie does it"
    assert page.get("/", headers={"host": "evil.example"}).status_code == 421, "a name can be rebound"


def test_names_that_were_given_are_known() -> None:
    access = Access.for_host("0.0.0.0", ("Audit.Example.org",), TOKEN)
    assert client(access).get("/", headers={"host": "audit.example.org"}).status_code == 401
    assert access.knows_host("audit.example.org:443")
    assert access.knows_host(f"{socket.gethostname()}:8780"), "the address that is printed without one"


def test_tokens_are_made_and_weak_ones_refused() -> None:
    assert Access.for_host("127.0.0.1").token is None
    made = Access.for_host("192.168.0.2").token
    assert made is not None
    assert len(made) > 30
    with pytest.raises(AccessError, match="guessed"):
        Access.for_host("0.0.0.0", token="short")


def test_loopback() -> None:
    assert is_loopback("127.0.0.5")
    assert is_loopback("::1")
    assert not is_loopback("0.0.0.0")
    assert not is_loopback("example.org")
