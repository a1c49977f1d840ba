"""Real S3 and GCS servers on loopback, and a proxy in front of them that fails the way object stores do."""

from __future__ import annotations

import http.client
import random
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

BUCKET = "videos"

ERRORS = {
    "500": (500, "InternalError"),
    "503": (503, "ServiceUnavailable"),
    "slow-down": (503, "SlowDown"),
}
DENIED = (403, "AccessDenied")
BREAKS = ("reset", "lost", "cut", "hang")
"""Reset before the server saw the request; after it did, its answer lost; in mid-answer; no answer at all."""


# The emulator's own command serves one connection at a time, and Google's client keeps several.
_GCS = """if True:
    import http.server, sys
    from gcp_storage_emulator import server
    server.server.HTTPServer = http.server.ThreadingHTTPServer
    server.create_server("127.0.0.1", int(sys.argv[1]), in_memory=True, default_bucket=sys.argv[2]).run()
"""


def environment(port: int) -> dict[str, str]:
    """What a process needs to find the server at a port, by the variables that every S3 and GCS tool knows."""
    return {
        "STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{port}",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


@contextmanager
def s3_server(log: Path) -> Iterator[int]:
    """moto's S3 server as a process of its own, with an empty bucket; gives its port."""
    port = _free_port()
    with _server(["-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], port, log):
        _request(port, "PUT", f"/{BUCKET}")
        yield port


@contextmanager
def gcs_server(log: Path) -> Iterator[int]:
    """A GCS emulator as a process of its own, with an empty bucket; gives its port."""
    port = _free_port()
    with _server(["-c", _GCS, str(port), BUCKET], port, log):
        yield port


@contextmanager
def _server(arguments: list[str], port: int, log: Path) -> Iterator[None]:
    with log.open("wb") as stream:
        server = subprocess.Popen([sys.executable, *arguments], stdout=stream, stderr=stream)
        try:
            _wait_for(port, server, log)
            yield
        finally:
            server.kill()
            server.wait()


@dataclass
class Faults:
    """Which requests fail, and how: decided by their number and the seed alone."""

    share: float
    seed: int = 0
    kinds: tuple[str, ...] = (*ERRORS, *BREAKS)
    hang_s: float = 30.0
    hangs: int = 2
    """At most so many: each costs a whole time limit."""
    injected: Counter[str] = field(default_factory=Counter)
    requests: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._lock = threading.Lock()

    def next(self, method: str) -> str | None:
        """The fault of the next request, or None."""
        with self._lock:
            self.requests[method] += 1
            chance, kind = self._random.random(), self._random.choice(self.kinds)
            if chance >= self.share or (kind == "hang" and self.injected["hang"] >= self.hangs):
                return None
            self.injected[kind] += 1
            return kind


@contextmanager
def faulty_proxy(server_port: int, faults: Faults) -> Iterator[int]:
    """Passes requests on to the server, but for those that `faults` picks; gives the proxy's port."""
    proxy = _Proxy(server_port, faults)
    thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield proxy.server_address[1]
    finally:
        proxy.ended.set()
        proxy.shutdown()
        thread.join()
        proxy.server_close()


class _Proxy(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, server_port: int, faults: Faults) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.server_port_behind, self.faults, self.ended = server_port, faults, threading.Event()

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients hang up on purpose after a fault: that is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Proxy

    def log_message(self, format: str, *args: object) -> None:
        """Thousands of requests are not printed."""

    def _serve(self) -> None:
        body = self._body()
        fault = self.server.faults.next(self.command)
        if fault == "hang":
            self.server.ended.wait(self.server.faults.hang_s)
        if fault in ("hang", "reset"):
            return self._reset()
        if fault in ERRORS or fault == "denied":
            status, code = ERRORS.get(fault, DENIED)
            text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>injected</Message></Error>".encode()
            return self._answer(status, {"Content-Type": "application/xml", "Content-Length": str(len(text))}, text)
        status, headers, data = self._forward(body)
        if fault == "lost":
            return self._reset()
        if fault == "cut":
            self._answer(status, headers, data[: len(data) // 2])
            return self._reset()
        return self._answer(status, headers, data)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _serve

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            pieces = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                pieces.append(self.rfile.read(size))
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass
            return b"".join(pieces)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _forward(self, body: bytes) -> tuple[int, Mapping[str, str], bytes]:
        behind = http.client.HTTPConnection("127.0.0.1", self.server.server_port_behind, timeout=60)
        try:
            dropped = ("connection", "transfer-encoding", "content-length", "expect")
            headers = {k: v for k, v in self.headers.items() if k.lower() not in dropped}
            behind.request(self.command, self.path, body, {**headers, "Content-Length": str(len(body))})
            reply = behind.getresponse()
            data = reply.read()
            kept = {k: v for k, v in reply.getheaders() if k.lower() not in ("connection", "transfer-encoding")}
            kept.setdefault("Content-Length", str(len(data)))
            return reply.status, kept, data
        finally:
            behind.close()

    def _answer(self, status: int, headers: Mapping[str, str], data: bytes) -> None:
        self.send_response_only(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _reset(self) -> None:
        self.close_connection = True
        # Lingering for no time makes the kernel send RST instead of an orderly end.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait_for(port: int, server: subprocess.Popen, log: Path) -> None:
    for _ in range(600):
        if server.poll() is not None:
            break
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise RuntimeError(f"the server did not start: {log.read_text()}")


def _request(port: int, method: str, path: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request(method, path)
    assert connection.getresponse().status == 200, path
    connection.close()
