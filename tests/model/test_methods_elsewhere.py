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
from tests.steps import untouched

CAT = (Concept("cat", "forest"),)
REQUEST = ImageRequest(("a photo of a cat",), (0,), 2, 4.0)


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


def test_weights_beside_the_projections_are_exported_where_there_is_room(small, esd, tmp_path):
    with untouched(small):
        export(small, esd, ExportRequest("unet", tmp_path / "unet.safetensors"))
        export(small, esd, ExportRequest("diffusers", tmp_path / "folder"))
        with pytest.raises(FileError, match=r"written for key and value projections alone"):
            export(small, esd, ExportRequest("lora", tmp_path / "lora.safetensors"))
    alone = load_file(tmp_path / "unet.safetensors")
    whole = load_file(tmp_path / "folder" / "unet" / "diffusion_pytorch_model.safetensors")
    assert any("attn2" not in key and ".norm" in key for key in alone)
    assert all(
        torch.equal(alone[key], weight) and torch.equal(whole[key], weight) for key, weight in esd.weights.items()
    )
