"""Jobs written down in a SQLite file, so that those that a crash or a kill broke off can go on after a restart.

A job is the method of the studio that started it, with its arguments as JSON. Each studio holds the lock of a small
file of its own, which the operating system lets go of when the process ends, however it ends: so another studio can
tell whether a job still runs. Standard library and Pillow alone.
"""

from __future__ import annotations

import base64
import io
import json
import logging
import os
import sqlite3
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from mace_studio.errors import StudioError
from mace_studio.exports.formats import ExportRequest
from mace_studio.recipe import ImageRequest, Recipe
from mace_studio.runtime.jobs import QUEUED, RUNNING, Job
from mace_studio.runtime.library import Entry
from mace_studio.runtime.perform import Place

log = logging.getLogger(__name__)

NAME = "jobs.sqlite"
KEPT = 200  # jobs that are over
LEFT = 3600.0  # seconds after which the lock of a studio that ended is removed
WAIT = 5.0  # seconds for another process to end its write
COLUMNS = {
    "id": "TEXT PRIMARY KEY", "owner": "TEXT", "title": "TEXT", "call": "TEXT", "place": "TEXT", "state": "TEXT",
    "queued": "REAL", "changed": "REAL",
}  # fmt: skip
TABLE = f"CREATE TABLE IF NOT EXISTS jobs ({', '.join(f'{name} {kind}' for name, kind in COLUMNS.items())})"


@dataclass(frozen=True, kw_only=True)
class Written:
    """A job that was broken off.

    Attributes:
        id, title: of the job.
        owner: digits of the studio that it was of.
        state: queued or running, when it was broken off.
        place: which model it was for.
        method, arguments: of the studio.
        queued: when it was asked for, in seconds since 1970.
    """

    id: str
    title: str
    owner: str
    state: str
    place: Place
    method: str
    arguments: tuple[Any, ...]
    queued: float


class JobLog:
    """The jobs of one output folder; a log that cannot be written costs no job, only its safety.

    Args:
        folder: for the log, and the locks of the studios that write it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._owner = folder, uuid.uuid4().hex
        self._lock: sqlite3.Connection | None = None
        self._unreadable: set[str] = set()

    def add(self, job: Job, place: Place, method: str, arguments: tuple[Any, ...]) -> None:
        """Write a job down that has just been queued."""
        call = json.dumps({"method": method, "arguments": [to_plain(one) for one in arguments]})
        where, now = json.dumps(asdict(whole(place)), default=str), time.time()

        def change(table: sqlite3.Connection) -> None:
            self._hold()
            title = job.title.encode("utf-8", "replace").decode()  # SQLite takes no half of a character
            row = (job.id, self._owner, title, call, where, job.state, now, now)
            table.execute("INSERT OR REPLACE INTO jobs VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
            table.execute(
                "DELETE FROM jobs WHERE id IN (SELECT id FROM jobs WHERE state NOT IN (?, ?) "
                "ORDER BY changed DESC LIMIT -1 OFFSET ?)",
                (QUEUED, RUNNING, KEPT),
            )

        self._change(change)
        # It may have begun, or even ended, before it was written.
        self.update(job)
        self._remove_locks()

    def update(self, job: Job) -> None:
        """Write down that the state of a job has changed; of a job that was not added nothing is."""
        if self._lock is not None:
            values = (job.state, time.time(), job.id, self._owner)
            self._execute("UPDATE jobs SET state = ?, changed = ? WHERE id = ? AND owner = ?", values)

    def interrupted(self) -> list[Written]:
        """The jobs that were queued or running when their studio ended, the first one first."""
        if not (self._folder / NAME).is_file():
            return []
        query = "SELECT id, owner, title, call, place, state, queued FROM jobs WHERE state IN (?, ?) ORDER BY queued"
        rows = self._change(lambda table: table.execute(query, (QUEUED, RUNNING)).fetchall()) or []
        owners = {row[1] for row in rows if isinstance(row[1], str)}
        ended = {owner for owner in owners if owner != self._owner and not self._lives(owner)}
        found = []
        for row in rows:
            try:
                if row[1] in ended:
                    found.append(_read(*row))
            except (LookupError, AttributeError, TypeError, ValueError, OSError, RecursionError, StudioError) as error:
                # What another version wrote, or nobody. Said once: a page asks again and again.
                if row[0] not in self._unreadable:
                    self._unreadable.add(row[0])
                    log.warning("a job that was broken off cannot go on, “%s”: %r", str(row[2])[:80], error)
        return found

    def take(self, job: Written) -> bool:
        """Make a broken-off job one of this studio; False where another one was faster."""
        self._change(lambda table: self._hold())
        return self._execute("UPDATE jobs SET owner = ? WHERE id = ? AND owner = ?", (self._owner, job.id, job.owner))

    def give_back(self, job: Written) -> None:
        """Let a job that was taken count as broken off again."""
        self._execute("UPDATE jobs SET owner = ? WHERE id = ? AND owner = ?", (job.owner, job.id, self._owner))

    def remove(self, job: Written) -> None:
        """Forget a job that was broken off."""
        self._execute("DELETE FROM jobs WHERE id = ? AND owner = ?", (job.id, job.owner))

    def _remove_locks(self) -> None:
        with suppress(OSError):
            for file in self._folder.glob("*.lock"):
                owner = file.stem
                if time.time() - file.stat().st_mtime > LEFT and owner != self._owner and not self._lives(owner):
                    file.unlink()

    def _hold(self) -> None:
        """Take the lock that says that this studio lives."""
        if self._lock is None:
            lock = sqlite3.connect(self._file(self._owner), isolation_level=None, check_same_thread=False)
            lock.execute("BEGIN EXCLUSIVE")
            self._lock = lock

    def _lives(self, owner: str) -> bool:
        file = self._file(owner)
        if not os.path.isfile(file):  # that of Path fails for a name that is too long
            return False
        try:
            with closing(sqlite3.connect(file, timeout=0, isolation_level=None)) as other:
                other.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError:
            return True
        except sqlite3.DatabaseError:
            return False
        return False

    def _file(self, owner: str) -> Path:
        return self._folder / f"{Path(owner).name}.lock"

    def _execute(self, statement: str, values: tuple[Any, ...]) -> bool:
        """Whether a statement changed a row."""
        return bool(self._change(lambda table: table.execute(statement, values).rowcount))

    def _change(self, work: Callable[[sqlite3.Connection], Any]) -> Any:
        """Do something with the table, in one transaction; None, and a line in the log, where that fails."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            for again in (True, False):
                try:
                    with closing(sqlite3.connect(self._folder / NAME, timeout=WAIT)) as table, table:
                        table.execute(TABLE)
                        if [row[1] for row in table.execute("PRAGMA table_info(jobs)")] != list(COLUMNS):
                            raise sqlite3.DatabaseError("it is of another version")
                        return work(table)
                except sqlite3.OperationalError:  # locked, full or not to be written
                    raise
                except sqlite3.DatabaseError as error:  # cut, or no database at all
                    if not again:
                        raise
                    log.warning("%s is put aside and begun again: %s", NAME, error)
                    os.replace(self._folder / NAME, self._folder / f"{NAME}.old")
        except (sqlite3.Error, OSError) as error:
            log.warning("the jobs could not be written down: %s", error)
        return None


def whole(place: Place) -> Place:
    """A place with whole paths: the next process may be started in another folder."""
    source = str(Path(place.source).absolute()) if os.path.exists(place.source) else place.source
    captions = place.captions and place.captions.absolute()
    return replace(
        place, source=source, captions=captions, output=place.output.absolute(), cache=place.cache.absolute()
    )


def _read(job_id: str, owner: str, title: str, call: str, place: str, state: str, queued: float) -> Written:
    made = json.loads(call)
    return Written(
        id=job_id,
        owner=owner,
        title=title,
        state=state,
        place=_place(json.loads(place)),
        method=made["method"],
        arguments=tuple(from_plain(one) for one in made["arguments"]),
        queued=queued,
    )


def _place(plain: dict[str, Any]) -> Place:
    paths = {name: Path(plain[name]) for name in ("output", "cache", "captions") if plain[name] is not None}
    return Place(**plain | paths)


def to_plain(value: Any) -> Any:
    """A value as JSON has it; one that JSON lacks is an object whose only name says what it is."""
    match value:
        case Recipe():
            return {"recipe": json.loads(value.to_json())}
        case ImageRequest():
            return {"request": asdict(value)}
        case ExportRequest():
            return {"export": {name: to_plain(one) for name, one in vars(value).items()}}
        case Entry() | Path():
            return {"path": str((value.path if isinstance(value, Entry) else value).absolute())}
        case Image.Image():
            data = io.BytesIO()
            value.save(data, "PNG")
            return {"image": base64.b64encode(data.getvalue()).decode()}
        case Mapping():
            return {"pairs": [[to_plain(key), to_plain(one)] for key, one in value.items()]}
        case list() | tuple():
            return [to_plain(one) for one in value]
    return value


def from_plain(value: Any) -> Any:
    """What `to_plain` made the value of; an `Entry` comes back as its path."""
    if isinstance(value, list):
        return tuple(from_plain(one) for one in value)
    if not isinstance(value, dict):
        return value
    ((kind, data),) = value.items()
    if kind == "recipe":
        return Recipe.from_json(json.dumps(data))
    if kind == "request":
        plain: dict[str, Any] = {name: tuple(one) if isinstance(one, list) else one for name, one in data.items()}
        return ImageRequest(**plain)
    if kind == "export":
        return ExportRequest(**{name: from_plain(one) for name, one in data.items()})
    if kind == "path":
        return Path(data)
    if kind == "image":
        with Image.open(io.BytesIO(base64.b64decode(data)), formats=["PNG"]) as image:
            return image.copy()
    return {from_plain(key): from_plain(one) for key, one in data}
