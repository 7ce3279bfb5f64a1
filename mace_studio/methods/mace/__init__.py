"""MACE: Mass Concept Erasure in Diffusion Models (CVPR 2024). Its settings; torch is imported by the stages only."""

from __future__ import annotations

from dataclasses import dataclass, field

from mace_studio.errors import RecipeError
from mace_studio.settings import (
    ImageSettings,
    KeepWeights,
    LoraSettings,
    bounded,
    check_images,
    check_keep_weights,
    check_lora,
    one_of,
)

FUSIONS = ("closed-form", "weighted-sum")
MASKS = ("attention", "clipseg", "grounded-sam", "none")


@dataclass(frozen=True, kw_only=True)
class MaceSettings:
    """Settings of the three stages.

    Attributes:
        refine: keep weights of stage 1 (Eq. 2).
        fuse: keep weights of stage 3 (Eq. 7).
        lora: stage 2 (Eq. 3-5).
        fusion: "closed-form" (Eq. 7) or "weighted-sum" (Eq. 6, the ablation).
        images: the training images.
        masks: where they come from, one of `MASKS`; styles and explicit content never have any.
        concepts_at_once: how many LoRAs train in one forward; changes memory and speed, not the result.
    """

    refine: KeepWeights = field(default_factory=lambda: KeepWeights(general=1e-4, preserve=1.0))
    fuse: KeepWeights = field(default_factory=lambda: KeepWeights(general=1e-4, preserve=1.0))
    lora: LoraSettings = field(default_factory=LoraSettings)
    fusion: str = "closed-form"
    images: ImageSettings = field(default_factory=ImageSettings)
    masks: str = "attention"
    concepts_at_once: int = 4

    def check(self) -> None:
        """Raise a RecipeError that names the first field at fault and the remedy."""
        check_keep_weights("refine", self.refine)
        check_keep_weights("fuse", self.fuse)
        check_lora(self.lora)
        check_images(self.images)
        one_of("fusion", self.fusion, FUSIONS)
        one_of("masks", self.masks, MASKS)
        if self.images.path and self.masks in ("clipseg", "grounded-sam"):
            raise RecipeError("images.path", f"Masks by {self.masks} need finished images; use those of the attention.")
        bounded("concepts_at_once", self.concepts_at_once)
