"""The formats of an export, one row each, and what the user asks of an export. No torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path

from mace_studio.errors import FileError, RecipeError
from mace_studio.settings import bounded

INDEX = "model_index.json"
HEADER = "mace_studio_export"  # what the metadata of each safetensors file of an export has under this name says of it
ENERGY = 0.9999  # of a LoRA, when neither a rank nor an energy is given
GUIDANCE_EMBEDDED = "guidance-embedded"  # the family of models whose UNet reads the guidance scale: LCM


@dataclass(frozen=True, kw_only=True)
class Format:
    """One way to write an erasure for other programs.

    Attributes:
        title: what to call it.
        content: what is written, in a few words.
        readers: the programs that read it.
        usage: how they do, for the model card; "{file}" stands for the name of the file or folder.
        write: name of the function of `exports.writers` that writes it.
        folder: whether it is a folder in the diffusers layout; a single .safetensors file otherwise.
        has_rank: whether it is of low rank, so that `ExportRequest.rank` and `energy` apply.
        network: `ss_network_module` of the file's metadata, by which A1111 chooses how to load it; "" for none.
        refuses: family of models that it cannot hold -> why, as a whole sentence without its full stop.
    """

    title: str
    content: str
    readers: tuple[str, ...]
    usage: str
    write: str
    folder: bool = False
    has_rank: bool = False
    network: str = ""
    refuses: Mapping[str, str] = field(default_factory=dict)

    @property
    def suffix(self) -> str:
        """How the name of its file ends; "" for a folder."""
        return "" if self.folder else ".safetensors"

    @property
    def about(self) -> str:
        """What it is and what reads it, such as "the changed weights, for scripts with diffusers"."""
        return f"{self.content}, for {', '.join(self.readers)}"


FORMATS: dict[str, Format] = {
    "diffusers": Format(
        title="Diffusers folder",
        content="a whole model as a folder",
        readers=("diffusers", "InvokeAI"),
        usage="A whole model. `DiffusionPipeline.from_pretrained` of diffusers loads this folder, and so does "
        "InvokeAI. Of the weights, only those under `unet/` that the method changes differ from the base model.",
        write="write_folder",
        folder=True,
    ),
    "unet": Format(
        title="UNet weights",
        content="the changed weights only, under the UNet's own names",
        readers=("scripts with diffusers",),
        usage="The changed weights alone, under the names of diffusers. Load the base model with diffusers, then "
        '`pipeline.unet.load_state_dict(safetensors.torch.load_file("{file}"), strict=False)`.',
        write="write_unet",
    ),
    "lycoris": Format(
        title="LyCORIS",
        content="the exact difference as a LyCORIS file",
        readers=("ComfyUI", "A1111", "InvokeAI"),
        usage="The difference to the base model, exact up to rounding. ComfyUI, A1111 and InvokeAI load it like a "
        "LoRA, on top of the base model, at a strength of 1. `load_lora_weights` of diffusers does not read this kind.",
        write="write_lycoris",
        network="lycoris.kohya",
    ),
    "lora": Format(
        title="LoRA",
        content="an approximation that all LoRA loaders read",
        readers=("ComfyUI", "A1111", "InvokeAI", "diffusers"),
        usage="The difference to the base model as a LoRA, which leaves a part of it out (below). ComfyUI, A1111, "
        "InvokeAI and `load_lora_weights` of diffusers load it on top of the base model, at a strength of 1.",
        write="write_lora",
        has_rank=True,
        network="networks.lora",
    ),
    "checkpoint": Format(
        title="Single-file checkpoint",
        content="a whole model as a single file",
        readers=("ComfyUI", "A1111"),
        usage="A whole model in one file, in the layout of the original checkpoints, for ComfyUI and A1111. Its "
        "metadata names the base model; programs that ask for a configuration take the base model's.",
        write="write_checkpoint",
        refuses={
            GUIDANCE_EMBEDDED: "The single-file layout has no place for time_embedding.cond_proj, by which this model "
            "reads the guidance scale"
        },
    ),
}


@dataclass(frozen=True)
class ExportRequest:
    """How to write an erasure for other programs.

    Attributes:
        format: one of `FORMATS`.
        path: the folder, or the .safetensors file. A model card is written in or beside it.
        rank: of a LoRA, or None.
        energy: or the share of the squared difference that a LoRA keeps in every layer; `ENERGY` if neither is given.
        overwrite: replace what is at `path`.
        pairs: images that a comparison saved, for the model card.
        report: the `report.json` of an evaluation, for the model card, or None.
    """

    format: str
    path: Path
    _: KW_ONLY
    rank: int | None = None
    energy: float | None = None
    overwrite: bool = False
    pairs: tuple[Path, ...] = ()
    report: Path | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """Everything that is written: the model itself last."""
        if FORMATS[self.format].folder:
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
        if FORMATS[self.format].folder:
            self._check_folder()
        elif self.path.is_dir():
            raise FileError(f"{self.path} is a folder; give the name of a .safetensors file.")

    def _check_settings(self) -> None:
        if self.format not in FORMATS:
            raise RecipeError("format", f"“{self.format}” is not known; use one of {', '.join(FORMATS)}.")
        wanted = FORMATS[self.format]
        if not wanted.folder and self.path.suffix != wanted.suffix:
            raise RecipeError("path", f"The name of this format's file ends in .safetensors; “{self.path}” does not.")
        if not wanted.has_rank and (self.rank, self.energy) != (None, None):
            ranked = ", ".join(f"“{name}”" for name, row in FORMATS.items() if row.has_rank)
            raise RecipeError("rank", f"Rank and energy belong to the format {ranked}; leave them out.")
        if self.rank is not None and self.energy is not None:
            raise RecipeError("rank", "Give either a rank or an energy, not both.")
        if self.rank is not None:
            bounded("rank", self.rank)
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
