"""Where the audit server listens, and how long it runs."""

from __future__ import annotations

import socket

import uvicorn
from fastapi import FastAPI

from dataengine.audit.security import EVERYWHERE, Access, AccessError


def listen(host: str, port: int) -> socket.socket:
    """A socket to serve on. Raises `AccessError` when the address cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((host, port))
        made.listen(128)
    except OSError as error:
        made.close()
        raise AccessError(f"{host} port {port} cannot be listened on: {error}; try another --port") from error
    return made


def addresses(made: socket.socket, host: str, access: Access) -> list[str]:
    """What to open in a browser, with the access token where one is needed."""
    port = made.getsockname()[1]
    own = socket.gethostname() if host in EVERYWHERE else host
    names = sorted(access.hosts - {"localhost", "127.0.0.1", "::1", own.lower()}) or [own]
    query = "" if access.token is None else f"?token={access.token}"
    return [f"http://{f'[{name}]' if ':' in name else name}:{port}/{query}" for name in names]


def run(app: FastAPI, made: socket.socket) -> None:
    """Serve until SIGINT or SIGTERM."""
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=3, lifespan="off"
    )
    uvicorn.Server(config).run(sockets=[made])
