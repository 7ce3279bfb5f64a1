"""Text of users' files, and files that are written whole or not at all. Standard library alone."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
import tempfile
import time
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mace_studio.errors import FileError

MARKS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16", b"\x00\x00\xfe\xff": "UTF-32"}
PART = ".part"
ABANDONED = 24 * 3600.0  # seconds after which an unfinished file of another machine counts as abandoned
# Byte order marks, joints and hyphens without width, and signs of the direction; those that join letters stay.
MARKS_WITHOUT_WIDTH = "\u00ad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff\ufff9-\ufffb"
BROKEN = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff]")  # control characters but blanks
UNSEEN = re.compile(f"[{MARKS_WITHOUT_WIDTH}]")
NOTE = 2**24  # bytes of a note that are read
SEPARATOR = re.compile(r"\s*\"?sep *= *(.)\"?[^\S\n]*(?:\r?\n|\r|$)", re.IGNORECASE)


def decoded(data: bytes, name: str = "This file") -> str:
    """The text in a file's bytes: UTF-8, with or without the byte order mark that Windows writes.

    Raises:
        FileError: it is in another encoding.
    """
    try:
        text = data.decode("utf-8-sig")
        if "\0" in text:  # as of UTF-16 without its mark, or no text at all
            raise UnicodeDecodeError("utf-8", data, 0, 1, "a null character")
        return text
    except UnicodeDecodeError as error:
        other = next((called for mark, called in MARKS.items() if data.startswith(mark)), "")
        what = f"is {other} text" if other else "is not text in UTF-8"
        raise FileError(f"{name} {what}; save it as UTF-8 and try again.") from error


def read(path: Path) -> str:
    """The text of a file.

    Raises:
        FileError: it cannot be read, or is not in UTF-8.
    """
    if os.path.exists(path) and not os.path.isfile(path):  # to open a pipe would wait for its writer
        raise FileError(f"{path} cannot be read: it is no file.")
    try:
        return decoded(path.read_bytes(), path.name)
    except FileNotFoundError as error:
        raise FileError(f"There is no file {path}.") from error
    except OSError as error:
        raise FileError(f"{path} cannot be read: {error.strerror or error}.") from error


def note(path: Path) -> Any:
    """What a small JSON file of our own holds; None where it is missing, damaged, too large, or no file but a pipe."""
    try:
        if not path.is_file() or path.stat().st_size > NOTE:
            return None
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):  # ValueError: also a number of thousands of digits
        return None


def table(text: str) -> tuple[str, str]:
    """The text of a CSV file and what parts its cells.

    Spreadsheets begin a file with a line such as `sep=;`, which is taken off; without it the first line tells.
    """
    text = visible(text)  # a mark may stand behind the first line, too
    if found := SEPARATOR.match(text):
        return text[found.end() :], found[1]
    first = next((line for line in text.splitlines() if line.strip()), "")
    most = max(",;\t", key=first.count)
    return text, most if most in first or "|" not in first else "|"  # bars part synonyms, where there is another sign


def markdown(text: str) -> str:
    """A text that cannot break out of its place in Markdown: no line break, no column, no markup, no HTML."""
    flat = " ".join(text.split())
    return "".join("\\" + c if c in "\\`*_[]<>|#&~" else c for c in flat)


def cell(text: str) -> str:
    """A text as a cell of a CSV file that no spreadsheet takes for a formula."""
    # What a spreadsheet passes over before it looks for a formula, and signs that it takes for the ASCII ones.
    shown = next((letter for letter in text if unicodedata.category(letter)[0] not in "CZ"), "")
    return f"'{text}" if unicodedata.normalize("NFKC", shown).startswith(("=", "+", "-", "@")) else text


def visible(text: str) -> str:
    """A text without what comes along with copied text and nobody sees: marks without width."""
    return UNSEEN.sub("", text)


def blank(text: str) -> bool:
    """Whether a text has nothing to see or to read: blanks and control characters alone."""
    return all(unicodedata.category(letter)[0] in "CZ" for letter in text)


def broken(text: str) -> bool:
    """Whether a text holds half of a character (a lone surrogate), which no file takes, or one that steers consoles."""
    return BROKEN.search(text) is not None


def unattached(text: str) -> bool:
    """Whether a text begins with a mark, such as an accent, that would belong to whatever letter stands before it."""
    return unicodedata.category(text.strip()[:1] or " ")[0] == "M"


def printable(text: str) -> str:
    """A text for the terminal, which may be of a stranger's file: what would steer it is shown as a question mark."""
    return BROKEN.sub("?", text)


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A path beside `path`, with its suffix, to write to; it takes the place of `path` when the block ends well.

    So nobody finds half a file under its final name, whatever ends the process or the machine. The folder is made. The
    name says which process made it, for `remove_abandoned`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=_prefix(), suffix=PART + path.suffix)
    os.close(handle)
    part = Path(name)
    try:
        yield part
        mask = os.umask(0)  # it is read by setting it
        os.umask(mask)
        part.chmod(0o666 & ~mask)
        with part.open("rb+") as file:  # on the disk before its name is, or a power cut leaves an empty file under it
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def make_folder(path: Path) -> None:
    """Make a folder, with those above it, before hours of work whose result belongs there.

    Raises:
        FileError: it cannot be made, or nothing can be written into it.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise FileError(f"{path} cannot be written to: {error.strerror or error}. Choose another folder.") from error


def write(path: Path, text: str) -> None:
    """Write a text whole, in UTF-8."""
    with whole(path) as part:
        part.write_text(text, encoding="utf-8")


def _prefix() -> str:
    return f".{_host()}-{os.getpid()}-"


@contextmanager
def staging(parent: Path) -> Iterator[Path]:
    """A hidden folder in `parent` for what is not whole yet; what is still in it when the block ends is gone.

    Its name says which process made it, for `remove_abandoned`.
    """
    parent.mkdir(parents=True, exist_ok=True)
    stage = Path(tempfile.mkdtemp(dir=parent, prefix=_prefix(), suffix=PART))
    try:
        yield stage
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def remove_abandoned(folder: Path) -> int:
    """Remove what processes that are dead by now left unfinished in a folder and in those below it.

    Returns:
        How many files and folders were removed.
    """
    removed = 0
    for path in list(folder.rglob(f".*{PART}*")):
        host, _, rest = path.name.removeprefix(".").partition("-")
        process = rest.partition("-")[0]
        # Where signals are not to be had (Windows), only the age tells.
        own = host == _host() and process.isdecimal() and os.name == "posix"
        with suppress(OSError):
            if not _lives(int(process)) if own else time.time() - path.stat().st_mtime > ABANDONED:
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()
                removed += 1
    return removed


def _host() -> str:
    """Digits of this machine's name: another machine may write to the same folder."""
    return hashlib.sha256(platform.node().encode()).hexdigest()[:6]


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
