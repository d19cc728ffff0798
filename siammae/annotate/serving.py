"""A server that runs until a signal comes, in a thread: signals belong to the command."""

from __future__ import annotations

import errno
import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp

DEFAULT_PORT, _TRIES = 8765, 20
_PATIENCE = 20  # seconds for the server to begin and to end


def bind(host: str, port: int | None) -> socket.socket:
    """Return a socket that listens.

    Args:
        host: name or address.
        port: 0 = any free one; None = 8765, or one of the next where it is taken.

    Raises:
        OSError: the port is taken, or the host is none of this machine.
    """
    ports = [port] if port is not None else [*range(DEFAULT_PORT, DEFAULT_PORT + _TRIES), 0]
    for one in ports:
        try:
            family = socket.getaddrinfo(host, one, type=socket.SOCK_STREAM)[0][0]
            return socket.create_server((host, one), family=family, backlog=128)
        except (OSError, UnicodeError) as error:
            if port is None and getattr(error, "errno", 0) == errno.EADDRINUSE:
                continue
            why = "it is taken" if getattr(error, "errno", 0) == errno.EADDRINUSE else str(error)
            raise OSError(
                f"cannot listen on port {one} of {host!r}: {why}. Choose another --port or --host."
            ) from error
    raise OSError(f"no free port on {host!r}.")


@contextmanager
def serving(app: ASGIApp, listener: socket.socket) -> Iterator[threading.Thread]:
    """Serve an app on a socket for the time of the block; yields the thread, which ends only if the server fails.

    Raises:
        RuntimeError: it does not begin.
    """
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # what is of use to a person is said by the page
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="off",
        ws="none",
        timeout_graceful_shutdown=1,
        server_header=False,
    )
    server = uvicorn.Server(config)
    began = threading.Event()

    def run() -> None:
        try:
            server.run(sockets=[listener])
        finally:
            began.set()

    thread = threading.Thread(target=run, name="server", daemon=True)
    thread.start()
    try:
        for _ in range(_PATIENCE * 50):
            if server.started or began.wait(0.02):
                break
        if not server.started:
            raise RuntimeError("the server did not begin")
        yield thread
    finally:
        server.should_exit = True
        for _ in range(_PATIENCE):  # counted, so that a process that was suspended loses no patience
            thread.join(1)
            if not thread.is_alive():
                break
        listener.close()
