"""Whose erasures are whose, on a page that many share: a random cookie tells users apart."""

from __future__ import annotations

import hashlib
import os
import uuid
from http.cookies import CookieError, SimpleCookie
from typing import Any

from gradio.context import LocalContext
from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "mace-visitor"
# The page of a Space is a frame inside another site's page, where only such a cookie comes back.
ATTRIBUTES = f"Path=/; Max-Age={30 * 24 * 3600}; HttpOnly; Secure; SameSite=None; Partitioned"


def folder() -> str | None:
    """The name of a folder for the user who caused the event that is being answered; None outside of events.

    It cannot be guessed. Without the cookie, as in a browser that takes none, it lasts for one visit; without a visit,
    as of a program that takes none, for one call.
    """
    request = LocalContext.request.get(None)
    if request is None:
        return None
    token = request.cookies.get(COOKIE) or request.session_hash or uuid.uuid4().hex
    return hashlib.sha256(token.encode()).hexdigest()[:32]


def machine() -> str:
    """From which address the event that is being answered came; "" outside of events.

    On a Space the hub's own proxy puts it at the end of a header, of which a client can write the rest.
    """
    request = LocalContext.request.get(None)
    return "" if request is None else machine_of(request)


def machine_of(request: Any) -> str:
    """The same of a request of Gradio or of FastAPI."""
    forwarded = request.headers.get("x-forwarded-for", "") if "SPACE_ID" in os.environ else ""
    host = request.client.host if request.client else ""
    return forwarded.rpartition(",")[2].strip() or str(host)


def address() -> str:
    """The address of the page, as the user who caused the event reached it; ends in a slash."""
    request = LocalContext.request.get(None)
    return "/" if request is None else str(request.base_url)


class SessionCookie:
    """Middleware that gives a user without a cookie one."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        has_cookie = scope["type"] != "http" or _has_cookie(scope)

        async def with_cookie(message: Message) -> None:
            if message["type"] == "http.response.start" and not has_cookie:
                cookie = f"{COOKIE}={uuid.uuid4().hex}; {ATTRIBUTES}"
                message["headers"] = [*message["headers"], (b"set-cookie", cookie.encode())]
            await send(message)

        await self.app(scope, receive, with_cookie)


def _has_cookie(scope: Scope) -> bool:
    sent = b"; ".join(value for name, value in scope["headers"] if name == b"cookie").decode("latin-1")
    try:
        return COOKIE in SimpleCookie(sent)
    except CookieError:
        return False
