"""The terminal and the network that the studio finds itself in. Standard library alone."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TextIO, cast
from urllib.parse import urlsplit

from mace_studio.errors import StudioError

LOOPBACK = ("127.0.0.1", "localhost", "::1", "0.0.0.0")
SCHEMES = ("http", "https", "socks5", "socks5h")  # of a proxy, that httpx knows
PROXIES = ("http_proxy", "https_proxy", "all_proxy")


class Unheard:
    """A stream for progress and remarks, which nobody may read: what cannot be written to it is dropped.

    Args:
        stream: what is written to.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError):  # a full disk, a reader that is gone; a stream that is closed
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def make_console_forgiving() -> None:
    """Let no terminal end the program.

    It shows “?” for what its encoding (cp1252, cp932, ASCII) lacks. Progress that cannot be written is dropped, and so
    is everything where there is no terminal at all.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - as long as the process lives
        if hasattr(stream := getattr(sys, name), "reconfigure"):
            stream.reconfigure(errors="replace")
    if not isinstance(sys.stderr, Unheard):
        sys.stderr = cast(TextIO, Unheard(sys.stderr))


def prepare_network(host: str | None = None) -> None:
    """Let no proxy stand between this machine and itself: the page asks its own server whether it is up.

    Args:
        host: where the page is to be served.

    Raises:
        StudioError: a proxy is set of a kind that cannot be used, or whose package is missing, or there is no such
            place to serve the page at.
    """
    _check_address(host)
    own = (*LOOPBACK, *([host] if host and host not in LOOPBACK else []))
    for name in ("no_proxy", "NO_PROXY"):
        listed = [one for one in os.environ.get(name, "").split(",") if one.strip()]
        os.environ[name] = ",".join([*listed, *(one for one in own if one not in listed)])
    for name in (*PROXIES, *(name.upper() for name in PROXIES)):
        address = os.environ.get(name, "").strip().lower()
        scheme, there, _ = address.partition("://")
        if there and scheme not in SCHEMES:
            raise StudioError(
                f"{name} names a proxy of the kind “{scheme}”, which cannot be used; give one of {', '.join(SCHEMES)}, "
                "or unset the variable, if no proxy is needed."
            )
        if there and scheme.startswith("socks") and not find_spec("socksio"):
            raise StudioError(
                f"{name} names a SOCKS proxy, which needs a package that is not installed: pip install "
                "'httpx[socks]'. Or unset the variable, if no proxy is needed."
            )
        try:
            _ = urlsplit(address if there else f"http://{address}").port
        except ValueError as error:  # such as half of an IPv6 address
            raise StudioError(
                f"{name} is no address of a proxy; mend it, such as http://name:8080, or unset it."
            ) from error


def _check_address(host: str | None) -> None:
    """Raise a StudioError for what Gradio, which reads the variable, takes for no address."""
    if host and any(sign in host for sign in ":/[] "):
        raise StudioError(
            f"The page cannot be served at {host}: --host takes a name or an address such as 127.0.0.1, without a port "
            "(--port has that) and not of IPv6."
        )
    port = os.environ.get("GRADIO_SERVER_PORT", "").strip()
    if port and not (port.isdecimal() and 1 <= int(port[:9]) <= 65535):
        raise StudioError(
            f"GRADIO_SERVER_PORT is {port[:80]}; a port is a number from 1 to 65535. Unset it, or mend it."
        )


def devices() -> list[str]:
    """The devices that are worth offering, "auto" first, as far as can be told without PyTorch, which takes seconds.

    `sd.devices.checked` has the last word.
    """
    cuda = "+cpu" not in version("torch") and (Path("/dev/nvidia0").exists() or shutil.which("nvidia-smi") is not None)
    mps = platform.system() == "Darwin" and platform.machine() == "arm64"
    return ["auto", *(["cuda"] if cuda else []), *(["mps"] if mps else []), "cpu"]


@contextmanager
def errors_in_sentences() -> Iterator[None]:
    """End the program with the sentence of a StudioError that is raised inside the `with` block."""
    try:
        yield
    except StudioError as error:
        sys.exit(f"Error: {error}")
