"""Text of users' files, and files that are written whole or not at all. Standard library alone."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mace_studio.errors import FileError

MARKS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16", b"\x00\x00\xfe\xff": "UTF-32"}
SEPARATOR = re.compile(r"\s*\"?sep=(.)\"?[^\S\n]*(?:\r?\n|\r|$)", re.IGNORECASE)


def decoded(data: bytes, name: str = "This file") -> str:
    """The text in a file's bytes: UTF-8, with or without the byte order mark that Windows writes.

    Raises:
        FileError: it is in another encoding.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        other = next((called for mark, called in MARKS.items() if data.startswith(mark)), "")
        what = f"is {other} text" if other else "is not text in UTF-8"
        raise FileError(f"{name} {what}; save it as UTF-8 and try again.") from error


def read(path: Path) -> str:
    """The text of a file.

    Raises:
        FileError: it cannot be read, or is not in UTF-8.
    """
    try:
        return decoded(path.read_bytes(), path.name)
    except FileNotFoundError as error:
        raise FileError(f"There is no file {path}.") from error
    except OSError as error:
        raise FileError(f"{path} cannot be read: {error.strerror or error}.") from error


def table(text: str) -> tuple[str, str]:
    """The text of a CSV file and what parts its cells.

    Spreadsheets begin a file with a line such as `sep=;`, which is taken off; without it the first line tells.
    """
    text = text.lstrip("\ufeff \t\r\n")
    if found := SEPARATOR.match(text):
        return text[found.end() :], found[1]
    first = text.partition("\n")[0]
    return text, max(",;\t", key=first.count)


def broken(text: str) -> bool:
    """Whether a text holds half of a character (a lone surrogate), which no file and no console can take."""
    return any("\ud800" <= character <= "\udfff" for character in text)


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A path beside `path`, with its suffix, to write to; it takes the place of `path` when the block ends well.

    So nobody finds half a file under its final name, whatever ends the process. The folder is made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{os.getpid()}-", suffix=path.suffix)
    os.close(handle)
    part = Path(name)
    try:
        yield part
        part.chmod(0o666 & ~_umask())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write(path: Path, text: str) -> None:
    """Write a text whole, in UTF-8."""
    with whole(path) as part:
        part.write_text(text, encoding="utf-8")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
