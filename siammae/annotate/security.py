"""Who may talk to the server: pages that it served itself, on this machine or with the token.

A page of another site can make a browser send requests to this machine. It cannot read the answers, unless its own
name is made to lead here (DNS rebinding): so the name in the header Host must be one of this machine's. And what
changes something must come from a page of the same origin, by the headers Origin and Sec-Fetch-Site.
"""

from __future__ import annotations

import ipaddress
import secrets
import socket
from collections.abc import Collection
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "siammae-token"
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}


def is_loopback(host: str) -> bool:
    """Say whether a host is this machine's own, which no other can reach."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Guard:
    """Lets requests through to an app, or refuses them with an error as JSON.

    Args:
        app: what is guarded.
        host: that the server listens on.
        token: that is required, in a cookie or once in the address; None where no other machine can reach the server.
        most: bytes of a request.
    """

    def __init__(self, app: ASGIApp, *, host: str, token: str | None, most: int) -> None:
        self._app, self._token, self._most = app, token, most
        self._names = _own_names(host) if token is not None else _LOOPBACK

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Guard a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def sealed(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
            await send(message)

        refusal = self._refuse(scope)
        if refusal is not None:
            await refusal(scope, receive, sealed)
            return
        await self._app(scope, self._bounded(receive), sealed)

    def _refuse(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if not self._is_ours(host):
            return _error(403, "the name in the address is not one of this machine: open the address that was printed.")
        origin = headers.get("origin")
        foreign = headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none")
        if (origin is not None and origin != f"http://{host}") or (foreign and not _is_visit(scope, headers)):
            return _error(403, "this request comes from another site's page.")
        try:
            length = int(headers.get("content-length", "0"))
        except ValueError:
            return _error(400, "content-length is no number.")
        if length > self._most:
            return _error(413, f"the request has {length} bytes: at most {self._most} are taken.")
        return None if self._token is None else self._without_token(scope, headers, self._token)

    def _without_token(self, scope: Scope, headers: Headers, token: str) -> Response | None:
        """Refuse who has no token; who brings it in the address gets it as a cookie, and an address without it."""
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if scope["path"] == "/" and _same(given, token):
            response = RedirectResponse("/", status_code=303)
            response.set_cookie(COOKIE, token, httponly=True, samesite="strict")
            return response
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            cookie = None
        if cookie is not None and _same(cookie.value, token):
            return None
        return _error(401, "a token is needed: open the address that siammae annotate printed, with its token.")

    def _bounded(self, receive: Receive) -> Receive:
        """Count what comes without a length."""
        taken = 0

        async def bounded() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > self._most:
                raise TooLargeError(f"the request has more than {self._most} bytes.")
            return message

        return bounded

    def _is_ours(self, host: str) -> bool:
        try:
            name = urlsplit(f"http://{host}").hostname or ""
        except ValueError:
            return False
        if name in self._names:
            return True
        # A name can be made to lead here, an address of this network cannot; it is only let in with the token.
        return self._token is not None and _is_address(name)


class TooLargeError(ValueError):
    """A request is larger than anything that the page sends."""


def new_token() -> str:
    """Return a token that no one can guess."""
    return secrets.token_urlsafe(24)


def _own_names(host: str) -> Collection[str]:
    return _LOOPBACK | {host.lower(), socket.gethostname().lower(), socket.getfqdn().lower()}


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_visit(scope: Scope, headers: Headers) -> bool:
    """Say whether a link from elsewhere only opens the page, which changes nothing."""
    return scope["method"] == "GET" and scope["path"] == "/" and headers.get("sec-fetch-mode") == "navigate"


def _same(one: str, other: str) -> bool:
    return secrets.compare_digest(one.encode(), other.encode())


def _error(status: int, message: str) -> Response:
    return JSONResponse({"error": message}, status_code=status)
