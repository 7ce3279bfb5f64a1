"""Cross-attention maps of a whole denoising run: for each word, layer group, step and head, reduced as they appear.

Memory does not grow with the number of layers: 4 bytes x steps x heads x words x pixels for each size of map. Stable
Diffusion 1.x at 512 x 512 pixels, 30 steps and a prompt of ten words: 68 MB, and 16 MB for the unconditional half.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field

import torch
from torch import Tensor

from mace_studio.core import attention
from mace_studio.sd import sampling
from mace_studio.sd.model import Model
from mace_studio.sd.text import Word


@dataclass(frozen=True)
class TokenMaps:
    """The attention to each word while one image was generated.

    Attributes:
        words: from the start token to the padding.
        maps: layer group, such as "16 x 16, 4 heads" -> maps_SHTIJ, float32 on the CPU: the share of attention that
            pixel (I, J) pays to word T at step S in head H, the mean of the group's layers. Sums to 1 over T.
        layers: layer group -> how many layers it has.
    """

    words: tuple[Word, ...]
    maps: dict[str, Tensor]
    layers: dict[str, int]

    def mean(self, group: str | None = None, head: int | None = None) -> Tensor:
        """maps_STIJ of one group, or of all layers at the size of the largest map; of one head, or of all.

        Args:
            group: key of `maps`, or None for all layers, each with the same weight.
            head: number from 0, or None for their mean.

        Raises:
            KeyError: there is no such group.
        """
        if group is not None:
            maps_SHTIJ = self.maps[group]
            return maps_SHTIJ.mean(dim=1) if head is None else maps_SHTIJ[:, head]
        # Groups have other sizes, so that they can be added up at one size alone; the largest loses nothing.
        rows, columns = max((maps_SHTIJ.shape[-2:] for maps_SHTIJ in self.maps.values()), key=lambda size: size[0])
        total_STIJ = torch.zeros(())
        for name, layers in self.layers.items():
            maps_STIJ = self.mean(name, head)
            resized_NIJ = attention.upsample(maps_STIJ.flatten(0, 1), rows, columns)
            total_STIJ = total_STIJ + layers * resized_NIJ.unflatten(0, maps_STIJ.shape[:2])
        return total_STIJ / sum(self.layers.values())

    def heads(self, group: str | None = None) -> int:
        """How many heads a group has, or all groups have in common.

        Args:
            group: key of `maps`, or None for all.
        """
        return min(maps.shape[1] for name, maps in self.maps.items() if group in (None, name))


@dataclass
class Recorder:
    """Gathers the maps of one image's run from `capture.attention`.

    Args:
        words: of the negative prompt, which a run without guidance does not read, and of the prompt.
        steps: which denoising steps are kept.
        size: rows and columns of the latents.
    """

    words: tuple[Sequence[Word], Sequence[Word]]
    steps: range
    size: tuple[int, int]
    _: KW_ONLY
    _calls: dict[str, int] = field(default_factory=dict)
    _sums: list[dict[str, Tensor]] = field(default_factory=list)
    _members: dict[str, set[str]] = field(default_factory=dict)

    def sides(self) -> list[TokenMaps]:
        """The maps of the unconditional half, if there was one, and of the conditional half."""
        layers = {group: len(names) for group, names in self._members.items()}
        return [
            TokenMaps(tuple(words), {g: sum_SHTIJ / layers[g] for g, sum_SHTIJ in sums.items()}, layers)
            for words, sums in zip(self.words[-len(self._sums) :], self._sums, strict=True)
        ]

    def receive(self, name: str, probabilities_BHQT: Tensor) -> None:
        """Take in one layer of one step; a step is one forward of the UNet.

        Args:
            name: of the layer in the UNet.
            probabilities_BHQT: of one image: B is 2 with guidance, unconditional first, else 1; sums to 1 over T.
        """
        step = self._calls[name] = self._calls.get(name, -1) + 1
        if step not in self.steps:
            return
        halves = len(probabilities_BHQT)  # one image: the unconditional half and the conditional one, or that alone
        self._sums = self._sums or [{} for _ in range(halves)]
        heads, pixels = probabilities_BHQT.shape[1:3]
        rows, columns = attention.map_size(pixels, *self.size)
        group = f"{rows} x {columns}, {heads} heads"
        self._members.setdefault(group, set()).add(name)
        for words, sums, layer_HQT in zip(self.words[-halves:], self._sums, probabilities_BHQT, strict=True):
            if group not in sums:
                sums[group] = torch.zeros(len(self.steps), heads, len(words), rows, columns)
            # As a product, since words have different numbers of tokens: their shares are added up.
            belongs_TW = torch.zeros(layer_HQT.shape[-1], len(words)).to(layer_HQT)
            for i, word in enumerate(words):
                belongs_TW[list(word.positions), i] = 1
            maps_HTQ = (layer_HQT @ belongs_TW).transpose(1, 2)
            sums[group][self.steps.index(step)] += maps_HTQ.unflatten(2, (rows, columns)).cpu()


def latent_size(model: Model, size: tuple[int, int] | None) -> tuple[int, int]:
    """Rows and columns of the latents of an image of `size` pixels, or of the model's own size.

    Args:
        model: gives the VAE's factor, and the size where none is asked for.
        size: height and width of the image in pixels, or None.
    """
    if size is None:
        return sampling.latent_size(model)
    factor = model.pipeline.vae_scale_factor
    return size[0] // factor, size[1] // factor
