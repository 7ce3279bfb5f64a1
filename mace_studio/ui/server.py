"""How the page is served: who may reach it, and what a browser may load."""

from __future__ import annotations

import logging
import os
import traceback
from pathlib import Path
from typing import Any, cast

import fastapi
import gradio as gr
import starlette
from fastapi.exception_handlers import request_validation_exception_handler
from fastapi.exceptions import RequestValidationError
from gradio.route_utils import FnIndexInferError
from PIL import Image, UnidentifiedImageError
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mace_studio.errors import StudioError
from mace_studio.masks import MOST_PIXELS
from mace_studio.ui import api
from mace_studio.ui.access import BoundedBodies, Password, SameOriginOnly
from mace_studio.ui.gradio_compat import NamedEndpointsOnly, QuickOverlays
from mace_studio.ui.notices import UNEXPECTED
from mace_studio.ui.sessions import SessionCookie
from mace_studio.ui.theme import theme

log = logging.getLogger(__name__)

FOLDER = Path(__file__).parent
LOOPBACK = ("127.0.0.1", "localhost")
# An erasure of Stable Diffusion 1.x has 77 MB in float32, one of SDXL up to 1.4 GB.
# Erasures of real models are large; where many users share the disk, those of the built-in model are small.
LARGEST_UPLOAD, LARGEST_SHARED = "2gb", "20mb"
# Gradio's page needs inline scripts and styles, and compiles the templates of gr.HTML.
POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; style-src 'self' 'unsafe-inline'; "
    "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; font-src 'self' data:; connect-src 'self' data: blob:; "
    "worker-src 'self' blob:; base-uri 'self'; form-action 'self'; object-src 'none'"
)
HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}
# What a request that no page sends ends in: an event, component, icon or text that is none.
FOREIGN = (KeyError, FnIndexInferError, UnicodeDecodeError, RecursionError, UnidentifiedImageError)
NOT_SENT = "This request is not one that the page sends."
OWN = f"{Path(__file__).parents[1]}{os.sep}"
ROUTES = tuple(f"{Path(str(package.__file__)).parent}{os.sep}" for package in (gr, fastapi, starlette))
NO_FRAME = "'none'"
FRAMED_BY_THE_HUB = "'self' https://huggingface.co https://*.huggingface.co"


async def _not_understood(request: Request, error: Exception) -> Response:
    """What Gradio's routes fall over, unless the studio's own code is at fault."""
    files = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    last = next((file for file in reversed(files) if file.startswith((OWN, *ROUTES))), OWN)
    if last.startswith(OWN):
        return await _own_fault(request, error)
    log.info("a request was not understood", exc_info=error)
    return PlainTextResponse(NOT_SENT, status_code=400)


async def _own_fault(request: Request, error: Exception) -> Response:
    log.error("a request failed", exc_info=error)
    return PlainTextResponse(UNEXPECTED, status_code=500)


async def _invalid(request: Request, error: Exception) -> Response:
    """What is wrong with a request, for programs. JSON has no way to repeat a number that is not finite."""
    try:
        return await request_validation_exception_handler(request, cast(RequestValidationError, error))
    except ValueError:
        return PlainTextResponse(NOT_SENT, status_code=400)


HANDLERS = dict.fromkeys(FOREIGN, _not_understood) | {RequestValidationError: _invalid, Exception: _own_fault}


class SafeHeaders:
    """Middleware that adds `HEADERS` and the policy to every answer.

    Args:
        app: what it wraps.
        ancestors: which pages may show this one in a frame.
    """

    def __init__(self, app: ASGIApp, ancestors: str = NO_FRAME) -> None:
        self.app = app
        self.headers = HEADERS | {"content-security-policy": f"{POLICY}; frame-ancestors {ancestors}"}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *((k.encode(), v.encode()) for k, v in self.headers.items())]
            await send(message)

        await self.app(scope, receive, with_headers)


def launch(demo: gr.Blocks, host: str | None = None, shared: bool = False, **options: Any) -> None:
    """Serve the page.

    Args:
        demo: from `page.build`.
        host: address to listen on; Gradio's own choice (this machine only, or all on a Space) when None.
        shared: many users use it, in a frame of the hub's page: a Space.
        options: more of `Blocks.launch`, such as server_port and auth.
    """
    frames = FRAMED_BY_THE_HUB if shared else NO_FRAME
    middleware = [
        Middleware(SameOriginOnly, forwarded=shared),
        Middleware(NamedEndpointsOnly, names=api.NAMES),
        Middleware(SafeHeaders, ancestors=frames),
        Middleware(QuickOverlays),
    ]
    if shared:
        middleware += [Middleware(SessionCookie), Middleware(BoundedBodies)]
    if host in LOOPBACK:
        # A web page under another name must not reach a studio on this machine (DNS rebinding).
        middleware.insert(0, Middleware(TrustedHostMiddleware, allowed_hosts=list(LOOPBACK)))
    # Gradio decodes an image before a handler sees it; Pillow refuses one of twice as many pixels.
    Image.MAX_IMAGE_PIXELS = MOST_PIXELS // 2
    if options.get("auth"):
        options["auth"] = Password(*options["auth"]).check
    try:
        _launch(demo, host, shared, middleware, options)
    except OSError as error:
        port = options.get("server_port")
        where = f"port {port}" if port else "any port from 7860 on"
        raise StudioError(
            f"The page cannot be served at {host or LOOPBACK[0]}, {where}: it is in use by another program, or the "
            "address is not this machine's. Choose another one with --port and --host."
        ) from error


def _launch(
    demo: gr.Blocks, host: str | None, shared: bool, middleware: list[Middleware], options: dict[str, Any]
) -> None:
    demo.launch(
        server_name=host,
        theme=theme(),
        css_paths=FOLDER / "style.css",
        favicon_path=FOLDER / "icon.svg",
        app_kwargs={"middleware": middleware, "exception_handlers": HANDLERS},
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        share=False,
        ssr_mode=False,
        show_error=False,
        max_file_size=LARGEST_SHARED if shared else LARGEST_UPLOAD,
        **options,
    )
