"""The result of an erasure: weights that take the place of a model's, and the file that holds them."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from mace_studio import erasure_header, masks, methods, sources
from mace_studio.erasure_header import Header
from mace_studio.errors import FileError
from mace_studio.masks import UserMasks
from mace_studio.methods.mace import FUSIONS
from mace_studio.paths import slug
from mace_studio.recipe import Recipe
from mace_studio.sd import files, finite, lora, projections
from mace_studio.sd.model import Model
from mace_studio.settings import KeepWeights
from mace_studio.spent import Spent

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

log = logging.getLogger(__name__)

LORA = "lora."  # begins the names of LoRA tensors in a file; no key of a UNet begins so
PROJECTION = re.compile(r"(?:down_blocks|mid_block|up_blocks)\.[\w.]+\.attn2\.to_[kv]\.weight")
# What a method may change that trains the whole UNet.
PARAMETER = re.compile(r"(?!lora\.)[a-z]\w*\.[\w.]*(?:weight|bias)")
ADAPTER = re.compile(rf"lora\.(\d{{1,4}})\.{PROJECTION.pattern}\.(?:up|down)")
FLOATS = ("F64", "F32", "F16", "BF16")


@dataclass(frozen=True, kw_only=True)
class Erasure:
    """The result: weights that take the place of a model's key and value projections, or of others of its UNet.

    Attributes:
        recipe: what was asked for.
        weights: UNet state-dict key -> weight, in the model's dtype, on the CPU.
        fingerprint: of the base model.
        unet: fingerprint of its UNet alone, which is all that is edited; "" where an older version made it.
        loras: phrase -> its LoRA, from which others can be fused again without training. One without pairs is of a
            file made by an older version, which kept its losses only. The sums of the prompts are not kept: they
            follow from the recipe exactly, in seconds, and would take 2 x D x D numbers a concept.
        conditions: "refine" and "fuse" -> condition number of the solve.
        losses: phrase -> the loss of each training step of a method that trains without LoRAs; those of a LoRA are its
            own.
        warnings: what the user should know, in sentences.
        versions: package -> version that made it.
        spent: what the run took that made it; None of one that was read or composed. Its file does not say it, since
            equal erasures give equal bytes.

    Example:
        >>> erasure = erase(model, recipe)
        >>> erasure.save("cat.safetensors")
        >>> with erasure.applied(model):
        ...     images = model.generate("a photo of a cat", seeds=[0, 1])
    """

    recipe: Recipe
    weights: Mapping[str, Tensor]
    fingerprint: str
    unet: str = ""
    loras: Mapping[str, lora.LoraDelta] = field(default_factory=dict)
    conditions: Mapping[str, float] = field(default_factory=dict)
    losses: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    spent: Spent | None = None

    @contextmanager
    def applied(self, model: Model) -> Iterator[None]:
        """Inside the `with` block the model is the erased one; it is bit for bit the same afterwards.

        Raises:
            FileError: the erasure was made from another model.
        """
        check_fits(self, model)
        method = methods.find(self.recipe.method)
        with ExitStack() as stack:
            stack.enter_context(projections.swapped(model.unet, self.weights, method.changes))
            if method.guide:
                stack.enter_context(method.guide(model, self.recipe))
            yield

    def checksum(self) -> str:
        """SHA-256 of the weights, in float32; of a method that acts while images are generated, of its recipe."""
        digest = hashlib.sha256(self.recipe.to_json().encode() if methods.find(self.recipe.method).guide else b"")
        for key, weight_PD in sorted(self.weights.items()):
            digest.update(key.encode())
            digest.update(weight_PD.to("cpu", torch.float32).contiguous().numpy().data)
        return digest.hexdigest()

    def apply(self, pipeline: DiffusionPipeline) -> None:
        """Write the weights into a diffusers pipeline for good.

        Args:
            pipeline: any whose UNet has these weights; its dtype and device stay.

        Raises:
            FileError: the UNet lacks a weight that the method may change, or has one of another shape, or the method
                changes no weights; nothing is changed then.
            NotFinite: the pipeline's dtype has no room for a weight; nothing is changed then either.
        """
        check_has_weights(self)
        check_finite(self)
        parameters = projections.read(pipeline.unet, methods.find(self.recipe.method).changes)
        for key, weight in self.weights.items():
            if key not in parameters or parameters[key].shape != weight.shape:
                had = f"one of {tuple(parameters[key].shape)}" if key in parameters else "none"
                raise FileError(
                    f"“{self.recipe.title()}” does not fit this pipeline: it has {key} of {tuple(weight.shape)}, "
                    f"the pipeline has {had}. Use a pipeline of the family that the erasure was made from."
                )
        fitting = {key: finite.converted(weight, parameters[key], key) for key, weight in self.weights.items()}
        for key, weight in fitting.items():
            parameters[key].copy_(weight)

    def save(self, path: Path | str) -> None:
        """Write one safetensors file: UNet state-dict keys, and the LoRAs beside them.

        Equal erasures give equal bytes.

        Raises:
            FileError: the file cannot be written.
        """
        check_finite(self)
        header = Header(
            recipe=self.recipe,
            fingerprint=self.fingerprint,
            unet=self.unet,
            conditions=self.conditions,
            warnings=self.warnings,
            versions=self.versions,
            losses={**self.losses, **{phrase: delta.losses for phrase, delta in self.loras.items()}},
            origins={phrase: delta.origin for phrase, delta in self.loras.items() if delta.pairs},
        )
        tensors = dict(self.weights)
        for i, concept in enumerate(self.recipe.concepts):
            delta = self.loras.get(concept.phrase)
            for key, (up_PR, down_RD) in delta.pairs.items() if delta else ():
                tensors |= {f"{LORA}{i}.{key}.up": up_PR, f"{LORA}{i}.{key}.down": down_RD}
        files.write(Path(path), tensors, header.metadata())


def file_in(folder: Path, recipe: Recipe, digits: str, fingerprint: str) -> Path:
    """Where in a folder an erasure lies that is named by its title; no erasure from another model lies there.

    Args:
        folder: of the erasures.
        recipe: of the erasure.
        digits: of its recipe, or from `digest`.
        fingerprint: of the model that it is made from. Where a file of these digits is of another one, other digits are
            taken, made of both.
    """
    path = folder / f"{slug(recipe.title())}-{digits}.safetensors"
    try:
        if not path.exists() or erasure_header.read(path).fingerprint == fingerprint:
            return path
    except FileError:  # no erasure: it is in the way, and is replaced
        return path
    both = hashlib.sha256(f"{digits} {fingerprint}".encode()).hexdigest()[: len(digits)]
    return path.with_name(f"{slug(recipe.title())}-{both}.safetensors")


def load(path: Path | str) -> Erasure:
    """Read an erasure of this version or an older one; those of the first version have LoRAs without pairs.

    Args:
        path: of the file.

    Raises:
        FileError: there is no such file, it is no erasure, or a newer version made it.

    Example:
        >>> erasure = load_erasure("cat.safetensors")
    """
    path = Path(path)
    header = erasure_header.read(path)
    try:
        _check_tensors(path, header.recipe)
        tensors = load_file(path)
        pairs = _take_loras(tensors)
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise FileError(f"{path.name} is not an erasure made by MACE Studio.") from error
    loras = {
        concept.phrase: lora.LoraDelta(
            pairs.get(i, {}), header.losses[concept.phrase], header.origins.get(concept.phrase, "")
        )
        for i, concept in enumerate(header.recipe.concepts)
        if concept.phrase in header.losses and header.recipe.composes
    }
    result = Erasure(
        recipe=header.recipe,
        weights=tensors,
        fingerprint=header.fingerprint,
        unet=header.unet,
        loras=loras,
        conditions=header.conditions,
        losses={} if loras else header.losses,
        warnings=header.warnings,
        versions=header.versions,
    )
    check_finite(result)
    return result


def check_finite(erasure: Erasure) -> None:
    """Raise a NotFinite unless every weight of an erasure, and of its LoRAs, is a finite number."""
    finite.check_weights(erasure.weights, f"The weights of “{erasure.recipe.title()}”")
    for phrase, delta in erasure.loras.items():
        for key, pair in delta.pairs.items():
            for tensor in pair:
                finite.check(tensor, f"The LoRA of “{phrase}”, {key},")


def check_fits(erasure: Erasure, model: Model) -> None:
    """Raise a FileError unless the erasure was made from this model's UNet, and a NotFinite where it is no numbers.

    With another VAE or text encoder beside the same UNet it fits; the log has `doubt` then.
    """
    check_finite(erasure)
    own = projections.read(model.unet, methods.find(erasure.recipe.method).changes)
    shapes_fit = all(key in own and own[key].shape == weight_PD.shape for key, weight_PD in erasure.weights.items())
    if shapes_fit and erasure.fingerprint == model.fingerprint:
        return
    if shapes_fit and (sentence := doubt(erasure, model)):
        log.warning("%s", sentence)
    else:
        # bfloat16 rounds so coarsely that the same model loaded in it has another fingerprint.
        dtypes = {str(weight.dtype).removeprefix("torch.") for weight in erasure.weights.values()}
        raise FileError(
            f"“{erasure.recipe.title()}” was made from another model than {model.name}, so it does not fit; "
            f"load the model that it was made from{', in ' if dtypes else ''}{' and '.join(dtypes)}."
        )


def doubt(erasure: Erasure, model: Model) -> str:
    """What to know of an erasure from the same UNet beside another VAE or text encoder, in a sentence; "" otherwise."""
    if erasure.fingerprint == model.fingerprint or not erasure.unet or erasure.unet != model.unet_fingerprint:
        return ""
    return (
        f"“{erasure.recipe.title()}” was made from the UNet of {model.name}, beside another VAE or text encoder; "
        "images may differ in that."
    )


def check_has_weights(erasure: Erasure) -> None:
    """Raise a FileError if its method changes no weights but acts while images are generated."""
    method = methods.find(erasure.recipe.method)
    if method.guide:
        raise FileError(
            f"“{erasure.recipe.title()}” has no weights to write: {method.title} acts while MACE Studio generates an "
            "image. Erase with another method to use the result elsewhere."
        )


def origin(recipe: Recipe, phrase: str = "", user_masks: UserMasks | None = None) -> str:
    """Eight digits that are the same for two recipes of MACE whose LoRAs train alike: fusion and names do not count.

    After a “+” come those of the masks that a user made for a phrase, if there are any.
    """
    concepts = sorted((replace(c, synonyms=()) for c in recipe.concepts), key=lambda c: c.phrase)
    same = replace(recipe, concepts=tuple(concepts), preserve=tuple(sorted(recipe.preserve)), name="", about="")
    own = same.with_settings(fuse=KeepWeights(), fusion=FUSIONS[0], concepts_at_once=1).digest()
    mask_digits = masks.digest({key: mask for key, mask in (user_masks or {}).items() if key[0] == phrase})
    return f"{own}+{mask_digits}" if mask_digits else own


def digest(erasure: Erasure) -> str:
    """Eight digits for a file's name: the recipe's, or others where it has another recipe's LoRAs or a user's masks."""
    own = erasure.recipe.digest()
    if not erasure.loras:
        return own
    here = origin(erasure.recipe)
    others = sorted((phrase, delta.origin) for phrase, delta in erasure.loras.items() if delta.origin != here)
    return hashlib.sha256(f"{own} {others}".encode()).hexdigest()[: len(own)] if others else own


def _check_tensors(path: Path, recipe: Recipe) -> None:
    """Raise a FileError unless a file holds what its recipe's method may change, and LoRAs; no tensor is read."""
    method, concepts = methods.find(recipe.method), len(recipe.concepts)
    allowed = PROJECTION if method.changes == "projections" else PARAMETER
    with safe_open(path, framework="pt") as file:
        headers = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
        tensors = {key: (part.get_dtype(), part.get_shape()) for key, part in headers.items()}
    if not method.guide and not any(allowed.fullmatch(key) for key in tensors):
        raise FileError(f"{path.name} holds no weights of key and value projections, so it is no erasure.")
    for key, (dtype, shape) in tensors.items():
        adapter = ADAPTER.fullmatch(key)
        # Leading zeros would make two names of one concept.
        known = adapter and str(int(adapter[1])) == adapter[1] and int(adapter[1]) < concepts
        if method.guide or not (known or allowed.fullmatch(key)):
            raise FileError(
                f"{path.name} holds “{sources.shown(key)}”, which is no key or value projection and no LoRA of its "
                "concepts; it is not an erasure made by MACE Studio."
            )
        if dtype not in FLOATS or (len(shape) != 2 and allowed is PROJECTION) or 0 in shape:
            raise FileError(
                f"{path.name} holds “{sources.shown(key)}” as {dtype} of shape {list(shape)}; the weights of an "
                "erasure are matrices of floating-point numbers."
            )


def _take_loras(tensors: dict[str, Tensor]) -> dict[int, dict[str, tuple[Tensor, Tensor]]]:
    """The LoRAs among the tensors of a file, by the number of their concept; the weights are left in `tensors`."""
    sides: dict[int, dict[str, dict[str, Tensor]]] = {}
    for name in [name for name in tensors if name.startswith(LORA)]:
        number, _, rest = name.removeprefix(LORA).partition(".")
        key, _, side = rest.rpartition(".")
        sides.setdefault(int(number), {}).setdefault(key, {})[side] = tensors.pop(name)
    loras = {i: {key: (both["up"], both["down"]) for key, both in keys.items()} for i, keys in sides.items()}
    for key, (up_PR, down_RD) in ((key, pair) for pairs in loras.values() for key, pair in pairs.items()):
        if (*up_PR.shape, *down_RD.shape) != (len(tensors[key]), len(down_RD), len(down_RD), tensors[key].shape[1]):
            raise ValueError(f"the LoRA of {key} has another shape than its weight")
    return loras
