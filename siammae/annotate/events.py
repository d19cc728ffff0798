"""What the server tells open pages by itself: a stream of events, as server-sent events define it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

_WAITING = 2000  # events that a page may lag behind; then it is told to look at everything anew
_BREATH = 15.0  # seconds after which a silent stream says that it still lives
_RETRY = 1000  # milliseconds after which a page whose server is gone asks for it again


class Events:
    """Passes events from any thread to all pages that listen."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._queues: set[asyncio.Queue[str]] = set()

    def notify(self, event: dict[str, Any]) -> None:
        """Tell all pages; from any thread."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._put, json.dumps(event))

    def _put(self, text: str) -> None:
        for queue in self._queues:
            if queue.full():
                while not queue.empty():
                    queue.get_nowait()
                text = json.dumps({"type": "lagging"})
            queue.put_nowait(text)

    async def stream(self) -> AsyncIterator[str]:
        """Yield events for one page, until it goes."""
        self._loop = asyncio.get_running_loop()
        queue: asyncio.Queue[str] = asyncio.Queue(_WAITING)
        self._queues.add(queue)
        try:
            yield f": connected\nretry: {_RETRY}\n\n"
            while True:
                try:
                    text = await asyncio.wait_for(queue.get(), _BREATH)
                except TimeoutError:
                    yield ": still here\n\n"
                    continue
                yield f"data: {text}\n\n"
        finally:
            self._queues.discard(queue)
