"""Jobs are written down, and those of a process that was killed are found again."""

import inspect
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from mace_studio.exports.formats import ExportRequest
from mace_studio.recipe import Concept, ImageRequest, Recipe
from mace_studio.runtime import job_desk, job_log, studio
from mace_studio.runtime.job_log import JobLog
from mace_studio.runtime.jobs import CANCELLED, DONE, Job
from mace_studio.runtime.perform import Place

RECIPE = Recipe(concepts=(Concept("cat", "forest"),), seed=7)
MASKS = {("cat", 1): Image.new("L", (3, 2), 255)}
REQUEST = ImageRequest(("a cat", "a dog"), (1, 2), size=(64, 128))
KILLED = """
import os, signal, sys
from pathlib import Path
from tests.unit.test_job_log import MASKS, RECIPE, Job, JobLog, Place
log = JobLog(Path(sys.argv[1]))
job = Job("Erase cat", on_change=log.update)
log.add(job, Place(source="some/model"), "erase", (RECIPE, MASKS, True))
if sys.argv[2] == "cancelled":
    job.cancel()
print("written", flush=True)
if sys.argv[2] == "waits":
    sys.stdin.read()
os.kill(os.getpid(), signal.SIGKILL)
"""
ROOT = Path(__file__).parents[2]


def process(folder, how):
    started = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(folder), how], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert started.stdout.readline() == b"written\n"
    return started


@pytest.mark.parametrize("made", ["TABLE jobs (id TEXT PRIMARY KEY, foo TEXT)", "VIEW jobs AS SELECT 1 AS id"])
def test_a_log_of_another_version_is_put_aside_and_begun_again(tmp_path, made):
    with closing(sqlite3.connect(tmp_path / job_log.NAME)) as table:
        table.execute(f"CREATE {made}")
        table.commit()
    log = JobLog(tmp_path)
    log.add(Job("cat"), Place(source="some/model"), "erase", ())
    log._lock.close()  # as where its process ends
    assert [one.title for one in JobLog(tmp_path).interrupted()] == ["cat"]
    assert (tmp_path / f"{job_log.NAME}.old").is_file()


def test_half_of_a_character_in_a_title_costs_no_job(tmp_path):
    log = JobLog(tmp_path)
    log.add(Job("cat \udcff"), Place(source="some/model"), "erase", ())
    log._lock.close()
    assert [one.title for one in JobLog(tmp_path).interrupted()] == ["cat ?"]


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_job_of_a_process_that_was_killed_is_interrupted_and_one_that_runs_is_not(tmp_path):
    running = process(tmp_path, "waits")
    other = JobLog(tmp_path)
    assert other.interrupted() == []
    running.send_signal(signal.SIGKILL)
    running.wait()
    (found,) = other.interrupted()
    assert (found.title, found.state, found.method, found.place.source) == (
        "Erase cat",
        "queued",
        "erase",
        "some/model",
    )
    recipe, masks, watched = found.arguments
    assert recipe == RECIPE and watched is True
    assert list(masks) == [("cat", 1)] and masks["cat", 1].tobytes() == b"\xff" * 6
    assert found.place.output.is_absolute()
    # It can be taken once, be given back, and be forgotten.
    assert JobLog(tmp_path).take(found)
    assert not JobLog(tmp_path).take(found)


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_job_that_was_over_is_not_interrupted(tmp_path):
    process(tmp_path, "cancelled").wait()
    assert JobLog(tmp_path).interrupted() == []


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_job_is_given_back_or_forgotten(tmp_path):
    process(tmp_path, "queued").wait()
    log = JobLog(tmp_path)
    (found,) = log.interrupted()
    assert log.take(found) and log.interrupted() == []
    log.give_back(found)
    assert [one.id for one in JobLog(tmp_path).interrupted()] == [found.id]
    log.remove(found)
    assert log.interrupted() == []


def test_arguments_come_back_as_they_were():
    arguments = [REQUEST, replace(REQUEST, size=None), Path("x").absolute(), None, "name", ("a", Path("/b")), 3, RECIPE]
    assert list(job_log.from_plain(job_log.to_plain(arguments))) == arguments


def test_a_damaged_log_is_begun_again_and_costs_no_job(tmp_path, caplog):
    (tmp_path / job_log.NAME).write_bytes(b"no database" * 100)
    log = JobLog(tmp_path)
    assert log.interrupted() == []
    job = Job("Erase", on_change=log.update)
    log.add(job, Place(), "erase", (RECIPE,))
    job.cancel()
    with sqlite3.connect(tmp_path / job_log.NAME) as table:
        assert table.execute("SELECT state FROM jobs").fetchall() == [(CANCELLED,)]
    assert "begun again" in caplog.text


@pytest.mark.parametrize("value", [None, b"\xff", 7, "x" * 5000, "../..", "a\0b", "["])
@pytest.mark.parametrize("column", ["owner", "title", "call", "place", "queued"])
def test_a_row_that_is_damaged_costs_no_other(tmp_path, column, value):
    gone = JobLog(tmp_path)
    for name in ("damaged", "sound"):
        gone.add(Job(name, job_id=name), Place(source="some/model"), "erase", (RECIPE,))
    gone._lock.close()  # as where its process was killed
    with closing(sqlite3.connect(tmp_path / job_log.NAME)) as table:
        table.execute(f"UPDATE jobs SET {column} = ? WHERE id = 'damaged'", (value,))
        table.commit()
    assert "sound" in {one.id for one in JobLog(tmp_path).interrupted()}


def test_a_folder_that_cannot_be_written_costs_no_job(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    log = JobLog(tmp_path / "file" / "below")
    job = Job("Erase", on_change=log.update)
    log.add(job, Place(), "erase", (RECIPE,))
    job.cancel()
    assert job.state == CANCELLED and "could not be written down" in caplog.text


def test_what_cannot_be_read_any_more_is_passed_over_and_said(tmp_path, caplog):
    log = JobLog(tmp_path)
    for call in ("[" * 3000, "{}", '{"method": "erase", "arguments": [{"recipe": {"concepts": 3}}]}', '{"method": 1'):
        log.add(Job("Erase"), Place(), "erase", (RECIPE,))
        with sqlite3.connect(tmp_path / job_log.NAME) as table:
            table.execute("UPDATE jobs SET owner = 'gone', call = ? WHERE owner != 'gone'", (call,))
    log = JobLog(tmp_path)
    assert log.interrupted() == log.interrupted() == []
    assert caplog.text.count("a job that was broken off cannot go on, “Erase”") == 4


def test_an_export_comes_back_as_it_was():
    asked = ExportRequest("lora", Path("a/b"), rank=4, pairs=(Path("c.png"),), overwrite=True)
    back = job_log.from_plain(json.loads(json.dumps(job_log.to_plain(asked))))
    assert back == replace(asked, path=Path("a/b").absolute(), pairs=(Path("c.png").absolute(),))


def test_who_waits_for_a_job_goes_on_when_its_end_is_written_down():
    written = []
    job = Job("Erase", on_change=lambda job: job.over and (time.sleep(0.3), written.append(job.state)))
    threading.Thread(target=job.run, args=(lambda progress: 3,)).start()
    assert job.wait() == 3 and written == [DONE]


def test_every_kind_of_job_goes_on_but_those_whose_result_only_the_process_that_asked_can_tell():
    asked = {
        name
        for name, method in vars(studio.Studio).items()
        if "._submit(" in (inspect.getsource(method) if callable(method) else "")
    }
    assert asked - {"capacity"} == set(job_desk.SURVIVING)


def test_the_log_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(job_log, "KEPT", 3)
    log = JobLog(tmp_path)
    for _ in range(6):
        job = Job("Erase", on_change=log.update)
        log.add(job, Place(), "erase", (RECIPE,))
        job.cancel()
    with sqlite3.connect(tmp_path / job_log.NAME) as table:
        assert table.execute("SELECT count(*) FROM jobs").fetchone() == (4,)  # the three, and the newest
