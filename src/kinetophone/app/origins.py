"""Refuse requests that pages of other sites send from the user's browser.

The server's own page and other programs are allowed.
"""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

_LOOPBACK = ("localhost", "127.0.0.1", "::1")

Scope = MutableMapping[str, Any]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class OwnOrigin:
    """ASGI middleware that refuses all requests from pages of other sites.

    Browsers send the page's site in ``Origin``, and ``Sec-Fetch-Site: cross-site`` for other sites. If the
    server listens on a loopback address, ``Host`` must be one too. This prevents DNS rebinding, where an
    attacker's host name resolves to the loopback address.

    Args:
        app: the ASGI app to protect.
        host: address that the server listens on.
    """

    def __init__(self, app: Any, host: str) -> None:
        self.app, self.is_loopback = app, host in _LOOPBACK

    async def __call__(self, scope: Scope, receive: Any, send: Send) -> None:
        """Handle or refuse a request."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = {
            name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]
        }
        if (why := self.refusal(headers)) is not None:
            await _answer(scope, send, 403, why)
            return
        begun = False

        async def watched(message: MutableMapping[str, Any]) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self.app(scope, receive, watched)
        except OSError as error:
            if begun or error.errno != errno.ENOSPC:
                raise
            await _answer(scope, send, 507, "the server's disk is full; try again later")

    def refusal(self, headers: dict[str, str]) -> str | None:
        """The reason to refuse a request with these headers; None if it is allowed."""
        host = headers.get("host", "")
        if self.is_loopback and _name(f"//{host}") not in _LOOPBACK:
            return f"this server is not called '{host}'"
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != headers.get("x-forwarded-host", host):
            return f"requests from pages of '{origin}' are refused"
        navigates = (
            headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
        )
        if headers.get("sec-fetch-site") == "cross-site" and not navigates:
            return "requests from pages of other sites are refused"
        return None


def _name(address: str) -> str | None:
    try:
        return urlsplit(address).hostname
    except ValueError:
        return None


async def _answer(scope: Scope, send: Send, status: int, text: str) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008, "reason": text})
        return
    content = [(b"content-type", b"text/plain; charset=utf-8")]
    await send({"type": "http.response.start", "status": status, "headers": content})
    await send({"type": "http.response.body", "body": text.encode()})
