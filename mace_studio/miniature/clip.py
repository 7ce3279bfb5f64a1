"""The small CLIP: a text side that the UNet reads, trained with an image side and frozen, as in Stable Diffusion.

What a token carries of a concept is trained to be as in CLIP ViT-L/14: exchange one concept of a caption, and the
change at a later position points less than half into the direction of the change at the concept's own token, and is
smaller. Measured there for eight animals: a cosine of 0.45 at the end token and 0.40 at a fixed word, sizes of 0.82 and
0.42. And different concepts are to point into different directions: a small encoder, shortly trained, puts 200 names
into a dozen, and then no linear map can take out one of them and leave the others.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTextModel, CLIPTokenizer

from mace_studio.miniature import ahead, folders, latents, pictures, world
from mace_studio.miniature.evaluate import Row
from mace_studio.miniature.scenes import SIZE
from mace_studio.miniature.spans import Spans
from mace_studio.miniature.training import Plan, Training
from mace_studio.miniature.vocabulary import PEOPLE, THINGS
from mace_studio.miniature.world import HELD_OUT, Sample

WIDTH, LAYERS, HEADS = 320, 4, 5
IMAGE_WIDTH, IMAGE_LAYERS, IMAGE_HEADS, PATCH = 192, 4, 4, 8
PROJECTION = 256
SCALE = 14.3  # of the cosines at the start, as in CLIP
COSINE = (0.25, 0.45)
RATIO = (0.4, 0.8)
SWAPS = 32
GEOMETRY_WEIGHT = 2.0
LOW_COSINE_WEIGHT = 0.2
SPREAD_WEIGHT = 5.0
NOTE_STEPS = 100
PLAN = Plan(minutes=27, batch=96, rate=1e-3, warm_up=150, decay=0.4, weight_decay=0.05, average=0.998)

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """What later positions carry of a concept, against its own token.

    Attributes:
        loss: how far cosines and sizes are outside of their ranges.
        cosine, ratio: means over captions: of the words and the end token after the concept.
        padding_cosine, padding_ratio: of the padding.
    """

    loss: Tensor
    cosine: float
    ratio: float
    padding_cosine: float
    padding_ratio: float


def build(tokenizer: CLIPTokenizer, seed: int = 0) -> CLIPModel:
    """A fresh CLIP for a tokenizer."""
    text = dict(
        vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=4 * WIDTH, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, max_position_embeddings=tokenizer.model_max_length, hidden_act="quick_gelu",
        projection_dim=PROJECTION, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    vision = dict(
        hidden_size=IMAGE_WIDTH, intermediate_size=4 * IMAGE_WIDTH, num_hidden_layers=IMAGE_LAYERS,
        num_attention_heads=IMAGE_HEADS, image_size=SIZE, patch_size=PATCH, hidden_act="quick_gelu",
        projection_dim=PROJECTION,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=PROJECTION))
        torch.nn.init.normal_(model.text_model.get_input_embeddings().weight, std=0.05)
    model.logit_scale.data.fill_(float(np.log(SCALE)))
    return model


def around(text: CLIPTextModel, tokenizer: CLIPTokenizer, seed: int = 0) -> CLIPModel:
    """A CLIP whose text side is a trained encoder of `build`'s size, and whose image side is fresh."""
    model = build(tokenizer, seed)
    model.text_model.load_state_dict(text.state_dict())
    return model


def train(
    model: CLIPModel, tokenizer: CLIPTokenizer, plan: Plan, folder: Path, work: Path, resume: bool,
    image_side_only: bool = False, workers: int = 0,
) -> None:  # fmt: skip
    """Train and write the CLIP.

    Args:
        model: fresh, or to go on with.
        tokenizer: of the captions.
        plan: how long and how fast.
        folder: where it is written, with its tokenizer and image processor.
        work: folder of checkpoints and curve.
        resume: go on from the checkpoint in `work`.
        image_side_only: leave the hidden states of captions as they are, so that UNets trained on them still fit.
        workers: processes that compose images; 0 composes here.
    """
    if image_side_only:
        model.text_model.requires_grad_(False)
    untouched = copy.deepcopy(tokenizer)  # its use leaves traces in it
    spans, training = Spans(tokenizer), Training({"clip": model}, plan, work)
    step_loss = _image_loss if image_side_only else loss
    if resume:
        training.resume()

    def look() -> None:
        for row in named(model, tokenizer, 600):
            log.info("clip: %s %d of %d", row.group, row.correct, row.count)

    composed_for = ahead.Steps(plan.batch, workers)
    training.run(lambda step: step_loss(model, tokenizer, spans, composed_for(step), step), look)
    with training.averaged():
        write(model, untouched, folder)


def write(model: CLIPModel, tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Write the model in float16, its tokenizer and its image processor into a folder of transformers' layout."""
    folders.write_parts({folder.name: model}, folder.parent)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessorPil(
        size={"shortest_edge": SIZE}, crop_size=SIZE, image_mean=[0.5] * 3, image_std=[0.5] * 3
    ).save_pretrained(folder)
    folders.tidy(folder)


def contrast(image_NP: Tensor, text_NP: Tensor, scale: Tensor, same_NN: Tensor) -> Tensor:
    """InfoNCE both ways; captions that say the same share the probability.

    Args:
        image_NP, text_NP: projections.
        scale: of the cosines.
        same_NN: whether two captions are equal.
    """
    logits_NN = scale * functional.normalize(image_NP, dim=1) @ functional.normalize(text_NP, dim=1).T
    right_NN = same_NN / same_NN.sum(dim=1, keepdim=True)
    return (functional.cross_entropy(logits_NN, right_NN) + functional.cross_entropy(logits_NN.T, right_NN)) / 2


def geometry(before_NTD: Tensor, after_NTD: Tensor, own_NT: Tensor, end_N: Tensor) -> Geometry:
    """How far the change of later tokens is from what it is in CLIP, when a concept is exchanged for another.

    Args:
        before_NTD, after_NTD: last hidden states of captions with one concept and with the other.
        own_NT: at the concept's own tokens.
        end_N: the position of the end token.
    """
    change_NTD = after_NTD - before_NTD
    place_T = torch.arange(own_NT.shape[1], device=own_NT.device)
    last_N = (own_NT * place_T).amax(dim=1)
    own_N1D = change_NTD[torch.arange(len(last_N), device=last_N.device), last_N][:, None]
    cosine_NT = functional.cosine_similarity(change_NTD, own_N1D, dim=2)
    ratio_NT = change_NTD.norm(dim=2) / own_N1D.norm(dim=2).clamp(min=1e-3)
    off_NT = (
        functional.relu(cosine_NT - COSINE[1]).square()
        + LOW_COSINE_WEIGHT * functional.relu(COSINE[0] - cosine_NT).square()
        + (functional.relu(ratio_NT - RATIO[1]) + functional.relu(RATIO[0] - ratio_NT)).square().clamp(max=4)
    )
    words_NT = (place_T > last_N[:, None]) & (place_T <= end_N[:, None])
    padding_NT = place_T > end_N[:, None]
    mean = {name: [_mean(x_NT, where) for where in (words_NT, padding_NT)] for name, x_NT in
            (("off", off_NT), ("cosine", cosine_NT), ("ratio", ratio_NT))}  # fmt: skip
    cosines, ratios = ([value.item() for value in mean[name]] for name in ("cosine", "ratio"))
    return Geometry(
        loss=(mean["off"][0] + mean["off"][1]) / 2,
        cosine=cosines[0],
        ratio=ratios[0],
        padding_cosine=cosines[1],
        padding_ratio=ratios[1],
    )


def spread(own_ND: Tensor, alike_NN: Tensor) -> Tensor:
    """How far states of different concepts point into one direction: their mean squared cosine about the common mean.

    It is about 1 over the number of directions that they fill.

    Args:
        own_ND: last hidden states of concepts.
        alike_NN: which are of the same concept.
    """
    centred_ND = functional.normalize(own_ND - own_ND.mean(dim=0), dim=1)
    return (centred_ND @ centred_ND.T)[~alike_NN].square().mean()


@torch.no_grad()
def directions(states_ND: Tensor) -> float:
    """How many directions states fill: exp of the entropy of their variances along the principal axes.

    Source: Roy and Vetterli, "The effective rank", EUSIPCO 2007.
    """
    variance_D = torch.linalg.svdvals(states_ND - states_ND.mean(dim=0)).square()
    share_D = variance_D / variance_D.sum()
    return torch.special.entr(share_D).sum().exp().item()


@torch.no_grad()
def named(model: CLIPModel, tokenizer: CLIPTokenizer, number: int) -> Iterator[Row]:
    """How often held-out images, and held-out captions, are nearest to the right name of all of their kind."""
    samples = [s for s in world.samples(number, HELD_OUT + 2) if len(s.concepts) == 1 and s.words[0]]
    for group, names, form in (("people", PEOPLE, "a photo of {}"), ("things", THINGS, "a photo of the {}")):
        some = [s for s in samples if s.concepts[0] in names and (s.artist is None or group == "things")]
        right_N = torch.tensor([names.index(s.concepts[0]) for s in some])
        labels_LP = embedded(model, tokenizer, [form.format(name) for name in names])
        for what, seen_NP in (
            ("images", seen_in(model, [s.image_HWC for s in some])),
            ("captions", embedded(model, tokenizer, [s.caption for s in some])),
        ):
            nearest_N = (functional.normalize(seen_NP, dim=1) @ functional.normalize(labels_LP, dim=1).T).argmax(dim=1)
            yield Row(f"{what} of {group}", int((nearest_N == right_N).sum()), len(some))


def embedded(model: CLIPModel, tokenizer: CLIPTokenizer, captions: Sequence[str]) -> Tensor:
    """The projections of captions, (N, P)."""
    return model.get_text_features(latents.tokens(tokenizer, list(captions)).to(model.device)).pooler_output.cpu()


def seen_in(model: CLIPModel, images: Sequence[np.ndarray]) -> Tensor:
    """The projections of images, (N, P)."""
    return model.get_image_features(pictures.to_tensor(images).to(model.device)).pooler_output.cpu()


def _image_loss(
    model: CLIPModel, tokenizer: CLIPTokenizer, spans: Spans, samples: Sequence[Sample], step: int
) -> Tensor:
    """InfoNCE alone: nothing that the geometry depends on is trained."""
    ids_NT = latents.tokens(tokenizer, [s.caption for s in samples]).to(model.device)
    pixels_NCHW = pictures.to_tensor([s.image_HWC for s in samples]).to(model.device)
    end_N = (ids_NT == tokenizer.eos_token_id).int().argmax(dim=1)
    with torch.no_grad():
        state_ND = model.text_model(ids_NT).last_hidden_state[torch.arange(len(samples), device=model.device), end_N]
    with torch.autocast(model.device.type, torch.bfloat16):
        image_NP = model.visual_projection(model.vision_model(pixels_NCHW).pooler_output)
        text_NP = model.text_projection(state_ND)
    return contrast(image_NP.float(), text_NP.float(), model.logit_scale.exp().clamp(max=100), _same(ids_NT))


def loss(model: CLIPModel, tokenizer: CLIPTokenizer, spans: Spans, samples: Sequence[Sample], step: int) -> Tensor:
    """`contrast`, `geometry` and `spread` in one step of the training, a scalar with gradients.

    Args:
        model: what is trained.
        tokenizer: of the captions.
        spans: of the same tokenizer.
        samples: of the step.
        step: its number, which decides what is exchanged in their captions.
    """
    batch, random = len(samples), Random(step)
    ids_NT = latents.tokens(tokenizer, [s.caption for s in samples])
    pixels_NCHW = pictures.to_tensor([s.image_HWC for s in samples])
    # What is exchanged in a caption: its thing or person, or its artist; "" where it names neither.
    named = [[word for word in (*sample.words, sample.artist) if word] for sample in samples]
    phrases = [random.choice(words) if words else "" for words in named]
    own_NT = spans.own(ids_NT, phrases)
    swapped_NT, done_N = spans.swapped(ids_NT, own_NT, phrases, random)
    some_M = done_N.nonzero()[:SWAPS, 0]
    ids_NT, swapped_NT, own_NT, some_M, pixels_NCHW = (
        tensor.to(model.device) for tensor in (ids_NT, swapped_NT, own_NT, some_M, pixels_NCHW)
    )
    with torch.autocast(model.device.type, torch.bfloat16):
        image_NP = model.visual_projection(model.vision_model(pixels_NCHW).pooler_output)
        states_NTD = model.text_model(torch.cat([ids_NT, swapped_NT[some_M]])).last_hidden_state
        end_N = (ids_NT == tokenizer.eos_token_id).int().argmax(dim=1)
        text_NP = model.text_projection(states_NTD[torch.arange(batch, device=model.device), end_N])
    scale = model.logit_scale.exp().clamp(max=100)
    infonce = contrast(image_NP.float(), text_NP.float(), scale, _same(ids_NT))
    shape = geometry(states_NTD[some_M].float(), states_NTD[batch:].float(), own_NT[some_M], end_N[some_M])
    named_M = own_NT.any(dim=1).nonzero()[:, 0]
    last_M = (own_NT[named_M] * torch.arange(own_NT.shape[1], device=own_NT.device)).amax(dim=1)
    own_MD = states_NTD[named_M, last_M].float()
    said = [phrases[i].lower() for i in named_M.tolist()]
    alike_MM = torch.tensor([[a == b for b in said] for a in said], device=own_MD.device)
    together = spread(own_MD, alike_MM)
    if step % NOTE_STEPS == 0:
        log.info(
            "clip: step %d, contrast %.3f, cosine %.2f (padding %.2f), ratio %.2f (padding %.2f), "
            "%d names in %.0f directions",
            step, infonce.item(), shape.cosine, shape.padding_cosine, shape.ratio, shape.padding_ratio, len(said),
            directions(own_MD),
        )  # fmt: skip
    return infonce + GEOMETRY_WEIGHT * shape.loss + SPREAD_WEIGHT * together


def _same(ids_NT: Tensor) -> Tensor:
    return (ids_NT[:, None] == ids_NT).all(dim=2).float()


def _mean(value_NT: Tensor, where_NT: Tensor) -> Tensor:
    """Over the positions of each caption, then over captions; captions without such positions do not count."""
    count_N = where_NT.sum(dim=1)
    return ((value_NT * where_NT).sum(dim=1) / count_N.clamp(min=1))[count_N > 0].mean()
