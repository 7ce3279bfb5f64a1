from dataclasses import replace

import numpy as np
import pytest
import torch

from mace_studio import prompts
from mace_studio.core.ridge import SingularGram
from mace_studio.errors import RecipeError
from mace_studio.methods.mace import MaceSettings, preview
from mace_studio.methods.mace import refine as refinement
from mace_studio.methods.mace.preview import PreviewCache
from mace_studio.recipe import Concept, ImageRequest, Recipe
from mace_studio.sd import attention_hooks, projections, sampling
from mace_studio.settings import KeepWeights
from tests.steps import cancelled

RECIPE = Recipe(
    concepts=(Concept("cat", "forest"),),
    preserve=("dog",),
    settings=MaceSettings(refine=KeepWeights(preserve=1.0, identity=1.0), fuse=KeepWeights(preserve=1.0)),
)
REQUEST = ImageRequest(("a photo of the cat",), (0,), steps=4, guidance=4.0)


def run(model, recipe, kept=None):
    seen = []
    result = preview.preview(model, recipe, REQUEST, kept or PreviewCache(), seen.append)
    return result, seen


def psnr(first, second):
    difference = np.asarray(first, np.float64) - np.asarray(second, np.float64)
    return np.inf if not difference.any() else 10 * np.log10(255**2 / np.square(difference).mean())


def test_m_on_the_embeddings_draws_what_refined_weights_draw(model, unchanged):
    shown, _ = run(model, RECIPE)
    sums = refinement.gather(model, RECIPE, None)
    solved = refinement.solve(sums, RECIPE.settings.refine)
    with projections.swapped(model.unet, refinement.weights(model, solved)):
        (refined,) = sampling.generate(model, REQUEST)
    assert psnr(shown.after, refined) > 40
    assert psnr(shown.after, shown.before) < 30, "the refinement shows"
    assert shown.condition == solved.condition


def test_what_is_known_is_not_computed_again_and_changes_nothing(model, unchanged, monkeypatch):
    kept = PreviewCache()
    first, seen = run(model, RECIPE, kept)
    other = RECIPE.with_settings(refine=KeepWeights(preserve=50.0, identity=1.0))
    fresh, _ = run(model, other)
    monkeypatch.setattr(refinement, "gather", None)
    again, seen_again = run(model, other, kept)
    assert len(seen_again) < len(seen)
    assert psnr(again.after, fresh.after) == np.inf and again.before is first.before
    assert psnr(again.after, first.after) < np.inf


def test_new_concepts_and_general_captions_are_read(model, tmp_path):
    captions = tmp_path / "captions.txt"
    captions.write_text("a photo of the ship\na dog in the snow")
    model, kept = replace(model, captions=captions), PreviewCache()
    run(model, RECIPE, kept)
    before = kept.sums
    run(model, replace(RECIPE, concepts=(Concept("cat", "sky"),)), kept)
    assert not torch.equal(kept.sums.concepts.cross_DD, before.concepts.cross_DD)
    assert kept.sums.general is None
    run(model, RECIPE.with_settings(refine=replace(RECIPE.settings.refine, general=1e-4)), kept)
    assert kept.sums.general is not None


def test_the_fusion_has_no_part_in_it(model):
    _, seen = run(model, RECIPE.with_settings(fuse=KeepWeights(general=1.0)))
    assert not any("captions" in p.concept for p in seen)


def test_progress_grows_and_leaving_early_leaves_no_hook(model, unchanged):
    _, seen = run(model, RECIPE)
    fractions = [p.fraction for p in seen]
    assert fractions == sorted(fractions) and fractions[-1] == 1
    with cancelled(lambda p: p.concept == "after") as progress:
        preview.preview(model, RECIPE, REQUEST, PreviewCache(), progress)


def test_bad_input_is_named(model, unchanged, monkeypatch):
    with pytest.raises(RecipeError, match="at least one concept"):
        run(model, Recipe())
    monkeypatch.setattr(prompts, "templates", lambda kind: ("the {}",))  # fewer pairs than dimensions
    with pytest.raises(SingularGram, match="too little to keep"):
        run(model, replace(RECIPE.with_settings(refine=KeepWeights()), preserve=()))


@pytest.mark.parametrize("as_keyword", [True, False])
def test_a_context_is_edited_however_it_is_passed(model, unchanged, as_keyword):
    noisy, context = torch.zeros(1, model.unet.config.in_channels, 16, 16), torch.ones(1, 4, model.width)
    rest = {"encoder_hidden_states": context} if as_keyword else {}
    args = (noisy, 1) if as_keyword else (noisy, 1, context)
    with torch.no_grad():
        expected = model.unet(noisy, 1, 2 * context).sample
        with attention_hooks.context(model.unet, lambda c: 2 * c):
            assert torch.equal(model.unet(*args, **rest).sample, expected)
