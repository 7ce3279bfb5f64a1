"""What came of a job, as JSON for programs: plain values, and addresses of the files that are written for it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mace_studio.runtime import result_files
from mace_studio.runtime.jobs import Job
from mace_studio.ui import sessions
from mace_studio.ui.gradio_compat import serve_in_place

Result = dict[str, Any]


def entry(job: Job, folder: Path) -> Result:
    """Of an erasure."""
    made = job.result
    return {"name": made.name, "url": _url(made.path), "size": made.size, "warnings": list(made.warnings)}


def pairs(job: Job, folder: Path) -> Result:
    """Of a comparison."""
    return {
        "pairs": [
            {"prompt": p.prompt, "seed": p.seed, "change": round(p.change, 3)} | {"url": _url(path)}
            for p, path in ((p, result_files.write_pair(p, folder / "pairs" / job.id)) for p in job.result)
        ]
    }


def inspection(job: Job, folder: Path) -> Result:
    """Of a reading of the attention."""
    read = job.result
    runs = {
        name: {"attention": [[m.word.text, round(m.total, 5)] for m in read.masses(name)], "presence": run.presence}
        for name, run in read.runs.items()
    }
    return {"runs": runs, "urls": _urls(result_files.write_inspection(read, folder / "attention" / job.id))}


def report(job: Job, folder: Path) -> Result:
    """Of an evaluation."""
    paths = result_files.write_evaluation(job.result, folder / "reports" / job.id)
    return {"report": result_files.read_report(paths), "urls": _urls(paths)}


def exported(job: Job, folder: Path) -> Result:
    """Of an export."""
    written = job.result
    left_out = {key: {"rank": rank, "left_out": share} for key, (rank, share) in written.residuals.items()}
    return {"urls": _urls(written.files), "size": written.size, "residuals": left_out}


def _urls(paths: Iterable[Path]) -> list[str]:
    return [_url(path) for path in paths]


def _url(path: Path) -> str:
    """The address of a file, which may be read from now on by anyone who knows it."""
    serve_in_place(path)
    return f"{sessions.address()}gradio_api/file={path.as_posix()}"
