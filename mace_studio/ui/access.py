"""Who may reach the page, and with how much: passwords, orders from other sites, sizes of requests and uploads."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections import Counter, deque
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mace_studio.ui.sessions import machine_of

DELAY = 1.0  # seconds that a wrong password waits, and that attempts are apart after several of them
WRONG, WINDOW = 5, 60.0  # wrong ones within so many seconds, after which attempts take turns
QUEUED = 30  # attempts that may wait for their turn; more are refused unread
SAFE = ("GET", "HEAD", "OPTIONS")
BODY = 21 * 2**20  # bytes of a request, above those of the largest upload of a shared studio
# Bytes that one machine, and all, may upload within so many seconds, after which `page.UPLOADS` has removed them; so
# many count for the folder of each.
EACH, ALL, DAY, LEAST = 300 * 2**20, 5 * 2**30, 24 * 3600.0, 2**16


class Password:
    """Asks for one user's password. Its `check` is for Gradio's `auth`: of an object it would not await the answer.

    Attempts wait without holding up anything else. After several wrong ones all attempts take turns, the right one too:
    who tries many at once would otherwise know from a missing answer that it was wrong.

    Args:
        user, password: what is right.
    """

    def __init__(self, user: str, password: str) -> None:
        self._right = (_bytes(user), _bytes(password))
        self._wrong: list[float] = []
        self._next = 0.0
        self._waiting = 0

    async def check(self, user: str, password: str) -> bool:
        """Whether both are right, after a while."""
        now = time.monotonic()
        self._wrong = [at for at in self._wrong if now - at < WINDOW]
        if len(self._wrong) >= WRONG:
            if self._waiting >= QUEUED:
                return False
            self._next = max(now, self._next) + DELAY
            self._waiting += 1
            try:
                await asyncio.sleep(self._next - now)
            finally:
                self._waiting -= 1
        same = [hmac.compare_digest(_bytes(a), b) for a, b in zip((user, password), self._right, strict=True)]
        if all(same):
            return True
        self._wrong.append(time.monotonic())
        await asyncio.sleep(DELAY)
        return False


def _bytes(text: str) -> bytes:
    """Of any text: a variable or a request may hold halves of characters (lone surrogates)."""
    return text.encode("utf-8", "surrogatepass")


class BoundedBodies:
    """Middleware that stops a request that is too large, and uploads that are too many for the disk.

    Gradio bounds each file of an upload alone: not their number, nor the size of an event.

    Args:
        app: what it wraps.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._uploads: deque[_Upload] = deque()
        self._held: Counter[str] = Counter()  # machine -> bytes of its uploads

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in SAFE:
            await self.app(scope, receive, send)
            return
        upload, size = None, 0

        async def counted() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > BODY:
                raise _Refused(413, f"This request is too large; {BODY / 2**20:.0f} MB are the most.")
            if upload is not None:
                self._count(upload, size)
            return message

        try:
            if scope["path"].rstrip("/").endswith("/upload"):
                upload = self._begun(machine_of(Request(scope)))
            await self.app(scope, counted, send)
        except _Refused as refused:
            await PlainTextResponse(refused.sentence, status_code=refused.status)(scope, receive, send)

    def _begun(self, machine: str) -> _Upload:
        now = time.monotonic()
        while self._uploads and now - self._uploads[0].at > DAY:
            old = self._uploads.popleft()
            self._held[old.machine] -= old.size
        self._held = +self._held  # without machines that hold nothing any more
        self._check(machine)
        upload = _Upload(now, machine)
        self._uploads.append(upload)
        self._count(upload, 0)
        return upload

    def _count(self, upload: _Upload, size: int) -> None:
        """Let an upload count as so many bytes, and some for its folder."""
        self._held[upload.machine] += LEAST + size - upload.size
        upload.size = LEAST + size
        self._check(upload.machine)

    def _check(self, machine: str) -> None:
        if self._held[machine] > EACH or self._held.total() > ALL:
            raise _Refused(429, f"{EACH / 2**20:.0f} MB can be uploaded here within a day; try again tomorrow.")


@dataclass
class _Upload:
    at: float
    machine: str
    size: int = 0


class _Refused(Exception):
    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status, self.sentence = status, sentence


class SameOriginOnly:
    """Middleware that refuses what a page of another site asks for in a user's browser, uploads among it.

    A browser names the site in the header Origin of such a request; programs send none.

    Args:
        app: what it wraps.
        forwarded: a proxy of the host's own names the address that the browser knows in X-Forwarded-Host.
    """

    def __init__(self, app: ASGIApp, forwarded: bool = False) -> None:
        self.app, self.forwarded = app, forwarded

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] not in SAFE and not self._own(Headers(scope=scope)):
            answer = PlainTextResponse("Another site cannot ask for this.", status_code=403)
            await answer(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def _own(self, headers: Headers) -> bool:
        origin = headers.get("origin")
        if origin is None:
            return True
        hosts = [headers.get("host", "")]
        hosts += [headers["x-forwarded-host"]] if self.forwarded and "x-forwarded-host" in headers else []
        scheme = origin.partition("://")[0]
        asked = _address(origin)
        return bool(asked[0]) and asked in {_address(f"{scheme}://{host}") for host in hosts}


def _address(url: str) -> tuple[str, int | None]:
    """Host and port, of which each scheme has a usual one; nothing of what is no address, such as the origin "null"."""
    try:
        parts = urlsplit(url)
        return parts.hostname or "", parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        return "", None
