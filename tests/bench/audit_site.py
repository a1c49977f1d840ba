"""The audit page's server in a thread, at a port of its own: for tests in a browser, the benchmark and screenshots."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from dataengine.audit.desk import Desk
from dataengine.audit.listening import listen
from dataengine.audit.security import Access
from dataengine.audit.server import create_app


@contextmanager
def served(desk: Desk, access: Access | None = None) -> Iterator[str]:
    """The address at which a desk is served; it ends with the block, and a test's process never waits for it."""
    socket = listen("127.0.0.1", 0)
    running = uvicorn.Server(uvicorn.Config(create_app(desk, access), log_level="error", lifespan="off"))
    thread = threading.Thread(target=running.run, kwargs={"sockets": [socket]}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{socket.getsockname()[1]}"
    finally:
        running.should_exit = True
        thread.join(10)
