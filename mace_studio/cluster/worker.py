"""What one worker of a cluster does: sums over prompts, the LoRAs of some concepts, the images of an evaluation.

It knows nothing of Ray.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from mace_studio import __version__, prompts
from mace_studio.core import ridge
from mace_studio.core.moments import PairSums
from mace_studio.errors import ModelError
from mace_studio.evaluation import evaluate
from mace_studio.evaluation.evaluate import Bench, Case, Judged
from mace_studio.evaluation.metrics import Moved
from mace_studio.evaluation.plan import Plan
from mace_studio.masks import UserMasks
from mace_studio.methods.mace import erase, fuse, refine, train_loras, training_images
from mace_studio.methods.mace.own_tokens import OwnTokens
from mace_studio.paths import BUILT_IN
from mace_studio.progress import Progress, Report, always, timed
from mace_studio.recipe import Concept, Recipe
from mace_studio.sd import judges
from mace_studio.sd import model as sd_model
from mace_studio.sd.embeddings import Embeddings
from mace_studio.sd.lora import LoraDelta
from mace_studio.sd.model import Model

KEPT = 2**28  # bytes of embeddings that a worker keeps from the first round for the second


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What every worker must have, so that it computes as the process that asks.

    Attributes:
        version: of MACE Studio.
        fingerprint: of the model.
        source: of the model, or "" for the built-in one, which every machine has at its own place.
        device, dtype, low_memory, vae, text_encoder: as `sd.model.load` takes them.
        threads: of torch; sums in another number of threads have other last digits.
        cache: folder of images and LoRAs, used where it exists on the worker's machine; "" for none.
        judge: of an evaluation, as `judges.choose` takes it, or "" for the one that comes with the model.
        judged_by: its fingerprint.
    """

    version: str
    fingerprint: str
    source: str
    device: str
    dtype: str
    low_memory: bool
    vae: str
    text_encoder: str
    threads: int
    cache: str
    judge: str = ""
    judged_by: str = ""

    @staticmethod
    def of(model: Model, cache: Path | None) -> Asked:
        """What a worker needs to compute as this process does with a model of it."""
        return Asked(
            version=__version__,
            fingerprint=model.fingerprint,
            source="" if Path(model.source) == BUILT_IN else located(model.source),
            device="auto",
            dtype=str(model.dtype).removeprefix("torch."),
            low_memory=model.low_memory,
            vae=model.vae,
            text_encoder=model.text_encoder,
            threads=torch.get_num_threads(),
            cache=str(cache.resolve()) if cache else "",
        )


def located(source: str) -> str:
    """The whole path of a folder or file on this machine, which others have at the same place; or else a hub id."""
    return str(Path(source).resolve()) if Path(source).exists() else source


@dataclass(frozen=True)
class Trained:
    """What a worker returns of some concepts.

    Attributes:
        loras: phrase -> its LoRA.
        pulls: phrase -> `ridge.pulls`, what the fusion reads of its prompts.
        warnings: what the user should know, in sentences.
    """

    loras: dict[str, LoraDelta]
    pulls: dict[str, dict[str, Tensor]]
    warnings: list[str]


class Worker:
    """Has a model, loaded at its first work, and does one piece of work after another.

    Args:
        asked: which model, and how to compute with it.
    """

    def __init__(self, asked: Asked) -> None:
        torch.set_num_threads(asked.threads)
        self._asked = asked
        self._at: tuple[int, Progress] | None = None
        self._refined: tuple[Tensor, dict[str, Tensor]] | None = None

    def watch(self) -> tuple[int, Progress] | None:
        """The number of the work and how far it is; None before the first event. It may be called meanwhile."""
        return self._at

    def sums(self, number: int, part: tuple[Concept, ...]) -> tuple[int, PairSums]:
        """F, C and S of a part of `refine.parts`.

        Args:
            number: of the work, which is returned with the result.
            part: the concepts.
        """
        report = self._report(number, {"refine": 1.0})
        return number, refine.part_sums(self._model, part, self._embeddings, report)

    def loras(
        self, number: int, recipe: Recipe, user_masks: UserMasks, solved: ridge.Refinement
    ) -> tuple[int, Trained]:
        """Training images, masks and LoRAs of some concepts.

        Args:
            number: of the work, which is returned with the result.
            recipe: with these concepts alone.
            user_masks: of these concepts.
            solved: stage 1, over all concepts of the whole recipe.
        """
        model, warnings = self._model, list[str]()
        cache = self._cache()
        costs = erase.costs(recipe, recipe)
        report = self._report(number, {stage: costs[stage] for stage in ("images", "masks", "lora")})
        images = training_images.make(model, recipe, cache, warnings, user_masks, report)
        if self._refined is None or not torch.equal(self._refined[0], solved.matrix_DD):
            self._refined = solved.matrix_DD, refine.weights(model, solved)
        loras = train_loras.train(model, recipe, images, self._refined[1], self._embeddings, warnings, report, cache)
        pulls, own = {}, OwnTokens(model, recipe)
        if recipe.settings.fusion == "closed-form":
            for concept in recipe.concepts:
                at = always(report, Progress("lora", concept.phrase, step=1, total=1))
                context_NTD = self._embeddings.of(prompts.about(concept), at).context_NTD
                rows_ND = fuse.followed(context_NTD, own.positions(concept))
                pulls[concept.phrase] = ridge.pulls(rows_ND, loras[concept.phrase].pairs)
        return number, Trained(loras, pulls, warnings)

    def judged(self, number: int, case: Case, part: Plan) -> tuple[int, Judged | Moved]:
        """Generate the images of a part of a plan, and judge them.

        Args:
            number: of the work, which is returned with the result.
            case: of an evaluation.
            part: of `Bench.parts`.
        """
        report = self._report(number, {evaluate.STAGE: 1.0})
        return number, evaluate.measured(self._bench, case, part, report)

    @cached_property
    def _model(self) -> Model:
        asked = self._asked
        if asked.version != __version__:
            raise ModelError(
                f"A machine of the cluster has MACE Studio {__version__}, and {asked.version} is needed; install the "
                "same version on all of them."
            )
        model = sd_model.load(
            asked.source or str(BUILT_IN),
            asked.device,
            asked.dtype,
            asked.low_memory,
            vae=asked.vae,
            text_encoder=asked.text_encoder,
        )
        if model.fingerprint != asked.fingerprint:
            raise ModelError(
                f"A machine of the cluster has another model at {asked.source or 'its assets'}; put the same files "
                "there on all of them."
            )
        return model

    @cached_property
    def _bench(self) -> Bench:
        bench = Bench(self._model, judges.choose(self._model, self._asked.judge or None), self._cache())
        if bench.fingerprint != self._asked.judged_by:
            raise ModelError(
                f"A machine of the cluster has another judge or CLIP than {bench.judge.name}; put the same files there "
                "on all of them."
            )
        return bench

    def _cache(self) -> Path | None:
        return Path(self._asked.cache) if self._asked.cache and Path(self._asked.cache).is_dir() else None

    @cached_property
    def _embeddings(self) -> Embeddings:
        return Embeddings(self._model, KEPT)

    def _report(self, number: int, costs: dict[str, float]) -> Report:
        def note(at: Progress) -> None:
            self._at = number, replace(at, look=None)  # it is sent to another machine

        return timed(note, costs)
