"""Models that find a thing in images by its name: CLIPSeg, and Grounding DINO with Segment Anything.

Their images are prepared by the PIL versions of the image processors; the others need torchvision.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from PIL.Image import Image
from torch import Tensor
from torch.nn import functional
from transformers import (
    AutoTokenizer,
    CLIPSegForImageSegmentation,
    CLIPTokenizer,
    GroundingDinoForObjectDetection,
    GroundingDinoImageProcessorPil,
    GroundingDinoProcessor,
    SamImageProcessorPil,
    SamModel,
    ViTImageProcessorPil,
)

from mace_studio.errors import ModelError
from mace_studio.progress import Progress, Report, silent
from mace_studio.sd import hub, parts

# What is fetched from the hub, by the name of the folder that may take its place.
MODELS = {
    "clipseg": "CIDAS/clipseg-rd64-refined",
    "grounding-dino": "IDEA-Research/grounding-dino-tiny",
    "sam": "facebook/sam-vit-base",
}
# Names a folder of such folders, for machines without a network and for other models of the same kinds.
VARIABLE = "MACE_STUDIO_MASK_MODELS"
PROBABLE = 0.4  # of CLIPSeg: the probability at which a pixel counts
BOX, WORD = 0.3, 0.25  # of Grounding DINO: what a box and a word in it must score
BATCH = 4

Item = TypeVar("Item")
Segmenter = Callable[[Sequence[Image], str, Report], list[Tensor | None]]


def folder() -> Path | None:
    """Where the models are on this machine; None where they are fetched from the hub."""
    named = os.environ.get(VARIABLE)
    return Path(named) if named else None


class ClipSeg:
    """CLIPSeg: a probability for every pixel.

    Args:
        folder: holds the folder `clipseg`; None fetches the usual model from the hub.
        device: where it runs.
        dtype: of its weights.

    Raises:
        ModelError: there is no such model.

    Source: Lüddecke and Ecker, "Image Segmentation Using Text and Image Prompts", CVPR 2022.
    """

    def __init__(self, folder: Path | None, device: torch.device | str, dtype: torch.dtype) -> None:
        self._model = _part(CLIPSegForImageSegmentation, "clipseg", folder, dtype=dtype).to(device)
        self._tokenizer = _part(CLIPTokenizer, "clipseg", folder)
        self._pixels = _part(ViTImageProcessorPil, "clipseg", folder)

    def __call__(self, images: Sequence[Image], phrase: str, progress: Report = silent) -> list[Tensor | None]:
        """Look for a thing in images.

        Args:
            images: RGB, all of one size.
            phrase: the name of the thing.
            progress: called with stage "masks" after every batch: images done of all.

        Returns:
            For each image a boolean mask_HW of its size; None where nothing is found.
        """
        masks: list[Tensor | None] = []
        for batch in _batches(images):
            masks += self._batch(batch, phrase)
            progress(Progress("masks", step=len(masks), total=len(images)))
        return masks

    @torch.no_grad()
    def _batch(self, images: Sequence[Image], phrase: str) -> list[Tensor | None]:
        tokens = self._tokenizer([phrase] * len(images), truncation=True, return_tensors="pt")
        pixels = self._pixels(images, return_tensors="pt")["pixel_values"].to(self._model.device, self._model.dtype)
        logits = self._model(**tokens.to(self._model.device), pixel_values=pixels).logits.float().cpu()
        rows_NIJ = logits.reshape(len(images), *logits.shape[-2:])
        heats = [resized(row_IJ, image).sigmoid() for row_IJ, image in zip(rows_NIJ, images, strict=True)]
        return [found(heat_HW > PROBABLE) for heat_HW in heats]


class GroundedSam:
    """Grounding DINO finds boxes, and Segment Anything what is in them; a mask is the union over all boxes.

    Args:
        folder: holds the folders `grounding-dino` and `sam`; None fetches the usual models from the hub.
        device: where they run.
        dtype: of their weights.

    Raises:
        ModelError: there is no such model.

    Source: Liu et al., "Grounding DINO", ECCV 2024; Kirillov et al., "Segment Anything", ICCV 2023.
    """

    def __init__(self, folder: Path | None, device: torch.device | str, dtype: torch.dtype) -> None:
        # The places that its deformable attention looks at are computed in float32, whatever the weights are.
        self.detector = _part(GroundingDinoForObjectDetection, "grounding-dino", folder, dtype=torch.float32)
        self.detector.to(device)
        self.processor = GroundingDinoProcessor(
            _part(GroundingDinoImageProcessorPil, "grounding-dino", folder),
            _part(AutoTokenizer, "grounding-dino", folder),
        )
        self._sam = _part(SamModel, "sam", folder, dtype=dtype).to(device)
        self._pixels = _part(SamImageProcessorPil, "sam", folder)

    def __call__(self, images: Sequence[Image], phrase: str, progress: Report = silent) -> list[Tensor | None]:
        """Look for a thing in images.

        Args:
            images: RGB, all of one size.
            phrase: the name of the thing.
            progress: called with stage "masks" after every batch: images done of all.

        Returns:
            For each image a boolean mask_HW of its size; None where nothing is found.
        """
        boxes: list[Tensor] = []
        for batch in _batches(images):
            boxes += self.boxes(batch, phrase)
            progress(Progress("masks", step=len(boxes) / 2, total=len(images)))
        hits = [(image, boxes_K4) for image, boxes_K4 in zip(images, boxes, strict=True) if len(boxes_K4)]
        masks: list[Tensor | None] = []
        for part in _batches(hits):
            masks += self.inside(part)
            progress(Progress("masks", step=(len(images) + len(masks)) / 2, total=len(images)))
        inside = iter(masks)
        return [next(inside) if len(boxes_K4) else None for boxes_K4 in boxes]

    @torch.no_grad()
    def boxes(self, images: Sequence[Image], phrase: str) -> list[Tensor]:
        """For each image the boxes_K4 that hold the phrase, as left, top, right, bottom in pixels.

        Args:
            images: RGB, a batch of them.
            phrase: the name of the thing.
        """
        text = [f"{phrase.lower().strip(' .')}."] * len(images)
        inputs = self.processor(images=list(images), text=text, return_tensors="pt").to(self.detector.device)
        results = self.processor.post_process_grounded_object_detection(
            self.detector(**inputs),
            inputs["input_ids"],
            threshold=BOX,
            text_threshold=WORD,
            target_sizes=[(image.height, image.width) for image in images],
        )
        return [result["boxes"].float().cpu() for result in results]

    @torch.no_grad()
    def inside(self, hits: Sequence[tuple[Image, Tensor]]) -> list[Tensor | None]:
        """For each image and its boxes the mask_HW of what is in any of them; None where that is nothing.

        Args:
            hits: images of one size, each with its boxes_K4 in pixels, at least one.
        """
        images = [image for image, _ in hits]
        inputs = self._pixels(images, return_tensors="pt")
        pixels = inputs["pixel_values"].to(self._sam.device, self._sam.dtype)
        embedded = self._sam.get_image_embeddings(pixels)
        masks = []
        for i, (image, boxes_K4) in enumerate(hits):
            height, width = (int(side) for side in inputs["reshaped_input_sizes"][i])
            scale = torch.tensor([width / image.width, height / image.height] * 2)
            prompt = (boxes_K4 * scale)[None].to(self._sam.device, self._sam.dtype)
            out = self._sam(image_embeddings=embedded[i : i + 1], input_boxes=prompt, multimask_output=False)
            low = out.pred_masks[0].float().cpu()
            size = [(image.height, image.width)]
            whole = self._pixels.post_process_masks([low], size, [(height, width)])[0]
            masks.append(found(whole.any(dim=0)[0]))
        return masks


def found(mask_HW: Tensor) -> Tensor | None:
    """The mask, or None where it is empty.

    Args:
        mask_HW: boolean.
    """
    return mask_HW if mask_HW.any() else None


def resized(logits_IJ: Tensor, image: Image) -> Tensor:
    """A map at an image's size.

    Args:
        logits_IJ: at the segmenter's own size.
        image: gives the size in pixels.

    Returns:
        logits_HW, resized bilinearly.
    """
    size = (image.height, image.width)
    return functional.interpolate(logits_IJ[None, None], size, mode="bilinear", align_corners=False)[0, 0]


def _batches(items: Sequence[Item]) -> Iterator[Sequence[Item]]:
    return (items[i : i + BATCH] for i in range(0, len(items), BATCH))


def _part(kind: Any, name: str, folder: Path | None, **options: Any) -> Any:
    """A model, tokenizer or image processor; from `folder` alone where one is named."""
    source = MODELS[name] if folder is None else str(folder / name)
    options["local_files_only"] = folder is not None
    try:
        if "dtype" in options:
            return parts.pretrained(kind, source, "model for masks", **options).eval()
        return kind.from_pretrained(source, **options)
    except ModelError:
        raise
    except Exception as error:  # files of strangers: transformers raises anything over damaged ones
        remedy = (
            f"Check the network, or put it into a folder “{name}” and name the folder above in {VARIABLE}"
            if folder is None
            else "Put it there as transformers saves it, with safetensors weights"
        )
        said = hub.answer(source, error) or f"{remedy}."
        raise ModelError(f"The model {source}, which makes the masks, could not be loaded. {said}") from error
