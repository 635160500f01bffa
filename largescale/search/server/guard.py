"""Who may ask, and how much they may send: checked before a request is read.

A page of another site that the user has open may send requests to this machine too. Their `Origin` tells them; a name that leads
to this machine's address (DNS rebinding) is told by `Host`.
"""

import asyncio
import json
import secrets
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from largescale.search.server.metrics import Metrics

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]
LOOPBACK = {"127.0.0.1", "localhost", "::1"}
OPEN = {"/", "/page.css", "/page.js", "/icon.svg"}
"""The page itself, which holds no data, needs no token."""
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


class RefusedError(Exception):
    """A request that is not answered: its HTTP status and a sentence."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Guard:
    """
    Args:
        token: what every request must bring (`Authorization: Bearer ...`); None on loopback.
        max_bytes: of a request.
        timeout_s: for sending it.
    """

    def __init__(self, app: App, token: str | None, max_bytes: int, timeout_s: float, metrics: Metrics) -> None:
        self.app, self.token, self.max_bytes, self.timeout_s, self.metrics = app, token, max_bytes, timeout_s, metrics

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        answer = _Answer(send)
        start = time.perf_counter()
        try:
            headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
            self._check(scope, headers)
            await self.app(scope, self._bounded(receive, answer), answer)
            if answer.refused is not None:
                raise answer.refused
        except RefusedError as error:
            await answer.refuse(error)
        finally:
            self.metrics.count(scope["path"], answer.status or 500, time.perf_counter() - start)

    def _check(self, scope: Message, headers: dict[str, str]) -> None:
        host = urlsplit(f"//{headers.get('host', '')}")
        if self.token is None and host.hostname not in LOOPBACK:
            raise RefusedError(
                403, f"this server answers to {', '.join(sorted(LOOPBACK))} only, and was asked as {host.netloc!r}"
            )
        origin = headers.get("origin")
        other = origin is not None and urlsplit(origin).netloc != host.netloc
        if (other or headers.get("sec-fetch-site") in ("cross-site", "same-site")) and scope["path"] not in OPEN:
            raise RefusedError(403, "a page of another site may not ask here")
        if self.token is not None and scope["path"] not in OPEN:
            kind, _, given = headers.get("authorization", "").partition(" ")
            if kind.lower() != "bearer" or not secrets.compare_digest(given.strip().encode(), self.token.encode()):
                raise RefusedError(401, "this server needs its token: send the header Authorization: Bearer TOKEN")
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > self.max_bytes:
            raise self._too_large()

    def _too_large(self) -> RefusedError:
        return RefusedError(
            413, f"a request may have {self.max_bytes / 2**20:g} MiB (max_mb); this one has more: send smaller pictures"
        )

    def _bounded(self, receive: Receive, answer: "_Answer") -> Receive:
        """Stops reading what is too large, or too slow, whatever its header says."""
        read, deadline, whole = 0, time.monotonic() + self.timeout_s, False

        async def bounded() -> Message:
            nonlocal read, whole
            if whole:  # what follows the request is that the client leaves
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), max(0.0, deadline - time.monotonic()))
            except TimeoutError:
                answer.refused = RefusedError(408, f"the request was not sent within {self.timeout_s:g} seconds")
                raise answer.refused from None
            read += len(message.get("body", b""))
            if read > self.max_bytes:
                answer.refused = self._too_large()
                raise answer.refused
            whole = message["type"] == "http.request" and not message.get("more_body", False)
            return message

        return bounded


class _Answer:
    """Passes an answer on, with the headers that all have."""

    def __init__(self, send: Send) -> None:
        self.send, self.status = send, 0
        self.refused: RefusedError | None = None
        """Why the request was not read to its end: what the application makes of that is not sent."""

    async def __call__(self, message: Message) -> None:
        if self.refused is not None:
            return
        if message["type"] == "http.response.start":
            self.status = message["status"]
            extra = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
            message = {**message, "headers": [*message.get("headers", []), *extra]}
        await self.send(message)

    async def refuse(self, error: RefusedError) -> None:
        if self.status:
            return
        self.refused, body = None, json.dumps({"error": str(error)}).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        if error.status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        await self({"type": "http.response.start", "status": error.status, "headers": headers})
        await self({"type": "http.response.body", "body": body})
