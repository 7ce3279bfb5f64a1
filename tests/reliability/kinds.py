"""A job of every kind that is killed (kill -9) in its middle goes on after a restart and gives what it would have.

    python -m tests.reliability.kinds --count 10

Every studio is a process forked from one that has loaded the model. Each kind is run once undisturbed; then it is
killed at a random moment, and the next studio goes on with it.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from mace_studio import prompts
from mace_studio.evaluation import plan
from mace_studio.evaluation.report_files import as_json
from mace_studio.exports.formats import ExportRequest
from mace_studio.paths import BUILT_IN
from mace_studio.recipe import ImageRequest
from mace_studio.runtime import tasks
from mace_studio.runtime.jobs import Job
from mace_studio.runtime.perform import Place
from mace_studio.runtime.studio import Studio
from tests.reliability.common import Figures, run, small
from tests.reliability.cycles import PROMPTS
from tests.reliability.kills import forked

ONE = ImageRequest(("a cat in a forest",), (3,), steps=4, guidance=4.0)
GRID = replace(ONE, prompts=("a cat", "a dog"), seeds=(1, 2, 3))
FEW = {"quick": 2}  # images of a word, and captions, of an evaluation


def cat(studio: Studio) -> str:
    return next(entry.name for entry in studio.entries() if entry.name.startswith("cat"))


def pixels(*images: Any) -> list[bytes]:
    return [image.tobytes() for image in images if image is not None]


def runs(result: Any) -> list[bytes]:
    return pixels(*(one.image for one in result.runs.values()))


def written(result: Any) -> list[bytes]:
    return [result.path.read_bytes()]


def rows(report: Any) -> bytes:
    """What was measured, without the seconds that it took."""
    return json.dumps(json.loads(as_json(report))["rows"]).encode()


# Kind -> the call, and what its result is compared by.
KINDS: dict[str, tuple[Callable[[Studio], Job], Callable[[Any], list[bytes]]]] = {
    "erase": (lambda s: s.erase(small("horse", "car", steps=9), watched=False), written),
    "masks": (
        lambda s: s.masks(small("guitar", "horse")),
        lambda sheet: pixels(*(part for one in sheet.images for part in (one.image, one.mask))),
    ),
    "compose": (lambda s: s.compose(s.entries()), written),
    "compare": (lambda s: s.compare(cat(s), GRID), lambda pairs: pixels(*(pair.after for pair in pairs))),
    "inspect": (lambda s: s.inspect(cat(s), ONE, ("forest",)), runs),
    "residual": (lambda s: s.residual(cat(s), ONE), runs),
    "preview": (lambda s: s.preview(small("dog"), ONE), lambda one: pixels(one.before, one.after)),
    "evaluate": (lambda s: s.evaluate([cat(s)]), lambda reports: [rows(one) for one in reports]),
    "sample": (lambda s: s.sample(cat(s), words=1, pairs=4), lambda report: [rows(report)]),
    "export": (
        lambda s: s.export(cat(s), ExportRequest("checkpoint", s.output / "e.safetensors", overwrite=True)),
        written,
    ),
}


def outcome(output: Path, kind: str | None, after: float | None) -> tuple[list[str], bool]:
    """What a job gives as a digest, by kind, of a studio that is killed so many seconds after its start, if any.

    Args:
        output: of the studio.
        kind: of the job that is begun; None goes on with what was broken off.
        after: seconds, or None.
    """

    def work(folder: Path, told: int) -> None:
        studio = Studio(output=folder)
        jobs = (
            {kind: KINDS[kind][0](studio)} if kind else {one.method: studio.resume(one) for one in studio.interrupted()}
        )
        for name, job in jobs.items():
            digest = hashlib.sha256(b"".join(KINDS[name][1](job.wait())))
            os.write(told, f"{name}:{digest.hexdigest()}\n".encode())

    return forked(output, after, work)


def work(count: int, seed: int) -> Figures:
    dice = random.Random(seed)
    plan.IMAGES, plan.CAPTIONS = FEW, FEW
    usual = prompts.templates
    prompts.templates = lambda kind: usual(kind)[:PROMPTS]
    with tempfile.TemporaryDirectory() as name:
        whole, broken = Path(name) / "whole", Path(name) / "broken"
        tasks.process_model(Place(source=str(BUILT_IN), output=whole, cache=whole / "cache"))
        for output in (whole, broken):
            forked(
                output,
                None,
                lambda folder, _: [Studio(output=folder).erase(small(one)).wait() for one in ("cat", "dog")],
            )
        came: dict[str, str] = {}
        for kind in list(KINDS)[:count]:
            begun = time.monotonic()
            (wanted,), _ = outcome(whole, kind, None)
            _, killed = outcome(broken, kind, dice.uniform(0.2, 0.8) * (time.monotonic() - begun))
            found, _ = outcome(broken, None, None)
            came[kind] = "not killed" if not killed else "the same" if found == [wanted] else f"other: {len(found)}"
    return {"kinds": came, "lost or other": sum(end.startswith("other") for end in came.values())}


if __name__ == "__main__":
    sys.exit(run(__doc__, len(KINDS), work, ("lost or other",)))
