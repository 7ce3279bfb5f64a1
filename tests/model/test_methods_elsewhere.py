"""What else is done with erasures of other methods than MACE: composed, previewed, looked at and exported."""

import pytest
import torch
from safetensors.torch import load_file

from mace_studio.analysis import attention
from mace_studio.errors import FileError, RecipeError
from mace_studio.exports.export import export
from mace_studio.exports.formats import ExportRequest
from mace_studio.methods import METHODS
from mace_studio.methods.mace import training_images
from mace_studio.methods.mace.compose import compose
from mace_studio.methods.mace.preview import PreviewCache, preview
from mace_studio.recipe import Concept, ImageRequest, Recipe
from mace_studio.sd import ldm_keys
from tests.steps import untouched

CAT = (Concept("cat", "forest"),)
# Methods that change more than keys and values, and settings with which they do so in a moment.
BESIDE = {
    "esd": {"steps": 1, "guidance": 1.0, "select": "u", "learning_rate": 1e-3},
    "fmn": {"steps": 1, "images": 1, "image_steps": 1, "learning_rate": 1e-3},
    "sa": {"steps": 1, "surrogates": 1, "replay": 1, "stride": 500, "image_steps": 1, "learning_rate": 1e-3},
}
REQUEST = ImageRequest(("a photo of a cat",), (0,), steps=2, guidance=4.0)


@pytest.fixture
def small(models):
    return models["sd1"]


@pytest.fixture
def esd(small):
    recipe = Recipe(concepts=CAT, method="esd").with_settings(steps=1, guidance=1.0, select="u", learning_rate=1e-3)
    return METHODS["esd"].erase(small, recipe)


def test_other_methods_are_neither_composed_nor_previewed_nor_masked(small, esd):
    for arguments in (([esd], {}), ([esd], {"add": esd.recipe})):
        with pytest.raises(RecipeError, match="is of the method ESD, and only erasures of MACE can be"):
            compose(small, arguments[0], **arguments[1])
    with pytest.raises(RecipeError, match="Only MACE has a refinement"):
        preview(small, esd.recipe, REQUEST, PreviewCache())
    with pytest.raises(RecipeError, match="Masks belong to MACE"):
        training_images.show(small, esd.recipe)


@pytest.mark.parametrize("name", ["esd", "adavd", "uce"])
def test_what_is_left_of_a_concept_is_looked_at_without_a_refinement(small, esd, name):
    erasure = esd if name == "esd" else METHODS[name].erase(small, Recipe(concepts=CAT, method=name))
    with untouched(small):
        assert list(attention.residual(small, REQUEST, erasure).runs) == ["original", "erased"]
        assert list(attention.inspect(small, REQUEST, erasure).runs) == ["before", "after"]


def added(unet, path):
    """All parameters after a file was added to them by the rules that ComfyUI, A1111 and LyCORIS share.

    `.diff` and `.w_norm` belong to the weight of a layer, `.diff_b` and `.b_norm` to its bias; of a LoRA the update is
    alpha / rank * up @ down, over inputs times kernel of a convolution. A key that names no layer fails.
    """
    layers = {"lora_unet_" + name.replace(".", "_"): name for name, _ in unet.named_modules()}
    tensors, state = {key: tensor.float() for key, tensor in load_file(path).items()}, dict(unet.state_dict())
    parts = {".diff": "weight", ".w_norm": "weight", ".diff_b": "bias", ".b_norm": "bias"}
    for name in sorted({key.split(".")[0] for key in tensors}):
        for end, part in parts.items():
            if name + end in tensors:
                assert isinstance(unet.get_submodule(layers[name]), torch.nn.LayerNorm | torch.nn.GroupNorm) == (
                    "norm" in end
                )
                state[f"{layers[name]}.{part}"] = state[f"{layers[name]}.{part}"] + tensors.pop(name + end)
        if f"{name}.alpha" in tensors:
            up, down = tensors.pop(f"{name}.lora_up.weight"), tensors.pop(f"{name}.lora_down.weight")
            weight = state[f"{layers[name]}.weight"]
            update = tensors.pop(f"{name}.alpha") / len(down) * up.flatten(1) @ down.flatten(1)
            assert weight.ndim == 2 or (up.shape[2:] == (1, 1) and down.shape[1:] == weight.shape[1:])
            state[f"{layers[name]}.weight"] = weight + update.view_as(weight)
    assert not tensors
    return state


@pytest.mark.parametrize("name", BESIDE)
def test_weights_beside_the_projections_are_exported(small, name, tmp_path):
    made = METHODS[name].erase(small, Recipe(concepts=CAT, method=name).with_settings(**BESIDE[name]))
    with untouched(small):
        export(small, made, ExportRequest("unet", tmp_path / "unet.safetensors"))
        export(small, made, ExportRequest("diffusers", tmp_path / "folder"))
        export(small, made, ExportRequest("checkpoint", tmp_path / "whole.safetensors"))
        export(small, made, ExportRequest("lycoris", tmp_path / "lycoris.safetensors"))
        exact = export(small, made, ExportRequest("lora", tmp_path / "exact.safetensors", rank=1000))
        coarse = export(small, made, ExportRequest("lora", tmp_path / "coarse.safetensors", rank=1))
    alone = load_file(tmp_path / "unet.safetensors")
    whole = load_file(tmp_path / "folder" / "unet" / "diffusion_pytorch_model.safetensors")
    assert any("attn2" not in key and ".norm" in key for key in alone)
    assert all(
        torch.equal(alone[key], weight) and torch.equal(whole[key], weight) for key, weight in made.weights.items()
    )
    single, names = load_file(tmp_path / "whole.safetensors"), ldm_keys.unet_keys(small.unet.config, whole)
    assert all(torch.equal(single[ldm_keys.UNET + names[key]].view_as(w), w) for key, w in made.weights.items())

    full, low = added(small.unet, tmp_path / "lycoris.safetensors"), added(small.unet, tmp_path / "exact.safetensors")
    before, rough = small.unet.state_dict(), added(small.unet, tmp_path / "coarse.safetensors")
    assert max((full[key] - weight).abs().max() for key, weight in made.weights.items()) < 2e-6
    for key, weight in made.weights.items():
        if weight.ndim == 1:  # a bias or a norm, which FMN may leave as it is
            lost = 0.0 if torch.equal(weight, before[key]) else 1.0
            assert torch.equal(low[key], before[key]) and exact.residuals[key] == (0, lost)
        else:
            torch.testing.assert_close(low[key], weight, atol=1e-4, rtol=0)
            changed = (weight - before[key]).norm()
            left = (weight - rough[key]).norm() / changed if changed > 0 else changed  # FMN's loss reaches not all
            assert coarse.residuals[key][1] == pytest.approx(left.item(), abs=2e-3)
    assert {rank for rank, _ in coarse.residuals.values()} == {0, 1}
    assert "| 0 | 100.00% |" in (tmp_path / "coarse.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", ["diffusers", "unet", "lycoris", "lora", "checkpoint"])
def test_a_method_that_acts_while_images_are_generated_is_not_exported(small, kind, tmp_path):
    erasure = METHODS["sld"].erase(small, Recipe(concepts=CAT, method="sld"))
    name = "made" if kind == "diffusers" else "made.safetensors"
    with pytest.raises(FileError, match="has no weights to write: SLD acts while"):
        export(small, erasure, ExportRequest(kind, tmp_path / name))
    assert list(tmp_path.iterdir()) == []
