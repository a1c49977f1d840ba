"""Who may talk to the audit server, checked before anything else looks at a request.

A page on another site must not read or write through an auditor's browser: the Host must be one of ours (DNS
rebinding), the Origin ours where there is one, and writes carry a token that only our page can read (CSRF). Away from
loopback every request needs the access token. Answers may run nothing inline and are embedded nowhere.
"""

from __future__ import annotations

import hmac
import ipaddress
import json
import secrets
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

MAX_BODY = 64 * 1024
"""Bytes of a request's body: an edit of a label is the largest there is."""
CSRF_HEADER = "x-csrf-token"
COOKIE = "dataengine_access"
EVERYWHERE = frozenset({"0.0.0.0", "::"})  # noqa: S104  (only compared)
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
_READS = frozenset({"GET", "HEAD", "OPTIONS"})

HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; media-src 'self'; font-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}


class AccessError(ValueError):
    """The server cannot be opened like that; the message says why."""


def is_loopback(host: str) -> bool:
    """Whether a host name or address can be reached from this machine only."""
    if host in _LOOPBACK:
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True)
class Access:
    """The rules of one server. `token` is None on loopback; `hosts` are the names it may be called by."""

    hosts: frozenset[str] = _LOOPBACK
    token: str | None = None
    csrf: str = field(default_factory=lambda: secrets.token_urlsafe(32))

    @classmethod
    def for_host(cls, host: str, names: tuple[str, ...] = (), token: str | None = None) -> Access:
        """Rules for a server that listens on `host`; `names` are further names it is called by.

        Away from loopback there is a token, made here unless given. Raises `AccessError` for one that can be guessed.
        """
        if token is not None and len(token) < 16:
            raise AccessError("the access token has less than 16 characters: it could be guessed")
        needed = token or (None if is_loopback(host) else secrets.token_urlsafe(32))
        own = {socket.gethostname().lower()} if host in EVERYWHERE else {host.lower()}
        return cls(_LOOPBACK | own | {name.lower() for name in names}, needed)

    def knows_host(self, host: str) -> bool:
        """Whether a Host header names this server. An address cannot be rebound, a foreign name can."""
        name = _host_name(host)
        if name in self.hosts:
            return True
        return self.token is not None and _is_address(name)

    def knows_origin(self, origin: str, host: str) -> bool:
        """Whether a page of this very server sends the request."""
        parts = urlsplit(origin)
        return parts.scheme in ("http", "https") and parts.netloc.lower() == host.lower()


class Guard:
    """ASGI middleware that refuses what `Access` does not allow, limits bodies, and adds the security headers."""

    def __init__(self, app: App, access: Access) -> None:
        self.app = app
        self.access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        answer = _Secured(send)
        if self._hands_over_token(scope):
            await _redirect(answer, scope, self.access.token or "")
            return
        refusal = self._refusal(scope, headers)
        if refusal is not None:
            await _problem(answer, *refusal)
            return
        body = _Limited(receive)
        await self.app(scope, body, answer)

    def _hands_over_token(self, scope: Scope) -> bool:
        """`/?token=…` as the server prints it: the token moves into a cookie, out of the address line."""
        if self.access.token is None or scope["method"] != "GET" or scope["path"] != "/":
            return False
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        return hmac.compare_digest(given.encode(), self.access.token.encode())

    def _refusal(self, scope: Scope, headers: MutableMapping[str, str]) -> tuple[int, str, str] | None:
        host, origin = headers.get("host", ""), headers.get("origin")
        if not self.access.knows_host(host):
            return 421, "this server is not called by that name", "open it by the address it printed, or use --name"
        if origin is not None and not self.access.knows_origin(origin, host):
            return 403, "the request comes from another site's page", "open the audit page itself"
        if headers.get("sec-fetch-site") == "cross-site" and headers.get("sec-fetch-mode") != "navigate":
            return 403, "the request comes from another site's page", "open the audit page itself"
        if self.access.token is not None and not self._may_enter(headers):
            return 401, "the access token is missing or wrong", "open the address with ?token= that the server printed"
        if scope["method"] not in _READS:
            given = headers.get(CSRF_HEADER, "")
            if not hmac.compare_digest(given.encode(), self.access.csrf.encode()):
                return 403, "the request has no valid write token", "reload the page: the server was restarted"
            if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
                return 415, "the body is not JSON", "send content-type: application/json"
            length = headers.get("content-length", "0")
            if not length.isdigit() or int(length) > MAX_BODY:
                return 413, f"the body has more than {MAX_BODY} bytes", "send less at once"
        return None

    def _may_enter(self, headers: MutableMapping[str, str]) -> bool:
        token = (self.access.token or "").encode()
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and hmac.compare_digest(bearer.encode(), token):
            return True
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            return False
        return cookie is not None and hmac.compare_digest(cookie.value.encode(), token)


@dataclass
class _Limited:
    """A request's body that ends with an error once it is too large, whatever its length header said."""

    receive: Receive
    seen: int = 0

    async def __call__(self) -> Message:
        message = await self.receive()
        self.seen += len(message.get("body", b""))
        if self.seen > MAX_BODY:
            return {"type": "http.disconnect"}
        return message


@dataclass(frozen=True)
class _Secured:
    """A response with the security headers; what does not say otherwise is stored nowhere."""

    send: Send

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            present = {name.lower() for name, _ in message["headers"]}
            added = HEADERS | {"cache-control": "no-store"}
            extra = [(n.encode(), v.encode()) for n, v in added.items() if n.encode() not in present]
            message = {**message, "headers": [*message["headers"], *extra]}
        await self.send(message)


async def _problem(send: Send, status: int, problem: str, remedy: str) -> None:
    body = json.dumps({"problem": problem, "remedy": remedy}).encode()
    await _answer(send, status, [(b"content-type", b"application/json")], body)


async def _redirect(send: Send, scope: Scope, token: str) -> None:
    query = parse_qs(scope["query_string"].decode("latin-1"))
    query.pop("token", None)
    place = "/" + (f"?{urlencode(query, doseq=True)}" if query else "")
    cookie = f"{COOKIE}={token}; Path=/; HttpOnly; SameSite=Strict"
    await _answer(send, 303, [(b"location", place.encode()), (b"set-cookie", cookie.encode())], b"")


async def _answer(send: Send, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": body})


def _host_name(host: str) -> str:
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
