"""The judge: a small classifier that says which thing or person, which artist and which scene an image shows.

It has seen composed images only, as they are and as the autoencoder shows them, none that a UNet generated. Which
answers it has is written in its file, so that a judge goes on working with its model when the vocabulary grows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mace_studio.miniature import checkpoints, pictures
from mace_studio.miniature.scenes import SIZE
from mace_studio.miniature.vocabulary import ARTISTS, OBJECTS, PEOPLE, SCENES, THINGS

NONE = "none of these"
HEADS: dict[str, tuple[str, ...]] = {
    "thing": (*THINGS, *PEOPLE, NONE),
    "artist": (*ARTISTS, NONE),
    "scene": (*SCENES, NONE),
}
WIDTHS = (32, 64, 128, 128)
AT_ONCE = 64

Place = tuple[str, int]  # head and index of an answer


class Judge(nn.Module):
    """A convolutional network with one head for each kind of answer.

    Attributes:
        name: what reports call it.
        none: the label for everything else.
        answers: head -> its answers, the last of which is `none`.
        temperatures: head -> what its logits are divided by.
    """

    name = "built-in judge"
    none = NONE

    def __init__(self, widths: Sequence[int] = WIDTHS, answers: Mapping[str, Sequence[str]] = HEADS) -> None:
        super().__init__()
        self.widths = tuple(widths)
        self.answers = {head: tuple(names) for head, names in answers.items()}
        blocks = [  # each halves rows and columns
            nn.Sequential(
                nn.Conv2d(narrow, wide, 3, stride=2, padding=1), nn.GroupNorm(8, wide), nn.SiLU(),
                nn.Conv2d(wide, wide, 3, padding=1), nn.GroupNorm(8, wide), nn.SiLU(),
            )
            for narrow, wide in zip((3, *widths), widths, strict=False)
        ]  # fmt: skip
        # Not pooled: things stand in one of three places, and where their parts are tells them apart far sooner.
        self.trunk = nn.Sequential(*blocks, nn.Flatten())
        features = widths[-1] * (SIZE >> len(widths)) ** 2
        self.heads = nn.ModuleDict({head: nn.Linear(features, len(names)) for head, names in self.answers.items()})
        self.temperatures = dict.fromkeys(self.answers, 1.0)

    def forward(self, pixels_NCHW: Tensor) -> dict[str, Tensor]:
        """Images of 64 x 64 pixels in -1..1 -> head -> logits, (N, answers), before the temperature."""
        features_NF = self.trunk(pixels_NCHW)
        return {name: head(features_NF) for name, head in self.heads.items()}

    @torch.no_grad()
    def probabilities(self, images: Sequence[Image.Image], labels: Sequence[str]) -> Tensor:
        """How probable each label is, as a zero-shot classifier would say it.

        Args:
            images: RGB; other sizes are scaled to 64 x 64.
            labels: things, synonyms, people, artists and scenes that it knows, in any case, and "none of these",
                which gets all that the other labels leave. Without it, what they leave is shared out among them.

        Returns:
            (N, labels), summing to 1, float64.

        Raises:
            ValueError: a label is not of this world.
        """
        places = [self._place(label) for label in labels]
        answers = self._answers(images)
        shares: dict[tuple[str, int] | None, Tensor] = {
            place: answers[place[0]][:, place[1]] / places.count(place) for place in places if place is not None
        }
        shares[None] = _rest(answers, places) / max(1, places.count(None))
        weight_NL = torch.stack([shares[place] for place in places], dim=1)
        return weight_NL / weight_NL.sum(dim=1, keepdim=True)

    @torch.no_grad()
    def features(self, images: Sequence[Image.Image]) -> Tensor:
        """What its heads read, (N, F), float32."""
        return torch.cat([self.trunk(part) for part in _pixels(images).split(AT_ONCE)])

    def names(self, images: Sequence[Image.Image], head: str) -> list[str]:
        """The most probable answer of a head for each image."""
        best_N = self._answers(images)[head].argmax(dim=1)
        return [self.answers[head][i] for i in best_N.tolist()]

    def save(self, folder: Path) -> None:
        """Write the weights in float16, and the settings."""
        folder.mkdir(parents=True, exist_ok=True)
        weights = {name: tensor.half().contiguous() for name, tensor in self.state_dict().items()}
        settings = {"widths": self.widths, "temperatures": self.temperatures, "heads": self.answers}
        text = json.dumps(settings, indent=1, ensure_ascii=False) + "\n"
        checkpoints.atomic(folder / "judge.safetensors", lambda path: save_file(weights, path))
        checkpoints.atomic(folder / "judge.json", lambda path: path.write_text(text, encoding="utf-8"))

    @classmethod
    def load(cls, folder: Path) -> Judge:
        """Read a judge, with the answers that it was trained for."""
        settings = json.loads((Path(folder) / "judge.json").read_text(encoding="utf-8"))
        judge = cls(settings["widths"], settings["heads"])
        judge.load_state_dict(load_file(Path(folder) / "judge.safetensors"))
        judge.temperatures = settings["temperatures"]
        return judge.eval()

    def _answers(self, images: Sequence[Image.Image]) -> dict[str, Tensor]:
        """Head -> probabilities of all its answers, (N, answers), float64."""
        parts = [self(part) for part in _pixels(images).split(AT_ONCE)]
        return {
            head: (torch.cat([part[head] for part in parts]).double() / self.temperatures[head]).softmax(dim=1)
            for head in self.answers
        }

    def _place(self, label: str) -> Place | None:
        """Where the answer for a label stands; None for "none of these"."""
        asked = label.strip().lower()
        if asked == NONE:
            return None
        for head, names in self.answers.items():
            for index, name in enumerate(names[:-1]):
                if asked in (name.lower(), *OBJECTS.get(name, ())):
                    return head, index
        raise ValueError(
            f"the judge does not know “{label}”; it knows the things, people, artists and scenes of its world"
        )


def _pixels(images: Sequence[Image.Image]) -> Tensor:
    """Images of any size as NCHW in -1..1."""
    return pictures.to_tensor([np.asarray(image.convert("RGB").resize((SIZE, SIZE))) for image in images])


def _rest(answers: Mapping[str, Tensor], places: Sequence[Place | None]) -> Tensor:
    """How probable it is that none of the answers at some places holds, the heads taken as independent, (N,)."""
    asked = {place for place in places if place is not None}
    left_N = torch.ones(len(answers["thing"]), dtype=torch.float64)
    for head in {head for head, _ in asked}:
        other = [i for i in range(answers[head].shape[1]) if (head, i) not in asked]
        left_N = left_N * answers[head][:, other].sum(dim=1)
    return left_N
