"""Where MACE and evaluations run: in this process, or on a Ray cluster. Importing this is fast."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mace_studio import methods
from mace_studio.masks import UserMasks
from mace_studio.progress import Report as Callback
from mace_studio.progress import silent
from mace_studio.recipe import Recipe

if TYPE_CHECKING:
    from mace_studio.cluster.workers import Cluster
    from mace_studio.erasure import Erasure
    from mace_studio.evaluation.evaluate import Case
    from mace_studio.evaluation.report import Report
    from mace_studio.sd.model import Model


@dataclass(frozen=True)
class Machines:
    """The machines of a run.

    Attributes:
        address: of a Ray cluster, "auto", or "" for this process alone.
        gpus: of each of its workers.
    """

    address: str = ""
    gpus: float = 1.0

    def erase(
        self,
        model: Model,
        recipe: Recipe,
        progress: Callback = silent,
        cache: Path | None = None,
        *,
        user_masks: UserMasks | None = None,
    ) -> Erasure:
        """As `methods.erase`; a cluster takes MACE alone."""
        if not self.address or not methods.find(recipe.method).on_cluster:
            return methods.erase(model, recipe, progress, cache, user_masks=user_masks)
        from mace_studio.cluster import erase as on_cluster  # noqa: PLC0415 - only where it is asked for

        return on_cluster.erase(model, recipe, progress, cache, cluster=self._cluster(), user_masks=user_masks)

    def evaluate(
        self,
        model: Model,
        cases: Sequence[Case],
        judge: str | None = None,
        cache: Path | None = None,
        progress: Callback = silent,
    ) -> list[Report]:
        """As `evaluation.evaluate.evaluate`; the judge is the folder or hub id of a CLIP, or None for the usual one."""
        if self.address:
            from mace_studio.cluster import evaluate as on_cluster  # noqa: PLC0415 - only where it is asked for

            return on_cluster.evaluate(model, cases, judge, cache, progress, cluster=self._cluster())
        from mace_studio.evaluation import evaluate as evaluation  # noqa: PLC0415 - torch
        from mace_studio.sd import judges  # noqa: PLC0415 - torch

        return evaluation.evaluate(model, cases, judges.choose(model, judge), cache, progress)

    def _cluster(self) -> Cluster:
        from mace_studio.cluster.workers import Cluster  # noqa: PLC0415 - torch

        return Cluster(address=self.address, gpus=self.gpus)
