"""Who may reach the page: a password that cannot be tried out quickly, and no orders from other sites."""

from __future__ import annotations

import asyncio
import hmac
import time
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

DELAY = 1.0  # seconds that a wrong password waits, and that attempts are apart after several of them
WRONG, WINDOW = 5, 60.0  # wrong ones within so many seconds, after which attempts take turns
QUEUED = 30  # attempts that may wait for their turn; more are refused unread
SAFE = ("GET", "HEAD", "OPTIONS")


class Password:
    """Asks for one user's password. Its `check` is for Gradio's `auth`: of an object it would not await the answer.

    Attempts wait without holding up anything else. After several wrong ones all attempts take turns, the right one too:
    who tries many at once would otherwise know from a missing answer that it was wrong.

    Args:
        user, password: what is right.
    """

    def __init__(self, user: str, password: str) -> None:
        self._right = (user.encode(), password.encode())
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
        same = [hmac.compare_digest(a.encode(), b) for a, b in zip((user, password), self._right, strict=True)]
        if all(same):
            return True
        self._wrong.append(time.monotonic())
        await asyncio.sleep(DELAY)
        return False


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
