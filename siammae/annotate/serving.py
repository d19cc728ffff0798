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
            return _listen(host, one)
        except (OSError, UnicodeError) as error:
            if port is None and getattr(error, "errno", 0) == errno.EADDRINUSE:
                continue
            why = "it is taken" if getattr(error, "errno", 0) == errno.EADDRINUSE else str(error)
            raise OSError(
                f"cannot listen on port {one} of {host!r}: {why}. Choose another --port or --host."
            ) from error
    raise OSError(f"no free port on {host!r}.")


def _listen(host: str, port: int) -> socket.socket:
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    # The protocol by its name, or asyncio leaves Nagle's algorithm on: 40 ms for every small answer.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(128)
    except BaseException:
        listener.close()
        raise
    return listener


@contextmanager
def serving(app: ASGIApp, listener: socket.socket) -> Iterator[threading.Event]:
    """Serve an app on a socket for the time of the block; yields what is set when it ends by itself.

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
    ended = threading.Event()  # and not the thread's join(): Python marks a thread as dead whose join a signal breaks

    def run() -> None:
        try:
            server.run(sockets=[listener])
        finally:
            ended.set()

    threading.Thread(target=run, name="server", daemon=True).start()
    try:
        for _ in range(_PATIENCE * 50):
            if server.started or ended.wait(0.02):
                break
        if not server.started:
            raise RuntimeError("the server did not begin")
        yield ended
    finally:
        server.should_exit = True
        for _ in range(_PATIENCE):  # counted, so that a process that was suspended loses no patience
            if ended.wait(1):
                break
        listener.close()
