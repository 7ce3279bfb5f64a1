"""The header of an erasure file: all that the file says beside its tensors, read without torch.

An erasure file is a safetensors file whose metadata has one entry, `HEADER`: a JSON object with the fields of `Header`.
Format 1, which versions before 0.2 wrote, has no "format" and the settings of MACE directly in the recipe.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from safetensors import SafetensorError, safe_open

from mace_studio.errors import FileError, RecipeError
from mace_studio.recipe import Recipe
from mace_studio.text_files import printable

HEADER = "mace_studio"
FORMAT = 2


@dataclass(frozen=True, kw_only=True)
class Header:
    """What an erasure file says of itself.

    Attributes:
        recipe: what was asked for.
        fingerprint: of the base model.
        unet: fingerprint of its UNet alone; "" in files of older versions.
        conditions: "refine" and "fuse" -> condition number of the solve.
        warnings: what the user should know, in sentences.
        versions: package -> version that made it.
        losses: phrase -> the loss of every training step of its LoRA, or of the whole method's.
        origins: phrase -> digest of the recipe that trained its LoRA, for every LoRA that is in the file; those of the
            first versions are not.
        format: of the file.
    """

    recipe: Recipe
    fingerprint: str
    unet: str = ""
    conditions: Mapping[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    losses: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    origins: Mapping[str, str] = field(default_factory=dict)
    format: int = FORMAT

    @property
    def composable(self) -> bool:
        """Whether MACE can fuse its concepts again: they need no LoRAs, or the file has all of them."""
        if not self.recipe.composes:
            return False
        return not self.recipe.settings.lora.steps or {c.phrase for c in self.recipe.concepts} <= set(self.origins)

    def metadata(self) -> dict[str, str]:
        """The metadata of the file; one entry, since safetensors writes several in an order that changes."""
        return {HEADER: json.dumps(asdict(self), sort_keys=True, ensure_ascii=False)}


def read(path: Path) -> Header:
    """Read the header of an erasure file of this format or an older one.

    Raises:
        FileError: there is no such file, it is no erasure, or a newer version made it.
    """
    if os.path.exists(path) and not os.path.isfile(path):  # to open a pipe would wait for its writer
        raise FileError(f"{path.name} is no file.")
    try:
        with safe_open(path, framework="numpy") as file:
            about = json.loads(file.metadata()[HEADER])
        found = about.get("format", 1)
        if found > FORMAT:
            raise FileError(f"{path.name} was made by a newer version of MACE Studio; update this one to use it.")
        return Header(
            recipe=Recipe.from_json(json.dumps(about["recipe"])),
            fingerprint=str(about["fingerprint"]),
            unet=str(about.get("unet", "")),
            conditions={str(stage): float(number) for stage, number in about["conditions"].items()},
            warnings=tuple(printable(str(warning)) for warning in about["warnings"]),
            versions={str(name): str(version) for name, version in about.get("versions", {}).items()},
            losses={str(phrase): tuple(map(float, losses)) for phrase, losses in about["losses"].items()},
            origins={str(phrase): str(origin) for phrase, origin in about.get("origins", {}).items()},
            format=int(found),
        )
    except FileNotFoundError as error:
        raise FileError(f"There is no file {path}.") from error
    except RecipeError as error:
        unknown = f"{path.name} was made by a method that is not installed here; install the package that has it."
        raise FileError(
            unknown if error.field == "method" else f"{path.name} is not an erasure made by MACE Studio."
        ) from error
    except (RecursionError, OverflowError) as error:  # JSON that is too deep, a number of 400 digits
        raise FileError(f"{path.name} is not an erasure made by MACE Studio.") from error
    except (SafetensorError, OSError, KeyError, AttributeError, TypeError, ValueError) as error:
        raise FileError(f"{path.name} is not an erasure made by MACE Studio.") from error
