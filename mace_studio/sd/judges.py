"""Who judges what an image shows: images and labels -> probabilities, and features to compare sets of images with."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL.Image import Image
from torch import Tensor
from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

from mace_studio import sources
from mace_studio.errors import ModelError
from mace_studio.miniature import judge
from mace_studio.sd import hub, parts
from mace_studio.sd.model import Model, digest

CLIP = "openai/clip-vit-large-patch14"
BATCH = 32
FORM = "a photo of {}"


class Judge(Protocol):
    """Says how probable each label is.

    Attributes:
        name: what reports call it.
        none: the label for everything else, or None where the judge has to choose among the labels.
    """

    @property
    def name(self) -> str: ...

    @property
    def none(self) -> str | None: ...

    def probabilities(self, images: Sequence[Image], labels: Sequence[str]) -> Tensor:
        """(N, labels), rows summing to 1; ValueError for a label that it cannot know.

        Args:
            images: N images of any size.
            labels: L phrases.
        """

    def features(self, images: Sequence[Image]) -> Tensor:
        """(N, F), what it sees of each image.

        Args:
            images: N images of any size.
        """


class ZeroShotClip:
    """CLIP as a zero-shot classifier: softmax over its similarities with “a photo of {label}”.

    Args:
        source: hub id or folder of a CLIP model with safetensors weights.
        device: where it runs.

    Raises:
        ModelError: there is no such model.

    Source: Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021.
    """

    none = None

    def __init__(self, source: str = CLIP, device: torch.device | str = "cpu") -> None:
        self.name = f"zero-shot CLIP, {source if not os.path.exists(source) else Path(source).name}"
        try:
            self._model: Any = parts.pretrained(CLIPModel, source, "judge", torch.float32).eval().to(device)
            self._tokenizer = CLIPTokenizer.from_pretrained(source)
            self._pixels = CLIPImageProcessorPil.from_pretrained(source)
        except ModelError:
            raise
        except Exception as error:  # files of strangers: transformers raises anything over damaged ones
            remedy = "Name a CLIP model on this machine or on the hub, with safetensors weights."
            raise ModelError(
                f"The judge {source} could not be loaded. {hub.answer(source, error) or remedy}"
            ) from error
        self._text_LD = lru_cache(maxsize=8)(self._encoded)  # all words of a report have the same labels

    def probabilities(self, images: Sequence[Image], labels: Sequence[str], form: str = FORM) -> Tensor:
        """What a softmax over the cosines with "a photo of LABEL" gives.

        Args:
            images: N images of any size.
            labels: L phrases; any are understood.
            form: the sentence, with {} for the label.

        Returns:
            (N, L), float64 on the CPU, rows summing to 1.
        """
        return self.choice(self.features(images), labels, form)

    def choice(self, embedding_ND: Tensor, labels: Sequence[str], form: str = FORM) -> Tensor:
        """`probabilities` of images that are embedded already, as `features` does it."""
        similarity_NL = self.similarities(embedding_ND, [form.format(label) for label in labels])
        return (self._model.logit_scale.exp().double().cpu() * similarity_NL).softmax(dim=1)

    def similarities(self, embedding_ND: Tensor, sentences: Sequence[str]) -> Tensor:
        """Cosines between images and sentences, (N, sentences), float64; times 100 they are CLIP scores.

        Args:
            embedding_ND: of the images, from `features`.
            sentences: L of them, each cut at the tokenizer's length.
        """
        # In float64 from here on, so that rows of a softmax sum to 1 to the last digits.
        return embedding_ND.double() @ self._text_LD(tuple(sentences)).T

    @torch.no_grad()
    def _encoded(self, sentences: tuple[str, ...]) -> Tensor:
        tokens = self._tokenizer(list(sentences), padding=True, truncation=True, return_tensors="pt")
        return _embedded(self._model.get_text_features(**tokens.to(self._model.device))).double().cpu()

    @torch.no_grad()
    def features(self, images: Sequence[Image]) -> Tensor:
        """Its image embeddings, embedding_ND on the CPU, each of length 1.

        Args:
            images: N of any size and mode, at least one.
        """
        embedded = []
        for start in range(0, len(images), BATCH):
            pixels = self._pixels(
                [image.convert("RGB") for image in images[start : start + BATCH]], return_tensors="pt"
            )
            embedded.append(_embedded(self._model.get_image_features(**pixels.to(self._model.device))).cpu())
        return torch.cat(embedded)


def of(model: Model) -> Judge | None:
    """The judge that comes with a model, in the folder `judge` beside it; None where there is none.

    Args:
        model: its source is looked at.

    Raises:
        ModelError: there is one that cannot be read.
    """
    folder = Path(model.source).parent / "judge"
    try:
        return judge.Judge.load(folder) if (folder / "judge.json").is_file() else None
    except Exception as error:  # files of strangers: torch raises anything over weights of another shape
        raise ModelError(
            "The judge in the folder “judge” beside the model cannot be read; take it away, or name a CLIP model."
        ) from error


def choose(model: Model, source: str | None) -> Judge:
    """The CLIP model that is named, or the judge that comes with the model, or else the usual CLIP.

    Args:
        model: brings a judge or none, and the device on which CLIP runs.
        source: folder or hub id of a CLIP model, as it was pasted, or None.

    Raises:
        ModelError: there is no such CLIP model.
    """
    own = of(model) if source is None else None
    return own if own is not None else ZeroShotClip(sources.cleaned(source) if source else CLIP, model.device)


def clip_of(model: Model, judged: Judge) -> ZeroShotClip | None:
    """The CLIP that scores images beside a judge: the judge itself where it is one, else that of the model.

    Args:
        model: beside the judge of its own it may have a CLIP, in the folder `clip`.
        judged: who judges; beside another judge than the model's own no CLIP is looked for.
    """
    if isinstance(judged, ZeroShotClip):
        return judged
    folder = Path(model.source).parent / "clip"
    own = isinstance(judged, judge.Judge) and (folder / "config.json").is_file()
    return ZeroShotClip(str(folder), model.device) if own else None


def fingerprint(judged: Judge, clip: ZeroShotClip | None) -> str:
    """SHA-256 of the names and weights of who judges, taken in float16.

    Args:
        judged: from `choose`.
        clip: from `clip_of`.
    """
    # Weights and not paths: two machines may have other folders, and must have the same judge.
    networks: dict[str, Any] = {judged.name: judged}
    networks |= {one.name: one._model for one in (judged, clip) if isinstance(one, ZeroShotClip)}
    # Taken in float16, so that a judge is the same one on a machine that loads it in float32.
    return digest(networks)


def presence(judged: Judge | None, image: Image, phrase: str) -> float | None:
    """The probability that an image shows a concept, against everything else that the judge knows.

    Args:
        judged: answers, or None.
        image: of any size.
        phrase: of the concept.

    Returns:
        0 to 1, or None where there is no judge that can answer "none of these", or it does not know the phrase.
    """
    if judged is None or judged.none is None:
        return None
    try:
        return judged.probabilities([image], [phrase, judged.none])[0, 0].item()
    except ValueError:
        return None


def _embedded(output: Tensor | Any) -> Tensor:
    """The projected embeddings, each of length 1; newer versions of transformers wrap them."""
    embedded_NF = output if isinstance(output, Tensor) else output.pooler_output
    return embedded_NF / embedded_NF.norm(dim=1, keepdim=True)
