"""What the user asks of an export: which format, where to, and how much of the change a LoRA keeps. stdlib only."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from mace_studio.errors import FileError, RecipeError

# Format -> what reads it. A diffusers model is a folder, all others are one file.
FORMATS = {
    "diffusers": "a whole model as a folder: diffusers, InvokeAI",
    "unet": "the changed weights only, under the UNet's own names: scripts with diffusers",
    "lycoris": "the exact difference as a LyCORIS file: ComfyUI, A1111, InvokeAI",
    "lora": "an approximation that all LoRA loaders read: ComfyUI, A1111, InvokeAI, diffusers",
    "checkpoint": "a whole model as a single file: ComfyUI, A1111",
}
INDEX = "model_index.json"
ENERGY = 0.9999


@dataclass(frozen=True)
class ExportRequest:
    """How to write an erasure for other programs.

    Attributes:
        format: one of `FORMATS`.
        path: the folder of "diffusers", a .safetensors file otherwise. A model card is written in or beside it.
        rank: of a LoRA, or None.
        energy: or the share of the squared difference that a LoRA keeps in every layer; `ENERGY` if neither is given.
        overwrite: replace what is at `path`.
        pairs: pictures that a comparison saved, for the model card.
        report: the `report.json` of an evaluation, for the model card, or None.
    """

    format: str
    path: Path
    rank: int | None = None
    energy: float | None = None
    overwrite: bool = False
    pairs: tuple[Path, ...] = ()
    report: Path | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """Everything that is written: the model itself last."""
        if self.format == "diffusers":
            return (self.path,)
        return tuple(self.path.with_suffix(end) for end in (".md", *((".png",) if self.pairs else ()), ".safetensors"))

    def check(self) -> None:
        """Refuse what cannot be written.

        Raises:
            RecipeError: a setting; the message names it.
            FileError: something is at the path already.
        """
        self._check_settings()
        for path in self.files:
            if (path.exists() or path.is_symlink()) and not self.overwrite:
                raise FileError(f"{path} exists already; choose another name, or ask for it to be overwritten.")
        if self.format == "diffusers":
            self._check_folder()
        elif self.path.is_dir():
            raise FileError(f"{self.path} is a folder; give the name of a .safetensors file.")

    def _check_settings(self) -> None:
        if self.format not in FORMATS:
            raise RecipeError("format", f"“{self.format}” is not known; use one of {', '.join(FORMATS)}.")
        if self.format != "diffusers" and self.path.suffix != ".safetensors":
            raise RecipeError("path", f"The name of this format's file ends in .safetensors; “{self.path}” does not.")
        if self.format != "lora" and (self.rank, self.energy) != (None, None):
            raise RecipeError("rank", "Rank and energy belong to the format “lora”; leave them out.")
        if self.rank is not None and self.energy is not None:
            raise RecipeError("rank", "Give either a rank or an energy, not both.")
        if self.rank is not None and self.rank < 1:
            raise RecipeError("rank", f"The rank is at least 1, not {self.rank}.")
        if self.energy is not None and not 0 < self.energy <= 1:
            raise RecipeError("energy", f"The energy is a share above 0 and at most 1, not {self.energy}.")

    def _check_folder(self) -> None:
        # Overwriting removes the folder with all that is in it.
        if self.path.exists() and not self.path.is_dir():
            raise FileError(f"{self.path} is a file; give the name of a folder.")
        if self.path.is_symlink():
            raise FileError(f"{self.path} is a link to another folder; give the name of that folder, or a new one.")
        if self.path.is_dir() and any(os.scandir(self.path)) and not (self.path / INDEX).is_file():
            raise FileError(f"{self.path} holds other things than a model, so it stays; choose another folder.")
