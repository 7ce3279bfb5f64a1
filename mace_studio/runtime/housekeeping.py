"""What many users of one machine leave on its disk, bounded in bytes and by age. Standard library alone."""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mace_studio.errors import FileError

log = logging.getLogger(__name__)

USER, USERS, CACHE = 300 * 2**20, 5 * 2**30, 2 * 2**30  # most bytes of one user's folder, of all of them, of the cache
AGE = 7 * 24 * 3600.0  # seconds after which a user's folder that nothing was written to is removed
IN_USE = 3600.0  # a folder or file that is newer than so many seconds stays, whatever the bounds


@dataclass(frozen=True)
class Held:
    """What lies at a path.

    Attributes:
        path: a folder or file.
        size: in bytes, of all that is in it.
        newest: when anything in it was last written, in seconds since 1970.
    """

    path: Path
    size: int
    newest: float


def check_room(folder: Path) -> None:
    """Raise a FileError where one user's folder is full."""
    if (size := held(folder).size) >= USER:
        raise FileError(
            f"Your erased models and results take {size / 1e6:.0f} MB here, and {USER / 1e6:.0f} MB fit. Download what "
            f"you want to keep; all of it is removed {AGE / 86400:.0f} days after your last run."
        )


def tidy(output: Path, now: float | None = None) -> None:
    """Remove users' folders that are old, then the oldest folders and cached files that are too many bytes.

    Args:
        output: of a studio that many share.
        now: seconds since 1970; the clock's when None.
    """
    now = time.time() if now is None else now
    users = output / "users"
    folders = [held(path) for path in (users.iterdir() if users.is_dir() else ())]
    for old in [folder for folder in folders if now - folder.newest > AGE]:
        folders.remove(old)
        _remove(old.path)
    _shrink(folders, USERS, now)
    _shrink([held(path) for path in _files(output / "cache")], CACHE, now)


def held(path: Path) -> Held:
    """Size and age of a folder or file."""
    stats = [stat for one in ([path] if path.is_file() else _files(path)) if (stat := _stat(one)) is not None]
    own = _stat(path)
    newest = max([stat.st_mtime for stat in stats] or ([own.st_mtime] if own else [0.0]))
    return Held(path, sum(stat.st_size for stat in stats), newest)


def _shrink(listed: list[Held], most: int, now: float) -> None:
    total = sum(one.size for one in listed)
    for one in sorted(listed, key=lambda one: one.newest):
        if total <= most or now - one.newest < IN_USE:
            return
        _remove(one.path)
        total -= one.size


def _remove(path: Path) -> None:
    log.info("%s is removed: old, or too much", path.name)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _files(folder: Path) -> Iterator[Path]:
    for place, _, names in os.walk(folder):
        yield from (Path(place) / name for name in names)


def _stat(path: Path) -> os.stat_result | None:
    """None where another thread has removed it."""
    try:
        return path.lstat()
    except OSError:
        return None
