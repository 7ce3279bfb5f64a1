"""Use case erase(): images, masks, refinement, LoRAs and fusion in order. The model stays as it was."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from mace_studio import __version__, prompts, refinement
from mace_studio import pictures as training
from mace_studio.core import ridge
from mace_studio.errors import FileError
from mace_studio.pictures import Pictures
from mace_studio.progress import Progress, clocked, relay
from mace_studio.recipe import Concept, Recipe
from mace_studio.sd import files, generate, knowledge, lora, projections, room, text
from mace_studio.sd.loading import Model, captions_of

HEADER = "mace_studio"
PACKAGES = ("torch", "diffusers", "transformers", "peft")
# Beside a UNet sample in a full batch: a forward and a backward of a lone one; a sentence through the text encoder.
LORA_COST, SENTENCE_COST = 6.0, 0.02


@dataclass(frozen=True)
class Erasure:
    """The result: weights that take the place of a model's key and value projections.

    Attributes:
        recipe: what was asked for.
        weights: UNet state-dict key -> weight_PD, in the model's dtype, on the CPU.
        fingerprint: of the base model.
        losses: phrase -> the loss of its LoRA at each step.
        conditions: "refine" and "fuse" -> condition number of the solve.
        warnings: what the user should know, in sentences.
        versions: of the packages that made it.
    """

    recipe: Recipe
    weights: dict[str, Tensor]
    fingerprint: str
    losses: dict[str, tuple[float, ...]] = field(default_factory=dict)
    conditions: dict[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    versions: dict[str, str] = field(default_factory=dict)


@dataclass
class _Notes:
    """What the stages of one run have to say beside their results."""

    losses: dict[str, tuple[float, ...]] = field(default_factory=dict)
    conditions: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def erase(model: Model, recipe: Recipe, cache: Path | None = None) -> Generator[Progress, None, Erasure]:
    """Run a recipe on a model.

    The model is bit for bit what it was, whether this ends in success, in an error or by closing the generator. Same
    recipe, seed and device give the same weights.

    Args:
        model: from `sd.loading.load`.
        recipe: checked here.
        cache: folder for training images and for the Gram of the general captions; None keeps nothing.

    Raises:
        StudioError: with a sentence for the user.
    """
    recipe.check()
    return (yield from clocked(_stages(model, recipe, cache), _costs(recipe)))


def _costs(recipe: Recipe) -> dict[str, float]:
    concepts, trains = len(recipe.concepts), recipe.lora.steps > 0
    return {
        "images": trains * concepts * recipe.images.per_concept * recipe.images.steps * 2.0,
        "masks": 0.0,
        "refine": prompts.count(recipe) * SENTENCE_COST,
        "lora": concepts * recipe.lora.steps * LORA_COST,
        "fuse": trains * prompts.count(recipe) * SENTENCE_COST + 1.0,
    }


def _stages(model: Model, recipe: Recipe, cache: Path | None) -> Generator[Progress, None, Erasure]:
    notes = _Notes()
    trains = recipe.lora.steps > 0
    pictures = (yield from training.draw(model, recipe, cache, notes.warnings)) if trains else []
    sums = yield from refinement.gather(model, recipe, cache)
    if sums.general is not None and model.captions != captions_of(model.source):
        notes.warnings.append(f"General knowledge was taken from {model.captions.name}.")
    solved = refinement.solve(sums, recipe.refine)
    notes.conditions["refine"] = solved.condition
    weights = refined = refinement.weights(model, solved)
    if trains:
        room.free()  # what the drawing used is not kept beside what the training uses, nor that beside the fusion
        deltas = yield from _train(model, recipe, pictures, refined, notes)
        room.free()
        weights = yield from _fuse(model, recipe, refined, deltas, sums, notes)
    yield Progress("fuse", step=1, total=1)
    return Erasure(
        recipe,
        {key: weight_PD.cpu() for key, weight_PD in weights.items()},
        model.fingerprint,
        notes.losses,
        notes.conditions,
        tuple(notes.warnings),
        {"mace_studio": __version__} | {name: version(name) for name in PACKAGES},
    )


# Stage 2: LoRAs


def _train(
    model: Model, recipe: Recipe, pictures: Sequence[Pictures], refined: Mapping[str, Tensor], notes: _Notes
) -> Generator[Progress, None, list[lora.LoraDelta]]:
    total, space = len(recipe.concepts) * recipe.lora.steps, room.Room(recipe.concepts_at_once)

    def train(group: Sequence[tuple[Concept, Pictures]], done: int) -> Generator[Progress, None, list[lora.LoraDelta]]:
        subjects = [_subject(model, recipe, concept, drawn) for concept, drawn in group]
        tell = _losses([concept for concept, _ in group], done * recipe.lora.steps, total)
        return (yield from relay(lora.train(model, subjects, recipe.lora), tell))

    with projections.swapped(model.unet, refined):
        deltas = yield from space.each(list(zip(recipe.concepts, pictures, strict=True)), train)
    if space.at_once < recipe.concepts_at_once:
        notes.warnings.append(
            f"There was not enough memory for {recipe.concepts_at_once} concepts at once, so the LoRAs were trained "
            f"with {space.at_once} at once."
        )
    notes.losses |= {c.phrase: d.losses for c, d in zip(recipe.concepts, deltas, strict=True)}
    return deltas


def _losses(group: Sequence[Concept], before: int, total: int) -> Callable[[lora.Step], Progress]:
    def tell(step: lora.Step) -> Progress:
        done = before + (step.number - 1) * len(group) + step.subject + 1
        return Progress("lora", group[step.subject].phrase, done, total, step.loss)

    return tell


def _subject(model: Model, recipe: Recipe, concept: Concept, pictures: Pictures) -> lora.Subject:
    sentences = prompts.about(concept)
    ids = text.ids(model, sentences)
    positions = [text.positions(model, row, concept.phrase) for row in ids]
    if recipe.lora.pad_tokens:
        positions = [p + text.closing(row, model.length) for p, row in zip(positions, ids, strict=True)]
    context_MTD, pooled_MC = text.encode(model, sentences)
    guidance = generate.suited(model, recipe.images).guidance
    return lora.Subject(
        concept.phrase, pictures.latents_NCHW, pictures.masks, context_MTD, positions, recipe.seed, pooled_MC, guidance
    )


# Stage 3: fusion


def _fuse(
    model: Model,
    recipe: Recipe,
    refined: Mapping[str, Tensor],
    deltas: Sequence[lora.LoraDelta],
    sums: refinement.Sums,
    notes: _Notes,
) -> Generator[Progress, None, dict[str, Tensor]]:
    if recipe.fusion == "weighted-sum":
        return ridge.weighted_sum(refined, [delta.pairs for delta in deltas])
    fusion = ridge.Fusion(model.width)
    for i, (concept, delta) in enumerate(zip(recipe.concepts, deltas, strict=True)):
        fusion.add(knowledge.gram(model, prompts.about(concept)).gram_DD, delta.pairs)
        yield Progress("fuse", concept.phrase, i, len(recipe.concepts))
    keep = ridge.keep_gram(recipe.fuse, sums.general, sums.preserve, model.width)
    fused = fusion.solve(projections.read(model.unet), refined, keep)
    notes.conditions["fuse"] = fused.condition
    return fused.weights


# Files


def check_fits(erasure: Erasure, model: Model) -> None:
    """Raise a FileError unless the erasure was made from this model."""
    if erasure.fingerprint != model.fingerprint:
        # bfloat16 rounds so coarsely that the same model loaded in it has another fingerprint.
        dtype = " and ".join({str(weight_PD.dtype).removeprefix("torch.") for weight_PD in erasure.weights.values()})
        raise FileError(
            f"“{erasure.recipe.title()}” was made from another model than {model.source}, so it does not fit; "
            f"load the model that it was made from, in {dtype}."
        )


def save(erasure: Erasure, path: Path) -> None:
    """Write one safetensors file with UNet state-dict keys; equal erasures give equal bytes.

    Raises:
        FileError: the file cannot be written.
    """
    about = {k: v for k, v in vars(erasure).items() if k not in ("weights", "recipe")}
    about |= {"recipe": asdict(erasure.recipe)}
    # One metadata entry: safetensors writes several in an order that changes from run to run.
    files.write(path, erasure.weights, {HEADER: json.dumps(about, sort_keys=True, ensure_ascii=False)})


def load(path: Path) -> Erasure:
    """Read an erasure.

    Raises:
        FileError: there is no such file, or it is no erasure.
    """
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads(file.metadata()[HEADER])
            weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
    except FileNotFoundError as error:
        raise FileError(f"There is no file {path}.") from error
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise FileError(f"{path.name} is not an erasure made by MACE Studio.") from error
    about["recipe"] = Recipe.from_json(json.dumps(about["recipe"]))
    about["losses"] = {phrase: tuple(curve) for phrase, curve in about["losses"].items()}
    about["warnings"] = tuple(about["warnings"])
    return Erasure(weights=weights, **about)
