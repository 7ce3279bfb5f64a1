"""What the diffusion model reads in training: latents of composed pictures and the tokens of their captions."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPTokenizer

from mace_studio.miniature import checkpoints, pictures, world

CHUNK = 64

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Latents:
    """Composed pictures and their captions, encoded once.

    Attributes:
        latent_NCHW: posterior means times the scaling factor, float16.
        ids_NT: the captions' token ids, padded, int16.
        empty_T: the token ids of no caption, int16.
    """

    latent_NCHW: Tensor
    ids_NT: Tensor
    empty_T: Tensor

    def draw(self, number: int, empty: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Samples at random, with replacement, some of them without their caption.

        Args:
            number: of samples.
            empty: the share that loses its caption.
            generator: decides which.

        Returns:
            (number, C, H, W) float32, and (number, T) int64.
        """
        chosen_N = torch.randint(len(self.latent_NCHW), (number,), generator=generator)
        ids_NT = self.ids_NT[chosen_N].long()
        ids_NT[torch.rand(number, generator=generator) < empty] = self.empty_T.long()
        return self.latent_NCHW[chosen_N].float(), ids_NT


def gather(vae: AutoencoderKL, tokenizer: CLIPTokenizer, number: int, folder: Path) -> Latents:
    """The latents of the first samples of the world, from the folder if they were made before."""
    path = folder / f"latents-{_key(vae, tokenizer, number)}.safetensors"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("latents-*.safetensors"):
            old.unlink()
        made = _encode(vae, tokenizer, number)
        checkpoints.atomic(path, lambda part: save_file(made, part))
    return Latents(**load_file(path))


def tokens(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    """Captions -> (N, T) token ids, padded to the tokenizer's length, int64."""
    return tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids


@torch.no_grad()
def _encode(vae: AutoencoderKL, tokenizer: CLIPTokenizer, number: int) -> dict[str, Tensor]:
    latents, ids = [], []
    for chunk, first in enumerate(range(0, number, CHUNK)):
        samples = world.samples(min(CHUNK, number - first), chunk)
        pixels_NCHW = pictures.to_tensor([sample.image_HWC for sample in samples])
        latents.append((vae.encode(pixels_NCHW).latent_dist.mode() * vae.config.scaling_factor).half())
        ids.append(tokens(tokenizer, [sample.caption for sample in samples]).short())
        if chunk % 50 == 0:
            log.info("latents: %d of %d samples", first, number)
    return {
        "latent_NCHW": torch.cat(latents).contiguous(),
        "ids_NT": torch.cat(ids),
        "empty_T": tokens(tokenizer, [""])[0].short(),
    }


def _key(vae: AutoencoderKL, tokenizer: CLIPTokenizer, number: int) -> str:
    """Changes with the encoder, the tokenizer, the number, and what the world looks like."""
    digest = hashlib.sha256(f"{number} {vae.config.scaling_factor} {sorted(tokenizer.get_vocab().items())}".encode())
    for part in (vae.encoder, vae.quant_conv):
        for tensor in part.state_dict().values():
            digest.update(tensor.contiguous().numpy())
    for sample in world.samples(CHUNK, 0):
        digest.update(sample.image_HWC.tobytes() + sample.caption.encode())
    return digest.hexdigest()[:16]
