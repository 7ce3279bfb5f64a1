"""Masks by other models: small ones of the same classes as the real ones, with random weights, read from a folder."""

import re
import shutil
import weakref

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPSegForImageSegmentation, CLIPTokenizer, ViTImageProcessorPil

from mace_studio.core import attention
from mace_studio.errors import ModelError
from mace_studio.methods.mace import MaceSettings, training_images
from mace_studio.progress import silent
from mace_studio.recipe import Concept, Recipe
from mace_studio.runtime.studio import BUILT_IN
from mace_studio.sd import model as sd_model
from mace_studio.sd import pixels, sampling, segment, segmenters
from mace_studio.sd.segmenters import ClipSeg, GroundedSam
from mace_studio.settings import ImageSettings, LoraSettings

QUICK = Recipe(
    concepts=(Concept("cat", "forest"), Concept("Ada Finch", "a person", "celebrity"), Concept("Lena", "art", "style")),
    settings=MaceSettings(lora=LoraSettings(steps=2), images=ImageSettings(per_concept=2, steps=2, guidance=4.0)),
)


@pytest.fixture(scope="module")
def images():
    random = np.random.default_rng(0)
    noise = [Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8)) for _ in range(6)]
    return [image.resize((48, 40)) for image in noise]


@pytest.fixture(params=[ClipSeg, GroundedSam])
def kind(request, monkeypatch):
    """A kind of segmenter, which finds something in every picture of noise."""
    monkeypatch.setattr(segmenters, "BOX", 0.2)
    return request.param


def test_masks_have_the_size_of_the_images_and_batches_change_nothing(kind, mask_models, images):
    find = kind(mask_models, "cpu", torch.float32)
    assert len(images) > segmenters.BATCH
    together, alone = find(images, "cat"), [find([image], "cat")[0] for image in images]
    for one, other in zip(together, alone, strict=True):
        assert one.shape == (40, 48) and one.dtype == torch.bool and 0.05 < one.float().mean() < 0.95
        assert torch.equal(one, other)
    assert not torch.equal(together[0], together[1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_finds_nearly_the_same(kind, dtype, mask_models, images):
    full, half = (kind(mask_models, "cpu", d)(images[:2], "cat") for d in (torch.float32, dtype))
    assert all((a == b).float().mean() > 0.9 for a, b in zip(full, half, strict=True))


def test_a_pixel_counts_where_clipseg_finds_it_probable(mask_models, images):
    image = images[0].resize((48, 48))  # the size that the model reads, so that nothing is resized
    ours = ClipSeg(mask_models, "cpu", torch.float32)([image], "cat")[0]
    folder = mask_models / "clipseg"
    tokens = CLIPTokenizer.from_pretrained(folder)(["cat"], return_tensors="pt")
    inputs = ViTImageProcessorPil.from_pretrained(folder)([image], return_tensors="pt")
    with torch.no_grad():
        logits = CLIPSegForImageSegmentation.from_pretrained(folder)(**tokens, **inputs).logits
    assert torch.equal(ours, logits.reshape(48, 48).sigmoid() > segmenters.PROBABLE)


def test_where_nothing_is_found_there_is_no_mask(mask_models, images, monkeypatch):
    grounded = GroundedSam(mask_models, "cpu", torch.float32)
    scores = [max(_scores(grounded, image)) for image in images]
    monkeypatch.setattr(segmenters, "BOX", sorted(scores)[2])
    assert [mask is None for mask in grounded(images, "cat")] == [score <= sorted(scores)[2] for score in scores]
    monkeypatch.setattr(segmenters, "BOX", 1.0)
    assert grounded(images, "cat") == [None] * 6
    monkeypatch.setattr(segmenters, "PROBABLE", 1.0)
    assert ClipSeg(mask_models, "cpu", torch.float32)(images, "cat") == [None] * 6


def _scores(grounded, image):
    inputs = grounded.processor(images=[image], text=["cat."], return_tensors="pt")
    with torch.no_grad():
        return grounded.detector(**inputs).logits.sigmoid().amax(dim=2)[0].tolist()


def test_a_mask_is_what_sam_sees_in_all_boxes(mask_models, images, monkeypatch):
    grounded = GroundedSam(mask_models, "cpu", torch.float32)
    boxes = [torch.tensor([[4.0, 4.0, 20.0, 30.0]]), torch.tensor([[30.0, 2.0, 47.0, 12.0]])]
    apart = [grounded.inside([(images[0], box)])[0] for box in boxes]
    monkeypatch.setattr(grounded, "boxes", lambda batch, phrase: [torch.cat(boxes)] * len(batch))
    assert torch.equal(grounded(images[:1], "cat")[0], apart[0] | apart[1])
    assert not torch.equal(*apart)


@pytest.mark.parametrize("part", ["clipseg", "grounding-dino", "sam"])
def test_a_model_that_is_not_there_is_a_sentence_with_the_remedy(part, mask_models, tmp_path):
    kind = ClipSeg if part == "clipseg" else GroundedSam
    folder = tmp_path / "models"
    shutil.copytree(mask_models, folder)
    (folder / part / "model.safetensors").unlink()
    torch.save({}, folder / part / "pytorch_model.bin")  # pickled weights are no substitute
    with pytest.raises(ModelError, match=f"{part}.*could not be loaded. Put it there as .* safetensors"):
        kind(folder, "cpu", torch.float32)
    with pytest.raises(ModelError, match=r"which makes the masks.*Check the network.*in MACE_STUDIO_MASK_MODELS\.$"):
        kind(None, "cpu", torch.float32)


@pytest.mark.parametrize("masks, kind", [("clipseg", ClipSeg), ("grounded-sam", GroundedSam)])
def test_a_source_is_loaded_when_asked_and_gone_when_the_masks_are_there(
    model, unchanged, mask_models, monkeypatch, masks, kind
):
    monkeypatch.setenv("MACE_STUDIO_MASK_MODELS", str(mask_models))
    alive, asked = [], []

    def made(*args):
        find = kind(*args)
        alive.extend([weakref.ref(find), *(weakref.ref(v) for v in vars(find).values() if hasattr(v, "parameters"))])
        return lambda images, phrase, *rest: asked.append((len(images), phrase)) or find(images, phrase, *rest)

    monkeypatch.setattr(segmenters, kind.__name__, made)
    monkeypatch.setattr(segmenters, "BOX", 0.2)
    warnings = []

    def progress(event):
        assert event.stage == "masks" or not alive, "it is loaded before it is needed"

    drawn = training_images.make(model, QUICK.with_settings(masks=masks), None, warnings, None, progress)
    assert alive and [ref() for ref in alive] == [None] * len(alive)
    assert asked == [(2, "cat"), (2, "person")]  # no style is looked for, and nobody by name
    size = sampling.latent_size(model)[0] * model.pipeline.vae_scale_factor
    assert [mask is None for p in drawn for mask in p.masks] == [False] * 4 + [True] * 2 and warnings == []
    assert all(mask.shape == (size, size) for p in drawn[:2] for mask in p.masks)


def test_attention_and_none_never_load_another_model(model, monkeypatch):
    monkeypatch.delattr(segmenters, "ClipSeg")
    monkeypatch.delattr(segmenters, "GroundedSam")
    for masks in ("attention", "none"):
        drawn = training_images.make(model, QUICK.with_settings(masks=masks), None, [])
        assert [m is None for m in drawn[0].masks] == [masks == "none"] * 2


def test_nothing_found_falls_back_to_the_whole_image_and_says_so(model, mask_models, monkeypatch):
    monkeypatch.setenv("MACE_STUDIO_MASK_MODELS", str(mask_models))
    monkeypatch.setattr(segmenters, "PROBABLE", 1.0)
    warnings = []
    drawn = training_images.make(model, QUICK.with_settings(masks="clipseg"), None, warnings)
    assert drawn[0].masks == [None, None]
    assert warnings[0] == (
        "In 2 of 2 training images of “cat” no part stood out, so the whole image was used. The model may not know it: "
        "look at its training images, use a name that the model knows, or leave it out."
    )
    assert len(warnings) == 2 and "Ada Finch" in warnings[1]


def test_decoded_latents_are_what_the_pipeline_draws(model, unchanged):
    call = {"num_inference_steps": 3, "guidance_scale": 4.0}
    shape = (2, model.unet.config.in_channels, *sampling.latent_size(model))
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    drawn = model.pipeline(["a cat", "a dog"], latents=noise, **call).images
    latents = model.pipeline(["a cat", "a dog"], latents=noise, output_type="latent", **call).images
    decoded = pixels.decoded(model, latents.float())
    assert [np.asarray(a).tolist() for a in decoded] == [np.asarray(a).tolist() for a in drawn]


def test_a_vae_that_overflows_in_float16_decodes_in_float32_and_is_put_back():
    half = sd_model.load(str(BUILT_IN), "cpu", "float16")
    half.pipeline.vae.register_to_config(force_upcast=True)
    seen = []
    half.pipeline.vae.decoder.register_forward_pre_hook(lambda _, args: seen.append(args[0].dtype))
    assert len(pixels.decoded(half, torch.zeros(1, half.unet.config.in_channels, *sampling.latent_size(half)))) == 1
    assert seen == [torch.float32] and half.pipeline.vae.dtype == torch.float16


def test_the_mask_of_attention_is_above_otsus_threshold():
    heat_IJ = torch.tensor([[0.1, 0.2], [0.9, 0.8]])
    drawn = [sampling.GeneratedImage(torch.zeros(4, 2, 2), heat) for heat in (heat_IJ, torch.ones(2, 2))]
    first, second = segment.source(None, "attention")(drawn, "cat", silent)
    assert torch.equal(first, heat_IJ > attention.otsu(heat_IJ)) and first.tolist() == [[False] * 2, [True] * 2]
    assert second is None


@pytest.mark.parametrize(
    ("part", "kind"), [("clipseg", ClipSeg), ("sam", GroundedSam), ("grounding-dino", GroundedSam)]
)
def test_a_model_with_a_missing_weight_is_refused(part, kind, mask_models, tmp_path):
    """It would make masks of random numbers."""
    folder = shutil.copytree(mask_models, tmp_path / "models")
    path = folder / part / "model.safetensors"
    weights = load_file(path)
    key = next(name for name, tensor in weights.items() if tensor.dim() > 1)
    del weights[key]
    save_file(weights, path, {"format": "pt"})
    with pytest.raises(ModelError, match=f"model for masks of .* lacks (1 weight|4 weights): {re.escape(key)}"):
        kind(folder, "cpu", torch.float32)
