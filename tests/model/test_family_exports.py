"""Every format of every family, read back as other programs do, generates what the erasure does; docs/models.md."""

import json
import shutil

import numpy as np
import pytest
import torch
from diffusers import EulerDiscreteScheduler
from safetensors import safe_open
from safetensors.torch import load_file

from mace_studio import erasure
from mace_studio.errors import FileError
from mace_studio.exports import export as exporting
from mace_studio.exports.formats import FORMATS, ExportRequest
from mace_studio.recipe import Concept, ImageRequest, Recipe
from mace_studio.sd import model as sd_model
from mace_studio.sd import projections, sampling
from tests import families

RECIPE = Recipe(concepts=(Concept("cat", "forest"),))
REQUEST = ImageRequest(prompts=("a photo of the cat",), seeds=(0, 1), steps=2, guidance=2.0)
WHOLE = [name for name in families.FAMILIES if name != "lcm"]
MARKERS = {"v_pred", "ztsnr"}


@pytest.fixture(scope="module")
def erasures(models):
    """Changed at random, and far: what an erasure changes of a random model would hardly be seen."""
    generator, made = torch.Generator().manual_seed(0), {}
    for name, model in models.items():
        weights = {
            key: w + 10 * w.std() * torch.randn(w.shape, generator=generator)
            for key, w in projections.read(model.unet).items()
        }
        made[name] = erasure.Erasure(recipe=RECIPE, weights=weights, fingerprint=model.fingerprint)
    return made


@pytest.fixture
def wanted(family, models, erasures):
    """What the erasure generates, which is not what the model generates without it."""
    plain = generate(models[family])
    with erasures[family].applied(models[family]):
        images = generate(models[family])
    assert psnr(plain, images) < 30
    return images


@pytest.fixture
def write(family, models, erasures, tmp_path):
    def written(kind, **settings):
        path = tmp_path / f"cat{FORMATS[kind].suffix}"
        exporting.export(models[family], erasures[family], ExportRequest(kind, path, **settings))
        return path

    return written


every_family = pytest.mark.parametrize("family", families.FAMILIES)


def generate(model):
    return np.stack([np.asarray(image, np.float64) for image in sampling.generate(model, REQUEST)])


def psnr(images, others):
    error = ((images - others) ** 2).mean()
    return float("inf") if error == 0 else 10 * np.log10(255**2 / error)


def fresh(folders, family):
    return sd_model.load(str(folders[family]), "cpu", "float32")


def single(path, settings):
    """A single file as the studio loads it, with settings beside it."""
    shutil.copytree(settings, path.with_suffix(""), ignore=shutil.ignore_patterns("*.safetensors"))
    return sd_model.load(str(path), "cpu", "float32")


@every_family
def test_export_diffusers(wanted, write):
    assert psnr(generate(sd_model.load(str(write("diffusers")), "cpu", "float32")), wanted) == float("inf")


@every_family
def test_export_unet(family, folders, wanted, write):
    again = fresh(folders, family)
    assert not again.unet.load_state_dict(load_file(write("unet")), strict=False).unexpected_keys
    assert psnr(generate(again), wanted) == float("inf")


@every_family
def test_export_lycoris(family, folders, wanted, write, erasures):
    """By the rule of ComfyUI, A1111 and InvokeAI: `lora_unet_` and the layer's name in diffusers with "_" for "."."""
    again = fresh(folders, family)
    layers = {"lora_unet_" + name.replace(".", "_") + ".diff": layer for name, layer in again.unet.named_modules()}
    tensors = load_file(write("lycoris"))
    assert len(tensors) == len(erasures[family].weights)
    for key, diff_PD in tensors.items():
        layers[key].weight.data += diff_PD.float()
    assert psnr(generate(again), wanted) > 50


@every_family
def test_export_lora(family, folders, wanted, write):
    again = fresh(folders, family)
    again.pipeline.load_lora_weights(str(write("lora", rank=64)))
    assert psnr(generate(again), wanted) > 50


@pytest.mark.parametrize("family", WHOLE)
def test_export_checkpoint(family, folders, wanted, write):
    path = write("checkpoint")
    assert not MARKERS & load_file(path).keys()
    assert psnr(generate(single(path, folders[family])), wanted) == float("inf")


@every_family
def test_a_family_is_refused_by_the_formats_whose_row_says_so(family, models):
    """The table says it of LCM alone: no other family has a UNet that reads the guidance scale."""
    assert models[family].embeds_guidance == (family == "lcm")
    refusing = [name for name, row in FORMATS.items() if row.refuses]
    assert refusing == ["checkpoint"]


@pytest.mark.parametrize("family", ["lcm"])
def test_export_checkpoint_is_refused(family, write, tmp_path):
    with pytest.raises(FileError, match=r"no place for time_embedding\.cond_proj.* use another format"):
        write("checkpoint")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("family", ["sdxl"])
def test_an_sdxl_that_predicts_v_says_so_in_its_checkpoint(family, folders, models, erasures, tmp_path):
    """Its settings, as of a base model that predicts noise, are put right by the marker."""
    v_model, kept = models[family], models[family].pipeline.scheduler
    kind = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
    v_model.pipeline.scheduler = EulerDiscreteScheduler.from_config(kept.config, **kind)
    path = tmp_path / "cat.safetensors"
    try:
        exporting.export(v_model, erasures[family], ExportRequest("checkpoint", path))
        with erasures[family].applied(v_model):
            wanted = generate(v_model)
    finally:
        v_model.pipeline.scheduler = kept
    tensors = load_file(path)
    assert tensors.keys() >= MARKERS and all(tensors[name].numel() == 0 for name in MARKERS)
    again = single(path, folders[family])
    assert again.pipeline.scheduler.config.prediction_type == "v_prediction"
    assert psnr(generate(again), wanted) == float("inf")


@pytest.mark.parametrize("family", ["sd2"])
def test_what_others_tell_v_prediction_of_stable_diffusion_2_by_is_left_alone(family, models, write):
    """ComfyUI looks at the norm before the last cross-attention block's self-attention; A1111 runs the UNet."""
    tensors = load_file(write("checkpoint"))
    (norm,) = [k for k in tensors if k.endswith("output_blocks.3.1.transformer_blocks.0.norm1.bias")]
    ours = models[family].unet.up_blocks[1].attentions[-1].transformer_blocks[0].norm1.bias
    assert (tensors[norm] == ours).all() and "v_pred" not in tensors


@pytest.mark.parametrize("family", ["sd1"])
def test_a_folder_that_cannot_be_written_is_a_sentence(family, write, tmp_path):
    (tmp_path / "cat").write_text("")  # a file where the export's folder should be
    with pytest.raises(FileError, match="is a file; give the name of a folder"):
        write("diffusers", overwrite=True)


# Scores in the card


def report(model, erased, **changes):
    tally = {"correct": 8, "count": 8, "top1_interval": [0.68, 1.0], "probability": 0.98, "interval": [0.97, 0.99]}
    gone = tally | {"correct": 1, "top1_interval": [0.02, 0.47]}
    about = {
        "recipe": json.loads(erased.recipe.to_json()),
        "fingerprint": model.fingerprint,
        "judge": "CLIP | x",
        "labels": ["cat", "dog"],
        "plan": {"steps": 20, "seeds": [10_000, 10_001]},
        "rows": [
            {"role": "erased", "word": "cat", "before": tally, "after": gone, "change": 9.0},
            {"role": "erased", "word": "all", "before": tally, "after": gone, "change": 9.0},
            {"role": "kept", "word": "all", "before": tally, "after": tally, "change": 1.0},
        ],
        "harmonic": [{"metric": "H_o", "over": "top-1", "value": 0.931}],
        "quality": {"count": 48, "kid": 0.00123},
    }
    return about | changes


@pytest.mark.parametrize("family", ["sd1"])
def test_the_card_holds_the_scores_of_the_same_erasure(family, models, erasures, write, tmp_path):
    path = tmp_path / "report.json"
    path.write_text(json.dumps(report(models[family], erasures[family])), encoding="utf-8")
    write("unet", report=path)
    card = (tmp_path / "cat.md").read_text(encoding="utf-8")
    assert "By CLIP \\| x among 2 answers, images of 20 steps, seeds 10000 to 10001" in card
    assert "| erased | 8 | 100.0 % (68.0 to 100.0) | 12.5 % (2.0 to 47.0) |\n| kept | 8 | 100.0 %" in card
    assert "H\\_o, top-1: 93.1 %. KID of 48 general captions, before against after: 0.0012." in card
    first = report(models[family], erasures[family], harmonic={"H_o, top-1": 0.931})  # as version 0.1 wrote it
    first["recipe"] |= first["recipe"].pop("settings")
    del first["recipe"]["method"]
    path.write_text(json.dumps(first), encoding="utf-8")
    write("unet", report=path, overwrite=True)
    assert (tmp_path / "cat.md").read_text(encoding="utf-8") == card
    for content, said in (
        (json.dumps(report(models[family], erasures[family], fingerprint="other")), "another erasure"),
        (json.dumps({"recipe": {}}), "no report.json"),
        ("{", "no report.json"),
    ):
        path.write_text(content, encoding="utf-8")
        with pytest.raises(FileError, match=said):
            write("unet", report=path, overwrite=True)
    with safe_open(tmp_path / "cat.safetensors", framework="pt") as file:
        assert file.metadata()["mace_studio_export"]
