"""The result of an erasure: weights that take the place of a model's, and the file that holds them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from mace_studio import masks
from mace_studio.errors import FileError, RecipeError
from mace_studio.masks import UserMasks
from mace_studio.methods.mace import FUSIONS
from mace_studio.recipe import Recipe
from mace_studio.sd import files, lora
from mace_studio.sd.model import Model
from mace_studio.settings import KeepWeights

HEADER = "mace_studio"
LORA = "lora."  # begins the names of LoRA tensors in a file; no key of a UNet begins so


@dataclass(frozen=True)
class Erasure:
    """The result: weights that take the place of a model's key and value projections.

    Attributes:
        recipe: what was asked for.
        weights: UNet state-dict key -> weight_PD, in the model's dtype, on the CPU.
        fingerprint: of the base model.
        loras: phrase -> its LoRA, from which others can be fused again without training. One without pairs is of a
            file made by an older version, which kept its losses only. The sums of the prompts are not kept: they
            follow from the recipe exactly, in seconds, and would take 2 x D x D numbers a concept.
        conditions: "refine" and "fuse" -> condition number of the solve.
        warnings: what the user should know, in sentences.
        versions: of the packages that made it.
    """

    recipe: Recipe
    weights: dict[str, Tensor]
    fingerprint: str
    loras: dict[str, lora.LoraDelta] = field(default_factory=dict)
    conditions: dict[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    versions: dict[str, str] = field(default_factory=dict)


def origin(recipe: Recipe, phrase: str = "", given: UserMasks | None = None) -> str:
    """Eight digits that are the same for two recipes whose LoRAs train alike: fusion and names do not count.

    After a “+” come those of the masks that were given by hand for a phrase, if there were any.
    """
    concepts = sorted((replace(c, synonyms=()) for c in recipe.concepts), key=lambda c: c.phrase)
    same = replace(recipe, concepts=tuple(concepts), preserve=tuple(sorted(recipe.preserve)), name="", about="")
    own = same.with_settings(fuse=KeepWeights(), fusion=FUSIONS[0], concepts_at_once=1).digest()
    mine = masks.digest({key: mask for key, mask in (given or {}).items() if key[0] == phrase})
    return f"{own}+{mine}" if mine else own


def digest(erasure: Erasure) -> str:
    """Eight digits for a file's name: the recipe's, or others where another's LoRAs or masks by hand are in it."""
    here = origin(erasure.recipe)
    others = sorted((phrase, delta.origin) for phrase, delta in erasure.loras.items() if delta.origin != here)
    own = erasure.recipe.digest()
    return hashlib.sha256(f"{own} {others}".encode()).hexdigest()[: len(own)] if others else own


# Files


def check_fits(erasure: Erasure, model: Model) -> None:
    """Raise a FileError unless the erasure was made from this model."""
    if erasure.fingerprint != model.fingerprint:
        # bfloat16 rounds so coarsely that the same model loaded in it has another fingerprint.
        dtype = " and ".join({str(weight_PD.dtype).removeprefix("torch.") for weight_PD in erasure.weights.values()})
        raise FileError(
            f"“{erasure.recipe.title()}” was made from another model than {model.name}, so it does not fit; "
            f"load the model that it was made from, in {dtype}."
        )


def save(erasure: Erasure, path: Path) -> None:
    """Write one safetensors file: UNet state-dict keys, and the LoRAs beside them. Equal erasures give equal bytes.

    Raises:
        FileError: the file cannot be written.
    """
    about = {k: v for k, v in vars(erasure).items() if k not in ("weights", "recipe", "loras")}
    about["recipe"] = asdict(erasure.recipe)
    about["losses"] = {phrase: delta.losses for phrase, delta in erasure.loras.items()}
    about["origins"] = {phrase: delta.origin for phrase, delta in erasure.loras.items() if delta.pairs}
    tensors = dict(erasure.weights)
    for i, concept in enumerate(erasure.recipe.concepts):
        delta = erasure.loras.get(concept.phrase)
        for key, (up_PR, down_RD) in delta.pairs.items() if delta else ():
            tensors |= {f"{LORA}{i}.{key}.up": up_PR, f"{LORA}{i}.{key}.down": down_RD}
    # One metadata entry: safetensors writes several in an order that changes from run to run.
    files.write(path, tensors, {HEADER: json.dumps(about, sort_keys=True, ensure_ascii=False)})


def load(path: Path) -> Erasure:
    """Read an erasure; one of an older version has LoRAs without pairs.

    Raises:
        FileError: there is no such file, or it is no erasure.
    """
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads(file.metadata()[HEADER])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
        recipe = Recipe.from_json(json.dumps(about.pop("recipe")))
        losses, origins = about.pop("losses"), about.pop("origins", {})
        pairs = _pairs(tensors)
        loras = {
            c.phrase: lora.LoraDelta(pairs.get(i, {}), tuple(losses[c.phrase]), origins.get(c.phrase, ""))
            for i, c in enumerate(recipe.concepts)
            if c.phrase in losses
        }
        about["warnings"] = tuple(about["warnings"])
        return Erasure(recipe, tensors, loras=loras, **about)
    except FileNotFoundError as error:
        raise FileError(f"There is no file {path}.") from error
    except (SafetensorError, OSError, KeyError, AttributeError, TypeError, ValueError, RecipeError) as error:
        raise FileError(f"{path.name} is not an erasure made by MACE Studio.") from error


def _pairs(tensors: dict[str, Tensor]) -> dict[int, dict[str, tuple[Tensor, Tensor]]]:
    """The LoRAs among the tensors of a file, by the number of their concept; what is left are the weights."""
    sides: dict[int, dict[str, dict[str, Tensor]]] = {}
    for name in [name for name in tensors if name.startswith(LORA)]:
        number, _, rest = name.removeprefix(LORA).partition(".")
        key, _, side = rest.rpartition(".")
        sides.setdefault(int(number), {}).setdefault(key, {})[side] = tensors.pop(name)
    pairs = {i: {key: (both["up"], both["down"]) for key, both in keys.items()} for i, keys in sides.items()}
    for key, (up_PR, down_RD) in ((key, pair) for keys in pairs.values() for key, pair in keys.items()):
        if (*up_PR.shape, *down_RD.shape) != (len(tensors[key]), len(down_RD), len(down_RD), tensors[key].shape[1]):
            raise ValueError(f"the LoRA of {key} has another shape than its weight")
    return pairs
