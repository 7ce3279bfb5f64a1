import io
from dataclasses import replace

import matplotlib
import numpy as np
import pytest
import torch

from mace_studio.analysis import attention as inspection
from mace_studio.analysis import figures
from mace_studio.erasure import Erasure
from mace_studio.errors import FileError, RecipeError
from mace_studio.evaluation import report_figures
from mace_studio.evaluation.report import Tally
from mace_studio.methods.mace import MaceSettings
from mace_studio.methods.mace import refine as refinement
from mace_studio.recipe import Concept, ImageRequest, Recipe
from mace_studio.sd import attention_hooks, attention_maps, judges, projections, sampling, text
from mace_studio.sd.attention_maps import TokenMaps
from mace_studio.sd.text import Word
from mace_studio.settings import KeepWeights
from tests.steps import cancelled

REQUEST = ImageRequest(prompts=("a photo of the cat in the forest",), seeds=(0,), steps=3, guidance=4.0)
RECIPE = Recipe(
    concepts=(Concept("cat", "forest", synonyms=("kitty",)),),
    preserve=("dog",),
    settings=MaceSettings(refine=KeepWeights(preserve=1.0, identity=1), fuse=KeepWeights(preserve=1.0)),
)


@pytest.fixture(scope="module")
def erasure(model):
    """The refinement and a little more, so that the three stages differ."""
    sums = refinement.gather(model, RECIPE, None)
    weights = refinement.weights(model, refinement.solve(sums, RECIPE.settings.refine))
    return Erasure(
        recipe=RECIPE,
        weights={key: 0.9 * weight_PD for key, weight_PD in weights.items()},
        fingerprint=model.fingerprint,
    )


@pytest.fixture(scope="module")
def inspected(model, erasure):
    return inspection.inspect(model, REQUEST, erasure)


def pixels(image):
    return np.asarray(image, np.float64)


def test_the_images_are_those_of_a_plain_run_and_so_are_the_maps(model, erasure, inspected, unchanged):
    (plain,) = sampling.generate(model, REQUEST)
    assert (pixels(plain) == pixels(inspected.runs["before"].image)).all()
    with erasure.applied(model):
        (after,) = sampling.generate(model, REQUEST)
    assert (pixels(after) == pixels(inspected.runs["after"].image)).all()
    words = text.words(model, ""), text.words(model, REQUEST.prompts[0], ["cat"])
    recorder = attention_maps.Recorder(words, range(REQUEST.steps), (16, 16))
    with attention_hooks.attention(model.unet, recorder.receive):
        sampling.generate(model, REQUEST)
    for name, side in zip(("unconditional", "conditional"), recorder.sides(), strict=True):
        ours = getattr(inspected.runs["before"], name)
        assert ours.words == side.words
        assert all(torch.equal(ours.maps[group], side.maps[group]) for group in side.maps)


def test_progress_only_grows_and_ends_at_the_whole(model, erasure):
    for use_case, names in (
        (inspection.inspect, ["before", "after"]),
        (inspection.residual, ["original", "refined", "erased"]),
    ):
        seen = []
        result = use_case(model, REQUEST, erasure, progress=seen.append)
        fractions = [p.fraction for p in seen]
        assert fractions == sorted(fractions) and fractions[-1] == pytest.approx(1)
        assert list(result.runs) == names
        assert list(dict.fromkeys(p.concept for p in seen if p.stage == "generate")) == names
        so_far = [p.result for p in seen if p.result is not None]  # between the runs
        assert [list(one.runs) for one in so_far] == [names[: i + 1] for i in range(len(names) - 1)]
        assert all((one.mask is None) == (result.mask is None) for one in so_far)


def test_attention_adds_up_and_concepts_are_marked(inspected):
    assert [w.text for w in inspected.words if w.role == "concept"] == ["cat"]
    masses = inspected.masses("after")
    assert sum(mass.total for mass in masses) == pytest.approx(1, abs=1e-4)
    assert sum(mass.inside for mass in masses) == pytest.approx(1, abs=1e-3)
    before = inspected.runs["before"].conditional.mean().mean(dim=0)
    mine = next(m for m in inspected.masses("before") if m.word.text == "cat")
    assert mine.inside == pytest.approx(before[5][inspected.mask.mask_IJ].mean().item())


def run_of(words, maps_TIJ):
    """A run whose words have the given maps at its only step, head and layer."""
    token_maps = TokenMaps(tuple(words), {"g": torch.stack(maps_TIJ)[None, None]}, {"g": 1})
    return inspection.Run(None, token_maps, None)


def test_the_mask_is_the_concepts_own_or_that_of_a_later_word_that_carries_it():
    flat, here, there = torch.full((4, 4), 0.1), torch.full((4, 4), 0.1), torch.full((4, 4), 0.1)
    here[1:3, 1:3], there[0] = 0.5, 0.6
    words = [Word("a", ("a",), (0,)), Word("cat", ("cat",), (1,), "concept"), Word("in", ("in",), (2,))]
    for maps_TIJ, word, where in (
        ([there, here, flat], "cat", here > 0.3),
        ([there, here, there], "cat", here > 0.3),
        ([there, flat, here], "in", here > 0.3),
    ):
        mask = run_of(words, maps_TIJ).mask()
        assert mask.word == word and torch.equal(mask.mask_IJ, where)
    assert run_of(words, [there, flat, flat]).mask() is None, "what comes before cannot carry it"
    assert run_of(words[:1], [there]).mask() is None


def test_without_an_erasure_there_is_one_run_and_a_phrase_of_ones_own(model, unchanged):
    result = inspection.inspect(model, REQUEST, phrases=["the forest"])
    assert list(result.runs) == ["before"] and "recipe" not in result.settings
    assert [w.text for w in result.words if w.role == "concept"] == ["the forest"]
    nothing = inspection.inspect(model, REQUEST)
    assert nothing.mask is None and all(m.inside is None for m in nothing.masses("before"))


def test_what_is_replaced_is_the_concept_and_nothing_else(model, erasure, monkeypatch, unchanged):
    seen, usual = [], inspection.replaced

    def spy(context_BTD, positions, source):
        other_BTD = usual(context_BTD, positions, source)
        seen.append((context_BTD, other_BTD, positions, source))
        return other_BTD

    monkeypatch.setattr(inspection, "replaced", spy)
    inspection.residual(model, REQUEST, erasure)
    assert len(seen) == 3 * REQUEST.steps
    for context_BTD, other_BTD, positions, source in seen:
        assert positions == [5] and source == model.length - 1
        changed_BT = (context_BTD != other_BTD).any(dim=2)
        assert changed_BT.nonzero().tolist() == [[1, 5]]
        assert torch.equal(other_BTD[1, 5], context_BTD[1, source])


def test_the_stages_of_the_residual_experiment_are_the_weights_they_say(model, erasure, unchanged):
    result = inspection.residual(model, REQUEST, erasure)
    sums = refinement.gather(model, RECIPE, None)
    refined = refinement.weights(model, refinement.solve(sums, RECIPE.settings.refine))
    for name, weights in (("original", {}), ("refined", refined), ("erased", erasure.weights)):
        edit = attention_hooks.context(model.unet, lambda c: inspection.replaced(c, [5], model.length - 1))
        with projections.swapped(model.unet, weights), edit:
            (image,) = sampling.generate(model, REQUEST)
        assert (pixels(image) == pixels(result.runs[name].image)).all()


def test_no_captions_are_read_for_a_fusion_that_is_not_made(model, erasure):
    asking = replace(erasure, recipe=RECIPE.with_settings(fuse=KeepWeights(general=1.0)))
    with cancelled(lambda event: event.stage == "generate") as progress:
        inspection.residual(model, REQUEST, asking, progress=progress)
    assert progress.seen and not any("captions" in event.concept for event in progress.seen)


def test_it_is_read_as_it_was_written(inspected, tmp_path):
    path = inspection.save(inspected, tmp_path / "a" / "cat.npz")
    again = inspection.load(path)
    assert again.settings == inspected.settings | {"prompts": list(REQUEST.prompts), "seeds": [0]}
    assert again.mask.word == inspected.mask.word and torch.equal(again.mask.mask_IJ, inspected.mask.mask_IJ)
    assert list(again.runs) == list(inspected.runs)
    for name, run in inspected.runs.items():
        other = again.runs[name]
        assert (pixels(other.image) == pixels(run.image)).all() and other.presence == run.presence
        for side in inspection.SIDES:
            ours, theirs = getattr(run, side), getattr(other, side)
            assert ours.words == theirs.words and ours.layers == theirs.layers
            assert all(torch.equal(ours.maps[g], theirs.maps[g]) for g in ours.layers)


def test_figures_show_any_text(inspected):
    """A PDF file cannot hold a byte order mark, and `$` begins a formula."""
    odd = "\ufeff$\\frac{$ _a_ {}%s"
    first, *others = inspected.words
    words = (replace(first, text=odd, role="concept"), *others)
    settings = {**inspected.settings, "prompts": (odd,), "model": odd}
    runs = {
        name: replace(run, presence={odd: 0.5}, conditional=replace(run.conditional, words=words))
        for name, run in inspected.runs.items()
    }
    shown = replace(inspected, settings=settings, runs=runs)
    some = Tally(correct=2, count=4, top1_interval=(0.1, 0.9), probability=0.5, interval=(0.1, 0.9))
    with matplotlib.rc_context(figures.STYLE):
        for draw in (figures.token_grid, figures.mass_bars, figures.residual_rows):
            draw(shown).savefig(io.BytesIO(), format="pdf", dpi=20)
        report_figures.scatter({odd: [(odd, some, some)]}).savefig(io.BytesIO(), format="png", dpi=20)


def test_what_is_no_inspection_is_refused(inspected, tmp_path):
    path = inspection.save(inspected, tmp_path / "cat.npz")
    path.write_bytes(b"PK nothing")
    with pytest.raises(FileError, match="no inspection"):
        inspection.load(path)
    inspection.save(inspected, path)
    for odd in ("[]", '{"runs": []}', '{"runs": {"before": {"conditional": []}}}', "[" * 100_000):
        path.with_suffix(".json").write_text(odd)
        with pytest.raises(FileError, match="no inspection"):
            inspection.load(path)
    path.with_suffix(".json").unlink()
    with pytest.raises(FileError, match="JSON file beside it"):
        inspection.load(path)
    with pytest.raises(FileError, match="Choose another folder"):
        inspection.save(inspected, path / "below.npz")


@pytest.mark.parametrize("use_case", [inspection.inspect, inspection.residual])
def test_cancelling_or_failing_leaves_no_hook(model, erasure, unchanged, monkeypatch, use_case):
    with cancelled(lambda event: event.stage == "generate" and event.step) as progress:
        use_case(model, REQUEST, erasure, progress=progress)

    def broken(*_):
        raise FloatingPointError("broken")

    monkeypatch.setattr(attention_maps.Recorder, "receive", broken)
    with pytest.raises(FloatingPointError):
        use_case(model, REQUEST, erasure)


@pytest.mark.parametrize(
    ("change", "field", "said"),
    [
        ({"prompts": ("a", "b")}, "prompt", "2 prompts"),
        ({"seeds": (1, 2, 3)}, "seed", "3 seeds"),
        ({"prompts": ("a dog",)}, "prompt", "such as cat"),
        ({"size": (64, 63)}, "size", "64 x 63"),
    ],
)
def test_what_cannot_be_inspected_is_named(model, erasure, change, field, said):
    with pytest.raises(RecipeError, match=said) as error:
        inspection.residual(model, replace(REQUEST, **change), erasure)
    assert error.value.field == field


def test_an_erasure_of_another_model_is_refused(other, erasure):
    with pytest.raises(FileError, match="another model"):
        inspection.inspect(other, REQUEST, erasure)


def test_a_judge_that_does_not_know_a_phrase_says_nothing(model):
    image = generate_one(model)
    judge = judges.of(model)
    assert 0 <= judges.presence(judge, image, "kitty") <= 1
    assert judges.presence(judge, image, "Van Gogh") is None
    assert judges.presence(None, image, "cat") is None


def test_a_model_without_a_judge_has_none(other):
    assert judges.of(other) is None


def generate_one(model):
    return sampling.generate(model, replace(REQUEST, steps=1))[0]
