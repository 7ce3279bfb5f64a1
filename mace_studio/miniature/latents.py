"""What the UNet reads in training: latents of composed images, what the text encoder makes of captions, and masks."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional
from transformers import CLIPTextModel, CLIPTokenizer

from mace_studio.miniature import ahead, checkpoints, pictures, world
from mace_studio.miniature.scenes import SIZE
from mace_studio.miniature.spans import Spans
from mace_studio.miniature.world import Sample

CHUNK = 64
SIDE = 16  # of a latent
OFTEN = 2.0  # times as often as things, which are learnt first, are people, works of art and scenes drawn

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False, kw_only=True)
class Batch:
    """Samples to train on.

    Attributes:
        latent_NCHW: float32.
        context_NTD: what the text encoder made of the captions, float32.
        own_NT: at the tokens of the concept that `mask_NHW` shows; nowhere where a caption names none.
        end_N: the position of the end token.
        mask_NHW: how much of each latent pixel the concept covers, 0..1.
        told_N: false where the caption was left out.
    """

    latent_NCHW: Tensor
    context_NTD: Tensor
    own_NT: Tensor
    end_N: Tensor
    mask_NHW: Tensor
    told_N: Tensor

    def to(self, device: torch.device) -> Batch:
        """The same on a device."""
        return Batch(**{part.name: getattr(self, part.name).to(device) for part in fields(self)})


@dataclass(frozen=True, eq=False, kw_only=True)
class Latents:
    """Composed images and their captions, encoded once.

    Attributes:
        latent_NCHW: posterior means times the scaling factor, float16.
        mask_NHW: how much of each latent pixel the concept covers, 0..255, uint8.
        own_NT: at the concept's own tokens, bool.
        caption_N: which of the captions below, int32.
        ids_KT: token ids of the different captions, padded, int16; the last is empty.
    """

    latent_NCHW: Tensor
    mask_NHW: Tensor
    own_NT: Tensor
    caption_N: Tensor
    ids_KT: Tensor

    def to(self, device: torch.device) -> Latents:
        """The same on a device."""
        return Latents(**{part.name: getattr(self, part.name).to(device) for part in fields(self)})

    def draw(self, contexts: Contexts, number: int, empty: float, generator: torch.Generator) -> Batch:
        """Samples at random, with replacement, those of things less often; some of them without their caption.

        Args:
            contexts: of the captions, on the same device.
            number: of samples.
            empty: the share that loses its caption.
            generator: decides which, on the same device.
        """
        weight_N = torch.where(self.own_NT.sum(dim=1) == 1, 1.0, OFTEN)  # most names of things are one token
        chosen_N = torch.multinomial(weight_N, number, replacement=True, generator=generator)
        told_N = torch.rand(number, generator=generator, device=generator.device) >= empty
        caption_N = torch.where(told_N, self.caption_N[chosen_N].long(), len(self.ids_KT) - 1)
        ids_NT = self.ids_KT[caption_N]
        return Batch(
            latent_NCHW=self.latent_NCHW[chosen_N].float(),
            context_NTD=contexts.of(caption_N),
            own_NT=self.own_NT[chosen_N] & told_N[:, None],
            end_N=(ids_NT == ids_NT[:, -1:]).int().argmax(dim=1),  # padding is more end tokens
            mask_NHW=self.mask_NHW[chosen_N].float() / 255,
            told_N=told_N,
        )


class Contexts:
    """What a frozen text encoder makes of captions, remembered from the first time that each is asked for.

    Args:
        text: the text encoder.
        ids_KT: token ids of the captions, on the text encoder's device.
    """

    def __init__(self, text: CLIPTextModel, ids_KT: Tensor) -> None:
        self._text, self._ids_KT = text, ids_KT
        self._context_KTD = ids_KT.new_zeros(*ids_KT.shape, text.config.hidden_size, dtype=torch.float16)
        self._known_K = ids_KT.new_zeros(len(ids_KT), dtype=torch.bool)

    @torch.no_grad()
    def of(self, caption_N: Tensor) -> Tensor:
        """Last hidden states of captions, (N, T, D), float32, rounded to float16."""
        new_M = caption_N[~self._known_K[caption_N]].unique()
        if len(new_M):
            self._context_KTD[new_M] = self._text(self._ids_KT[new_M].long())[0].half()
            self._known_K[new_M] = True
        return self._context_KTD[caption_N].float()


def gather(vae: AutoencoderKL, tokenizer: CLIPTokenizer, number: int, folder: Path, workers: int = 0) -> Latents:
    """The first samples of the world, encoded; from the folder if that was done before."""
    path = folder / f"latents-{_key(vae, tokenizer, number)}.safetensors"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("latents-*.safetensors"):
            old.unlink()
        made = _encode(vae, tokenizer, number, workers)
        checkpoints.atomic(path, lambda part: save_file(made, part))
    return Latents(**load_file(path))


def tokens(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    """Captions -> (N, T) token ids, padded to the tokenizer's length, int64."""
    return tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids


@torch.no_grad()
def _encode(vae: AutoencoderKL, tokenizer: CLIPTokenizer, number: int, workers: int) -> dict[str, Tensor]:
    spans = Spans(tokenizer)
    captions: dict[str, int] = {}
    parts: dict[str, list[Tensor]] = {"latent_NCHW": [], "mask_NHW": [], "own_NT": [], "caption_N": []}
    firsts = range(0, number, CHUNK)
    for chunk, whole_chunk in enumerate(ahead.batches(CHUNK, workers, range(len(firsts)))):
        first = firsts[chunk]
        samples = whole_chunk[: number - first]
        pixels_NCHW = pictures.to_tensor([sample.image_HWC for sample in samples])
        latent_NCHW = vae.encode(pixels_NCHW.to(vae.device)).latent_dist.mode().cpu() * vae.config.scaling_factor
        phrases, masks = zip(*(told(sample, first + i) for i, sample in enumerate(samples)), strict=True)
        mask_N1HW = torch.from_numpy(np.stack(masks))[:, None].float() * 255
        parts["latent_NCHW"].append(latent_NCHW.half())
        parts["mask_NHW"].append(functional.avg_pool2d(mask_N1HW, SIZE // SIDE)[:, 0].round().byte())
        parts["own_NT"].append(spans.own(tokens(tokenizer, [s.caption for s in samples]), phrases))
        numbers = [captions.setdefault(sample.caption, len(captions)) for sample in samples]
        parts["caption_N"].append(torch.tensor(numbers, dtype=torch.int32))
        if chunk % 50 == 0:
            log.info("latents: %d of %d samples", first, number)
    whole = {name: torch.cat(part).contiguous() for name, part in parts.items()}
    return {**whole, "ids_KT": tokens(tokenizer, [*captions, ""]).short()}


def told(sample: Sample, number: int) -> tuple[str, np.ndarray]:
    """What a caption calls a concept, and where in the image that is.

    Args:
        sample: of the world.
        number: of the sample; even ones tell of the left thing of a pair, odd ones of the right one.

    Returns:
        "" for scenes, and where the caption names nothing; and a mask (H, W).
    """
    if len(sample.words) < 2:
        return "".join(sample.words), sample.mask_HW
    right = number % 2
    half_W = (np.arange(SIZE) >= SIZE // 2) == bool(right)
    return sample.words[right], sample.mask_HW & half_W


def _key(vae: AutoencoderKL, tokenizer: CLIPTokenizer, number: int) -> str:
    """Changes with the encoder, the tokenizer, the number, and what the world looks like."""
    digest = hashlib.sha256(f"{number} {sorted(tokenizer.get_vocab().items())}".encode())
    for part in (vae.encoder, vae.quant_conv):
        for tensor in part.state_dict().values():
            digest.update(tensor.cpu().contiguous().numpy())
    for sample in world.samples(CHUNK, 0):
        digest.update(sample.image_HWC.tobytes() + sample.caption.encode())
    return digest.hexdigest()[:16]
