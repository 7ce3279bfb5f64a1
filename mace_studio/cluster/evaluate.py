"""Use case evaluate() on a cluster: workers generate images and judge them, this process puts the reports together.

A piece of work is what one machine measures together, a word or some captions, so on a CPU the reports are equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mace_studio.cluster.worker import Asked, located
from mace_studio.cluster.workers import Cluster, started
from mace_studio.evaluation import evaluate as evaluation
from mace_studio.evaluation.evaluate import STAGE, Bench, Case, Judged
from mace_studio.evaluation.metrics import Moved
from mace_studio.evaluation.report import Report
from mace_studio.progress import Progress, silent, timed
from mace_studio.progress import Report as Callback
from mace_studio.sd import judges
from mace_studio.sd.model import Model


def evaluate(
    model: Model,
    cases: Sequence[Case],
    judge: str | None = None,
    cache: Path | None = None,
    progress: Callback = silent,
    *,
    cluster: Cluster = Cluster(),  # noqa: B008 - frozen
) -> list[Report]:
    """Measure erasures with the machines of a Ray cluster: images are judged where they are generated.

    Args:
        model: from `sd.model.load`; each worker loads the same one, with its dtype, from its own machine or the hub.
        cases: erasures of this model with plans from `plan.make_plan`.
        judge: folder or hub id of a CLIP model; None takes the judge that comes with the model, or else the usual CLIP.
        cache: folder of images generated before. Workers use it where it is on their machine too: a run that was broken
            off goes on from there.
        progress: called with stage "generate", steps in images of all cases; whenever a word is finished, the event's
            result is the name of the case and the word's `Row`. Words may end in any order.
        cluster: its address, and what a worker takes of it.

    Returns:
        A report of each case.

    Raises:
        FileError, RecipeError: what a run on one machine raises.
        StudioError: there is no cluster, or no room in it.

    Example:
        >>> (report,) = evaluate_on_cluster(model, [Case("cat", erasure, plan)], cluster=Cluster(address="auto"))
    """
    bench = Bench(model, judges.choose(model, judge), cache)
    evaluation.check(bench, cases)
    report = timed(progress, {STAGE: 1.0})
    if cache:
        cache.mkdir(parents=True, exist_ok=True)
    asked = replace(Asked.of(model, cache), judge=located(judge) if judge else "", judged_by=bench.fingerprint)
    pieces = [(number, part) for number, case in enumerate(cases) for part in bench.parts(case.plan)]
    sizes = [part.images for _, part in pieces]
    done, found = 0.0, dict[int, Judged | Moved]()

    def told(images: float, said: str) -> None:
        nonlocal done
        done = max(done, images)  # a worker that ended begins its piece again
        report(Progress(STAGE, said, round(done, 1), sum(sizes)))

    with started(cluster, asked, len(pieces)) as workers:
        # LoRAs are not needed where weights are put in place.
        shared = [workers.share(replace(case, erasure=replace(case.erasure, loras={}))) for case in cases]
        for piece, one in workers.map("judged", [(shared[number], part) for number, part in pieces], sizes, told):
            found[piece] = one
            report(evaluation.event(cases[pieces[piece][0]], one, round(done, 1), sum(sizes)))
    return [
        evaluation.reported(bench, case, [found[piece] for piece, (of, _) in enumerate(pieces) if of == number])
        for number, case in enumerate(cases)
    ]
