"""Sums and solves of stages 1 and 3 at the shapes of Stable Diffusion 1.4, for 1 to 1,000 concepts.

`python -m tests.slow.test_mass` prints the table: CPU seconds on one thread and peak memory. Embeddings and LoRAs are
random and made concept by concept; the time that takes is not counted. "plain" is the same by the equations as they
are written: every concept has its own F, C and G, and every LoRA its own product.
"""

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mace_studio.core import ridge, tokens
from mace_studio.core.moments import TOGETHER, Moments, PairSums

WIDTH, LENGTH, PROMPTS, RANK = 768, 77, 30, 1
# One key and one value projection for each of 16 layers: 6 down, 1 in the middle, 9 up.
OUT = [width for width in (320, 320, 640, 640, 1280, 1280, 1280, *(1280,) * 3, *(640,) * 3, *(320,) * 3) for _ in "kv"]
COUNTS, PLAIN = (1, 10, 100, 1000), (1, 10, 100)
TARGETS = {100: 3.0, 1000: 25.0}  # how many times as long as one concept
KEPT = 4096


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def contexts(concept: int) -> Tensor:
    """context_NTD; that of concept -1 is the mapping's, which all concepts share."""
    return normal(10 + concept, PROMPTS, LENGTH, WIDTH)


def pairs(concept: int) -> list[tuple[list[int], list[int]]]:
    """Positions that belong together where a name of two or three tokens takes the place of "a person"."""
    name, found = [*range(100, 102 + concept % 2)], []
    for n in range(PROMPTS):
        before, after = [0, *range(1, 1 + n % 7)], [*range(50, 50 + n % 4), 99]
        found.append(tokens.pair_positions([*before, *name, *after], [*before, 200, 201, *after], LENGTH))
    return found


def loras(concept: int) -> dict[str, tuple[Tensor, Tensor]]:
    flat = normal(5000 + concept, RANK * (sum(OUT) + len(OUT) * WIDTH))
    parts = flat.split([part for out in OUT for part in (RANK * out, RANK * WIDTH)])
    return {
        str(i): (up.reshape(out, RANK) / 100, down.reshape(RANK, WIDTH) / 100)
        for i, (out, up, down) in enumerate(zip(OUT, parts[::2], parts[1::2], strict=True))
    }


def originals() -> dict[str, Tensor]:
    return {str(i): normal(9000 + i, out, WIDTH) / WIDTH**0.5 for i, out in enumerate(OUT)}


def keep() -> ridge.Keep:
    return ridge.Keep(Moments.of(normal(1, KEPT, WIDTH)).gram_DD, 0.0)


class Clock:
    """CPU seconds inside of its `with` blocks."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __enter__(self) -> None:
        self._begun = time.process_time()

    def __exit__(self, *_: object) -> None:
        self.seconds += time.process_time() - self._begun


def studio(count: int, clock: Clock) -> dict[str, Tensor]:
    """W* as the project computes it."""
    original, guide_NTD, kept = originals(), contexts(-1), keep()
    with clock:
        sums = PairSums(WIDTH)
    for start in range(0, count, TOGETHER):  # as `refine.gather` does, so that parts of the sums can be made elsewhere
        with clock:
            part = PairSums(WIDTH)
        for i in range(start, min(start + TOGETHER, count)):
            context_NTD = contexts(i)
            with clock:
                part.add(context_NTD, guide_NTD, pairs(i))
        with clock:
            sums.merge(part)
    with clock:
        solved = ridge.refinement(sums.moments(), kept.total_DD)
        refined = [ridge.refine(weight_PD.float(), solved) for weight_PD in original.values()]  # what stage 2 trains on
        assert len(refined) == len(OUT)
        fusion = ridge.Fusion(sums.all_positions(), kept)
    for i in range(count):
        context_NTD, deltas = contexts(i), loras(i)
        with clock:
            fusion.add(context_NTD.flatten(0, 1), deltas)
    with clock:
        return {
            name: fusion.fused(name, weight_PD, weight_PD.double() @ solved.matrix_DD)
            for name, weight_PD in original.items()
        }


def plain(count: int, clock: Clock) -> dict[str, Tensor]:
    """W* by the equations as they are written, with one factorisation for each stage."""
    original, guide_NTD, kept_DD = originals(), contexts(-1), keep().total_DD
    gram_DD, cross_DD, all_DD = torch.zeros(3, WIDTH, WIDTH).double()
    change = {name: torch.zeros(len(weight_PD), WIDTH).double() for name, weight_PD in original.items()}
    for i in range(count):
        context_NTD = contexts(i)
        with clock:
            own_nD = torch.cat([context_NTD[n, here] for n, (here, _) in enumerate(pairs(i))]).double()
            guide_nD = torch.cat([guide_NTD[n, there] for n, (_, there) in enumerate(pairs(i))]).double()
            gram_DD += own_nD.T @ own_nD
            cross_DD += guide_nD.T @ own_nD
    with clock:
        inner_DD = torch.linalg.cholesky(gram_DD + kept_DD)
        shift_DD = torch.cholesky_solve((cross_DD - gram_DD).T, inner_DD).T
        refined = {name: (w.double() + w.double() @ shift_DD).float() for name, w in original.items()}
    for i in range(count):
        context_NTD, deltas = contexts(i), loras(i)
        with clock:
            context_ND = context_NTD.flatten(0, 1).double()
            own_DD = context_ND.T @ context_ND
            all_DD += own_DD
            for name, (up_PR, down_RD) in deltas.items():
                change[name] += up_PR.double() @ (down_RD.double() @ own_DD)
    with clock:
        outer_DD = torch.linalg.cholesky(all_DD + kept_DD)
        fused = {}
        for name, weight_PD in original.items():
            pull_PD = change[name] + (weight_PD.double() - refined[name].double()) @ kept_DD
            fused[name] = (refined[name].double() + torch.cholesky_solve(pull_PD.T, outer_DD).T).float()
        return fused


def measured(which: str, count: int, **settings: str) -> dict[str, float]:
    """CPU seconds and peak memory in MB, of a process of its own with these settings in its environment."""
    command = [sys.executable, "-m", "tests.slow.test_mass", which, str(count)]
    env = os.environ | {"OMP_NUM_THREADS": "1"} | settings
    done = subprocess.run(command, cwd=Path(__file__).parents[2], env=env, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def table() -> dict[tuple[str, int], dict[str, float]]:
    """Measure and print all rows."""
    rows = {}
    for which, counts in (("studio", COUNTS), ("plain", PLAIN)):
        for count in counts:
            row = rows[which, count] = measured(which, count)
            # Memory once more with an allocator that returns what is freed, else its habits are measured too.
            row["megabytes"] = measured(which, count, MALLOC_MMAP_THRESHOLD_="1000000")["megabytes"]
            first = rows[which, 1]["seconds"]
            target = f" (target {TARGETS[count]:g} x)" if which == "studio" and count in TARGETS else ""
            print(
                f"{which:>7} {count:>5} concepts {row['seconds']:8.2f} s {row['seconds'] / first:7.2f} x{target}"
                f" {row['megabytes']:7.0f} MB",
                flush=True,
            )
    return rows


@pytest.mark.slow
def test_time_and_memory_grow_only_with_what_has_to_grow():
    rows = table()
    seconds = {key: row["seconds"] for key, row in rows.items()}
    for count, target in TARGETS.items():
        assert seconds["studio", count] < target * seconds["studio", 1]
    assert seconds["studio", 100] < seconds["plain", 100] / 3
    peaks = [rows["studio", count]["megabytes"] for count in COUNTS]
    assert max(peaks) < 1.05 * min(peaks)


@pytest.mark.slow
def test_the_weights_are_those_of_the_equations():
    first, second = studio(3, Clock()), plain(3, Clock())
    for name, weight_PD in first.items():
        assert (weight_PD - second[name]).abs().max() < 1e-6 * second[name].abs().max()


if __name__ == "__main__":
    if len(sys.argv) == 1:
        table()
    else:
        watch = Clock()
        {"studio": studio, "plain": plain}[sys.argv[1]](int(sys.argv[2]), watch)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"seconds": watch.seconds, "megabytes": peak}))
