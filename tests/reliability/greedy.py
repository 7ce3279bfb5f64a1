"""One greedy user of a shared studio: what each of the things that they try costs, and how long another user waits.

    python -m tests.reliability.greedy --count 90

Each case runs in a forked process, so that its peak memory is its own. `--count` erasures are asked for at once, of the
studio and, over HTTP, of a started page.
"""

from __future__ import annotations

import io
import multiprocessing
import random
import resource
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from struct import pack

from mace_studio import masks
from mace_studio.errors import StudioError
from mace_studio.masks import MaskSheet
from mace_studio.paths import BUILT_IN
from mace_studio.recipe import ImageRequest, Recipe
from mace_studio.runtime import tasks
from mace_studio.runtime.jobs import DONE
from mace_studio.runtime.perform import Place
from mace_studio.runtime.studio import Studio
from mace_studio.settings import ImageSettings
from mace_studio.ui import concept_text
from mace_studio.ui.cards.masks import fitting_masks
from tests.reliability import greedy_page
from tests.reliability.common import Figures, run, small

ONE = small("cat")
MOST_MB, MOST_SECONDS, MOST_WAIT = 300, 2.0, 60.0


def png(width: int, height: int) -> bytes:
    """A PNG file of one bit a pixel, all black: few bytes, many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return pack(">I", len(data)) + kind + data + pack(">I", zlib.crc32(kind + data))

    packer, rows = zlib.compressobj(9), io.BytesIO()
    line = bytes(1 + -(-width // 8))
    for _ in range(height):
        rows.write(packer.compress(line))
    rows.write(packer.flush())
    head = chunk(b"IHDR", pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", rows.getvalue()) + chunk(b"IEND", b"")


def shared(who: Callable[[], str] = lambda: "greedy") -> Studio:
    return Studio(output=Path(tempfile.mkdtemp()), fixed=True, user=who)


def of_rank() -> None:
    shared().erase(ONE.with_settings(lora=replace(ONE.settings.lora, rank=1_000_000)))


def of_images() -> None:
    fitting_masks(MaskSheet(ONE, []), ONE.with_settings(images=ImageSettings(per_concept=10**8)))


def of_phrases() -> None:
    shared().erase(replace(ONE, preserve=tuple(f"thing {i}" for i in range(4000))))


def of_pixels() -> None:
    masks.from_bytes(png(16_000, 11_000))


def of_blanks() -> None:
    concept_text.pasted("a" + " " * 1_000_000 + "b", "object")


def of_a_deep_recipe() -> None:
    Recipe.from_json("[" * 10_000_000)


CASES = {
    "rank 1,000,000": of_rank,
    "100,000,000 images": of_images,
    "4,000 kept phrases": of_phrases,
    "176 Mpx in a PNG": of_pixels,
    "1,000,000 blanks in a list": of_blanks,
    "10 MB of brackets": of_a_deep_recipe,
}


def tried(case: Callable[[], None], told: multiprocessing.SimpleQueue) -> None:
    """What one case took: more memory than before, seconds, and whether it was refused in a sentence."""
    before, begun, end = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic(), "taken"
    try:
        case()
    except StudioError:
        end = "refused"
    except Exception as error:
        end = type(error).__name__
    more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    told.put({"end": end, "MB more at the peak": round(more), "seconds": round(time.monotonic() - begun, 2)})


def wait_of_another(count: int) -> dict[str, object]:
    """How long another user waits for two images while the greedy one asks for `count` erasures at once."""
    user = "greedy"
    studio = shared(lambda: user)
    studio.load().wait()
    refused = 0
    for seed in range(count):
        try:
            studio.erase(replace(ONE, seed=seed), watched=False)
        except StudioError:
            refused += 1
    waiting = len([job for job in studio.jobs() if not job.over])
    mine = studio.jobs()
    mine[0].watch()
    entry = mine[0].wait()
    user, begun = "other", time.monotonic()
    studio.erase(replace(ONE, seed=10**6)).wait()
    seconds = time.monotonic() - begun
    done = sum(job.state == DONE for job in mine)  # those that nobody watches are cancelled after a while
    for job in mine:
        job.cancel()
    assert entry.path.is_file() and ImageRequest(("a cat",)).check()
    return {
        "asked": count, "refused": refused, "queued at once": waiting,
        "wait of the other user, s": round(seconds, 1), "greedy jobs done before": done,
    }  # fmt: skip


def work(count: int, seed: int) -> Figures:
    random.seed(seed)
    tasks.process_model(Place(source=str(BUILT_IN)))
    fork, found = multiprocessing.get_context("fork"), {}
    for name, case in CASES.items():
        told = fork.SimpleQueue()
        process = fork.Process(target=tried, args=(case, told))
        process.start()
        found[name] = told.get()
        process.join()
    pages = greedy_page.under_calls(count)  # before this process has a thread
    queue = wait_of_another(count)
    over = [
        name
        for name, one in found.items()
        if one["MB more at the peak"] > MOST_MB
        or one["seconds"] > MOST_SECONDS
        or one["end"] not in ("refused", "taken")
    ]
    over += ["wait"] if queue["wait of the other user, s"] > MOST_WAIT else []  # type: ignore[operator]
    over += ["page"] if pages["of them not answered"] else []
    return {"cases": found, "queue": queue, "page": pages, "too much": over}


if __name__ == "__main__":
    sys.exit(run(__doc__, 90, work, ("too much",)))
