"""The web server: which address leads to which method of the session. No address names a file."""

from __future__ import annotations

import logging
import re
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from importlib import resources
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

from anyio import CapacityLimiter, to_thread
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from siammae.annotate.exporting import OVERLAY, writable_formats
from siammae.annotate.following import BusyError
from siammae.annotate.opening import EXPORTS
from siammae.annotate.security import Guard, TooLargeError
from siammae.annotate.session import ACTIONS, Session
from siammae.annotate.values import Values
from siammae.errors import VideoReadError, one_line

_log = logging.getLogger(__name__)
_KINDS = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
_ROOM = 2_000_000  # bytes of a request beyond a whole frame of pixels
_BLOCK = 2**18
_WORKERS = 4  # threads: each keeps some memory for itself
_NUMBER = re.compile("[0-9]{1,9}")
_FRESH = {"cache-control": "no-store"}
_STATUS: tuple[tuple[type[Exception], int], ...] = (
    (TooLargeError, 413),
    (BusyError, 409),
    (BlockingIOError, 409),
    (VideoReadError, 422),
    (IndexError, 404),
    (ValueError, 400),
    (ImportError, 400),
    (OSError, 507),
)


class Asked(NamedTuple):
    """What a request says.

    Attributes:
        number: in the address, of a frame or an object.
        name: in the address, of an export.
        values: in the body, or for pixels in the address.
        body: pixels.
        looked: the frame that is looked at, where this one is only wanted as its neighbour; else None.
    """

    number: int
    name: str
    values: Values
    body: bytes
    looked: int | None


Answer = Callable[[Session, Asked], Any]


def make_app(session: Session, *, host: str, token: str | None) -> ASGIApp:
    """Return the application.

    Args:
        session: that it serves.
        host: that it listens on.
        token: see :class:`Guard`.
    """
    page, workers = _page_files(), CapacityLimiter(_WORKERS)

    async def static(request: Request) -> Response:
        name = request.path_params.get("name", "index.html")
        if name not in page:
            raise HTTPException(404, "there is no such page.")
        return Response(page[name], media_type=_KINDS[Path(name).suffix], headers={"cache-control": "no-cache"})

    async def events(request: Request) -> Response:
        return StreamingResponse(session.events.stream(), media_type="text/event-stream", headers=_FRESH)

    def on(path: str, answer: Answer, method: Literal["GET", "POST"] = "POST", *, pixels: bool = False) -> Route:
        async def endpoint(request: Request) -> Response:
            body, client = await request.body(), request.headers.get("x-client", "")
            values = Values(dict(request.query_params), client) if pixels else Values.parse(body, client)
            number, name = min(request.path_params.get("number", 0), 10**9), request.path_params.get("name", "")
            looked = request.headers.get("x-looked", "")
            asked = Asked(number, name, values, body, int(looked) if _NUMBER.fullmatch(looked) else None)
            result = await to_thread.run_sync(answer, session, asked, limiter=workers)
            return result if isinstance(result, Response) else JSONResponse(result, headers=_FRESH)

        return Route(path, endpoint, methods=[method])

    frame = "/api/frames/{number:int}"
    routes = [
        Route("/", static),
        Route("/page/{name}", static),
        Route("/api/events", events),
        on("/api/project", lambda s, _: s.overview(), "GET"),
        on("/api/attention", lambda s, _: s.attention(), "GET"),
        on(f"{frame}/image", _image, "GET"),
        on(f"{frame}/labels", _labels, "GET"),
        on(f"{frame}/paint", lambda s, asked: s.paint(asked.number, asked.values, asked.body), pixels=True),
        on(f"{frame}/cut", lambda s, asked: s.cut(asked.number, asked.values)),
        on(f"{frame}/point", lambda s, asked: s.point(asked.number, asked.values)),
        *(on(f"{frame}/{action}", partial(_act, action)) for action in ACTIONS),
        on("/api/objects", lambda s, asked: s.add_object(asked.values)),
        on("/api/objects/{number:int}", lambda s, asked: s.change_object(asked.number, asked.values)),
        on("/api/joints", lambda s, asked: s.change_joints(asked.values)),
        on("/api/follow", lambda s, asked: s.follow(asked.values)),
        on("/api/cancel", lambda s, _: s.cancel()),
        on("/api/export", lambda s, asked: s.export(asked.values)),
        on("/api/exports/{name}", _download, "GET"),
    ]
    handlers: dict[Any, Any] = {HTTPException: _refused, Exception: _failed}
    handlers |= dict.fromkeys((kind for kind, _ in _STATUS), _failed)
    app = Starlette(routes=routes, exception_handlers=handlers)
    height, width = session.project.size
    return Guard(app, host=host, token=token, most=height * width + _ROOM)


def _page_files() -> dict[str, bytes]:
    """Read the files of the page, by their names: nothing else is ever handed out."""
    folder = resources.files("siammae.annotate") / "page"
    return {entry.name: entry.read_bytes() for entry in folder.iterdir() if Path(entry.name).suffix in _KINDS}


def _act(action: str, session: Session, asked: Asked) -> Any:  # noqa: ANN401 -- JSON
    return session.act(asked.number, action, asked.values)


def _image(session: Session, asked: Asked) -> Response:
    pictures, looked = session.pictures, asked.looked
    data = pictures.jpeg(asked.number) if looked is None else pictures.neighbour(asked.number, looked)
    if data is None:
        return Response(status_code=204, headers=_FRESH)
    # The page adds the video's checksum to the address: a picture never changes.
    return Response(data, media_type="image/jpeg", headers={"cache-control": "private, max-age=86400, immutable"})


def _labels(session: Session, asked: Asked) -> Response:
    return Response(session.labels(asked.number), media_type="application/octet-stream", headers=_FRESH)


def _download(session: Session, asked: Asked) -> Response:
    """Hand out an export by its name, which is one of a few: a folder as a ZIP."""
    name = asked.name
    known = {OVERLAY, *(one.name + one.suffix for one in writable_formats())}
    path = session.project.folder / EXPORTS / name if name in known else None
    if path is None or not path.exists():
        raise HTTPException(404, "there is no such export: make it first.")
    file: IO[bytes] = path.open("rb") if path.is_file() else _zipped(path)
    shown = name if path.is_file() else f"{name}.zip"
    return StreamingResponse(
        _blocks(file),
        media_type="application/octet-stream",
        headers={"content-disposition": f'attachment; filename="{shown}"', **_FRESH},
    )


def _zipped(folder: Path) -> IO[bytes]:
    file = tempfile.TemporaryFile(prefix="siammae-")  # noqa: SIM115 -- closed once it is sent
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and not path.is_symlink() and not path.name.startswith("."):
                archive.write(path, f"{folder.name}/{path.relative_to(folder).as_posix()}")
    file.seek(0)
    return file


def _blocks(file: IO[bytes]) -> Iterator[bytes]:
    with file:
        while block := file.read(_BLOCK):
            yield block


async def _refused(_: Request, error: HTTPException) -> Response:
    return JSONResponse({"error": error.detail}, status_code=error.status_code)


async def _failed(request: Request, error: Exception) -> Response:
    """Say what went wrong in one sentence; the server's log has the rest of what is a mistake of siammae."""
    if isinstance(error, ClientDisconnect):
        return Response(status_code=499)
    status = next((status for kind, status in _STATUS if isinstance(error, kind)), 500)
    if status == 500:
        _log.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return JSONResponse({"error": f"internal error: {type(error).__name__}: {one_line(error)}"}, status_code=500)
    return JSONResponse({"error": one_line(error, 1000)}, status_code=status)
