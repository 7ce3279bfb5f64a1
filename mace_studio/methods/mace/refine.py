"""Stage 1 of a recipe: the sums over its prompts, and the matrix M that refines every projection (Eq. 2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from torch import Tensor

from mace_studio import prompts
from mace_studio.core import ridge, tokens
from mace_studio.core.moments import TOGETHER, Moments, PairSums
from mace_studio.methods import find
from mace_studio.progress import Progress, Report, silent, within
from mace_studio.recipe import Concept, Recipe
from mace_studio.sd import finite, grams, projections, text
from mace_studio.sd.embeddings import Embeddings
from mace_studio.sd.model import Model
from mace_studio.settings import KeepWeights


@dataclass(frozen=True)
class Sums:
    """All that the closed forms need to know of a recipe's prompts, whatever the keep weights are.

    Attributes:
        concepts: F and C over the pairs of all concepts.
        all_DD: S, the sum of e e^T over all T positions of the concepts' prompts, which the fusion reads, float64.
        general: over the general captions, scaled to the paper's number; None if no weight asks for them.
        preserve: over the prompts about the preserve list; None if it is empty.
    """

    concepts: Moments
    all_DD: Tensor
    general: Moments | None
    preserve: Moments | None


def gather(
    model: Model,
    recipe: Recipe,
    cache: Path | None,
    progress: Report = silent,
    *,
    embeddings: Embeddings | None = None,
) -> Sums:
    """Encode the recipe's prompts and sum over their embeddings.

    Args:
        model: its text encoder is read.
        recipe: concepts, preserve list, and whether a weight asks for the general captions.
        cache: folder that keeps the Grams of the general captions and of the preserve list, or None.
        progress: called with stage "refine" at every batch of sentences: sentences done of all.
        embeddings: of the same model; keeps the concepts' prompts for the stages after this one.
    """
    # With a limit of 0 nothing is remembered: no later stage of the caller reads these prompts.
    embeddings = embeddings or Embeddings(model, limit=0)
    general, preserve, done = kept(model, recipe, cache, progress)
    total, sums = done + _own_sentences(recipe), PairSums(model.width)
    for part in parts(recipe):
        sums.merge(part_sums(model, part, embeddings, within(progress, "refine", "", done, total)))
        done += sentences(part)
    embeddings.log()
    return Sums(sums.moments(), sums.all_positions(), general, preserve)


def kept(
    model: Model, recipe: Recipe, cache: Path | None, progress: Report = silent
) -> tuple[Moments | None, Moments | None, int]:
    """The sums over what must stay, and over how many sentences they are.

    Args:
        model: its text encoder is read.
        recipe: its preserve list, and whether its weights ask for the general captions.
        cache: folder that keeps both Grams, or None.
        progress: called with stage "refine": sentences done of all of the stage.

    Returns:
        general and preserve as in `Sums`, and the number of their sentences.
    """
    preserved, captions, rest = list(prompts.preserved(recipe)), 0, _own_sentences(recipe)

    def on_captions(at: Progress) -> None:
        # Nobody knows how many there are before their file is read, which the first report tells.
        nonlocal captions
        captions = at.total
        progress(Progress("refine", "general captions", at.step, captions + len(preserved) + rest))

    general, preserve = None, None
    if find(recipe.method).work(recipe).captions:
        general = grams.general(model, cache, on_captions)
    total = captions + len(preserved) + rest
    if preserved:
        report = within(progress, "refine", "preserve list", captions, total)
        preserve = grams.cached(model, "preserve", preserved, cache, report)
    return general, preserve, captions + len(preserved)


def parts(recipe: Recipe) -> list[tuple[Concept, ...]]:
    """The concepts by their mapping, `TOGETHER` of one mapping at the most.

    The sums of a part do not depend on the others, so they may be made elsewhere; merged in this order they have the
    same bits.

    Args:
        recipe: its concepts.
    """
    found = []
    # `PairSums` shares a product between concepts of one mapping only where they are added in succession.
    for _, group in groupby(sorted(recipe.concepts, key=prompts.mapped), key=prompts.mapped):
        concepts = tuple(group)
        found += [concepts[i : i + TOGETHER] for i in range(0, len(concepts), TOGETHER)]
    return found


def part_sums(model: Model, part: Sequence[Concept], embeddings: Embeddings, progress: Report = silent) -> PairSums:
    """F, C and S of some concepts with one mapping.

    Args:
        model: its text encoder is read.
        part: from `parts`.
        embeddings: of the same model.
        progress: called with stage "refine" at every batch of sentences: sentences done of the part's.
    """
    sums, done, total = PairSums(model.width), 0, sentences(part)
    guide = embeddings.of(prompts.mapped(part[0]), within(progress, "refine", part[0].phrase, done, total))
    done += len(guide.context_NTD)
    for concept in part:
        context = embeddings.of(prompts.about(concept), within(progress, "refine", concept.phrase, done, total))
        done += len(context.context_NTD)
        sums.add(context.context_NTD, guide.context_NTD, _pairs(model, concept))
        progress(Progress("refine", concept.phrase, done, total))
    return sums


def sentences(part: Sequence[Concept]) -> int:
    """How many sentences of a part are encoded: those of each concept, and those of the mapping.

    Args:
        part: from `parts`, concepts of one mapping.
    """
    return len(prompts.mapped(part[0])) + sum(len(prompts.about(concept)) for concept in part)


def _own_sentences(recipe: Recipe) -> int:
    return sum(map(sentences, parts(recipe)))


def solve(sums: Sums, weights: KeepWeights) -> ridge.Refinement:
    """M and its condition number.

    Args:
        sums: from `gather`.
        weights: lambda1, lambda3 and the identity weight.

    Raises:
        SingularGram: too little is kept.
    """
    keep = ridge.keep_gram(weights, sums.general, sums.preserve, len(sums.concepts.gram_DD))
    return ridge.refinement(sums.concepts, keep.total_DD)


def weights(model: Model, solved: ridge.Refinement, progress: Report = silent) -> dict[str, Tensor]:
    """W' = W M: state-dict key -> weight_PD of every projection of the model, in float32 on the CPU.

    A model in half precision rounds it when it is put in place.

    Args:
        model: with its own weights in place.
        solved: from `solve`.
        progress: called after every projection, as of the end of stage "refine".
    """
    refined = {}
    for key, weight_PD in projections.read(model.unet).items():
        refined[key] = ridge.refine(weight_PD.cpu().float(), solved)
        finite.check(refined[key], f"The refined weights of {key}")
        progress(Progress("refine", step=1, total=1))
    return refined


def _pairs(model: Model, concept: Concept) -> list[tuple[list[int], list[int]]]:
    """The co-existing positions of each of the concept's prompts and of the same prompt about its mapping."""
    ids, mapped = text.ids(model, prompts.about(concept)), text.ids(model, prompts.mapped(concept))
    return [tokens.pair_positions(here, there, model.length) for here, there in zip(ids, mapped, strict=True)]
