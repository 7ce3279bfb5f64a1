import json
from dataclasses import asdict, replace

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors import safe_open

from mace_studio import erasure, prompts
from mace_studio.core import attention, ridge
from mace_studio.core.ridge import SingularGram
from mace_studio.errors import FileError, RecipeError
from mace_studio.methods.mace import MaceSettings, erase, refine
from mace_studio.methods.mace.own_tokens import OwnTokens
from mace_studio.progress import Cancelled
from mace_studio.recipe import Concept, Recipe
from mace_studio.sd import files, grams, lora, projections, sampling, segment, text
from mace_studio.sd import model as sd_model
from mace_studio.settings import ImageSettings, KeepWeights, LoraSettings
from tests.steps import cancelled, untouched

QUICK = Recipe(
    concepts=(Concept("cat", "forest", synonyms=("kitty",)), Concept("Ada Finch", "a person", "celebrity")),
    preserve=("dog",),
    settings=MaceSettings(
        refine=KeepWeights(preserve=1.0, identity=10.0),
        fuse=KeepWeights(preserve=1.0, identity=10.0),
        lora=LoraSettings(steps=2, learning_rate=1e-3),
        images=ImageSettings(per_concept=2, steps=2, guidance=4.0),
    ),
)


def run(model, recipe, cache=None, **options):
    seen = []
    return erase.erase(model, recipe, seen.append, cache, **options), seen


@pytest.fixture(scope="module")
def quick(model):
    """QUICK's erasure and its events, made once."""
    with untouched(model):
        return run(model, QUICK)


@pytest.fixture(scope="module")
def refined(model):
    """QUICK without its LoRAs, and the events, made once."""
    with untouched(model):
        return run(model, QUICK.with_settings(lora=LoraSettings(steps=0)))


def test_stages_come_in_order_and_progress_only_grows(quick):
    result, seen = quick
    assert list(dict.fromkeys(p.stage for p in seen)) == ["images", "masks", "refine", "lora", "fuse"]
    fractions = [p.fraction for p in seen]
    assert fractions == sorted(fractions) and fractions[-1] == 1.0
    assert all(0 <= p.step <= p.total for p in seen)
    assert {p.concept for p in seen if p.stage == "lora"} == {"cat", "Ada Finch"}
    assert [p.loss for p in seen if p.loss is not None and p.concept == "cat"] == list(result.loras["cat"].losses)


def test_only_projections_change_and_all_of_them_do(model, quick):
    result, _ = quick
    original = projections.read(model.unet)
    assert list(result.weights) == list(original)
    for key, weight_PD in result.weights.items():
        assert weight_PD.shape == original[key].shape and weight_PD.dtype == original[key].dtype
        assert weight_PD.isfinite().all() and not torch.equal(weight_PD, original[key])
    assert set(result.weights) <= set(model.unet.state_dict())
    assert result.conditions["refine"] > 1 and result.conditions["fuse"] > 1


def test_same_recipe_same_bytes_with_and_without_what_was_kept(model, unchanged, quick, tmp_path):
    files = [tmp_path / f"{n}.safetensors" for n in "abc"]
    quick[0].save(files[0])
    for path in files[1:]:
        run(model, QUICK, tmp_path / "cache")[0].save(path)
    first, second, third = (path.read_bytes() for path in files)
    assert first == second == third
    other, _ = run(model, replace(QUICK, seed=1))
    assert not torch.equal(*(r.weights[next(iter(r.weights))] for r in (erasure.load(files[0]), other)))


def test_how_many_train_at_once_and_their_order_do_not_matter(model, unchanged):
    slow = QUICK.with_settings(lora=LoraSettings(steps=2, learning_rate=5e-5))
    base, _ = run(model, slow)
    alone, _ = run(model, slow.with_settings(concepts_at_once=1))
    turned, _ = run(model, replace(slow, concepts=slow.concepts[::-1]))
    for key, weight_PD in base.weights.items():
        torch.testing.assert_close(alone.weights[key], weight_PD, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(turned.weights[key], weight_PD, atol=1e-4, rtol=1e-3)


def test_the_refinement_alone_is_w_times_m_and_draws_no_image(model, refined):
    result, seen = refined
    assert list(dict.fromkeys(p.stage for p in seen)) == ["refine", "fuse"]
    original = projections.read(model.unet)
    keys = list(original)
    stacked = torch.cat([original[k].double() for k in keys])
    m_DD = torch.linalg.lstsq(stacked, torch.cat([result.weights[k].double() for k in keys])).solution
    for key in keys:
        torch.testing.assert_close((original[key].double() @ m_DD).float(), result.weights[key], atol=1e-4, rtol=1e-3)


def test_mapping_a_concept_to_itself_refines_to_the_very_same_weights(model, unchanged):
    same = replace(QUICK.with_settings(lora=LoraSettings(steps=0)), concepts=(Concept("cat", "cat"),), preserve=())
    with pytest.raises(RecipeError, match="to itself"):  # nobody means that
        run(model, same)
    solved = refine.solve(refine.gather(model, same, None), same.settings.refine)
    weights = refine.weights(model, solved)
    assert all(torch.equal(w, weights[key]) for key, w in projections.read(model.unet).items())


def test_weighted_sum_is_the_mean_of_the_loras_on_top_of_the_refinement(model, unchanged, refined):
    result, _ = run(model, QUICK.with_settings(fusion="weighted-sum"))
    key = next(iter(result.weights))
    by_hand = refined[0].weights[key] + sum(d.pairs[key][0] @ d.pairs[key][1] for d in result.loras.values()) / 2
    torch.testing.assert_close(result.weights[key], by_hand, atol=1e-5, rtol=1e-4)


def test_a_lora_at_own_tokens_is_fused_where_no_kept_phrase_shares_them(model, unchanged, refined, tmp_path):
    """Against least squares over every row: W' e everywhere, W e of what is kept, (W' + B A) e at own tokens."""
    alone = replace(QUICK.settings.lora, own_tokens=True)
    asked = replace(QUICK, preserve=("dog", "Ada Frost")).with_settings(lora=alone)
    result, _ = run(model, asked)
    key = list(result.weights)[3]
    plain, _ = run(model, replace(asked, settings=refined[0].recipe.settings))
    original_PD, refined_PD = projections.read(model.unet)[key].double(), plain.weights[key].double()
    rows, targets = [10**0.5 * torch.eye(model.width).double()], [10**0.5 * refined_PD.T]
    for concept, own in ((asked.concepts[0], ["cat</w>"]), (asked.concepts[1], ["fin", "ch</w>"])):
        up_PR, down_RD = (part.double() for part in result.loras[concept.phrase].pairs[key])
        for sentence in prompts.about(concept):
            context_TD = text.embed(model, [sentence])[0].double()
            pieces = model.pipeline.tokenizer.tokenize(sentence)
            target_TP = context_TD @ refined_PD.T
            for position, piece in enumerate(pieces, 1):  # after the start token
                if piece in own:
                    target_TP[position] += context_TD[position] @ (up_PR @ down_RD).T
            rows.append(context_TD)
            targets.append(target_TP)
    for sentence in prompts.preserved(asked):
        context_TD = text.embed(model, [sentence])[0].double()
        rows.append(context_TD)
        targets.append(context_TD @ original_PD.T)
    by_hand = torch.linalg.lstsq(torch.cat(rows), torch.cat(targets)).solution.T
    torch.testing.assert_close(result.weights[key].double(), by_hand, atol=2e-4, rtol=1e-3)
    assert (result.weights[key] - plain.weights[key]).abs().max() > 1e-2


def test_at_least_the_last_token_of_a_concept_is_its_own(model):
    alone = QUICK.with_settings(lora=replace(QUICK.settings.lora, own_tokens=True))
    own = OwnTokens(model, replace(alone, preserve=("cat tree", "Ada Frost", "Ada")))
    cat, ada = QUICK.concepts
    assert (own.shared(cat), own.shared(ada)) == (0, 2)
    assert OwnTokens(model, replace(alone, preserve=())).shared(ada) == 0
    assert OwnTokens(model, QUICK).positions(ada) is None
    sentences = prompts.about(ada)
    pieces = [["", *model.pipeline.tokenizer.tokenize(sentence)] for sentence in sentences]
    found = [[row[at] for at in places] for row, places in zip(pieces, own.positions(ada), strict=True)]
    assert all(one in (["fin", "ch</w>"], ["fin", "ch</w>"] * 2) for one in found)


@pytest.mark.parametrize("stage", ["images", "masks", "refine", "lora", "fuse"])
def test_cancelling_in_any_stage_leaves_the_model_as_it_was(model, unchanged, stage):
    with cancelled(lambda p: p.stage == stage) as progress:
        erase.erase(model, QUICK, progress)


@pytest.mark.parametrize(
    "module, name",
    [(sampling, "latent_size"), (segment, "source"), (ridge, "refine"), (attention, "masked_loss"), (ridge, "Fusion")],
)
def test_an_error_in_any_stage_leaves_the_model_as_it_was(model, unchanged, monkeypatch, module, name):
    def broken(*_, **__):
        raise FloatingPointError("broken")

    monkeypatch.setattr(module, name, broken)
    with pytest.raises(FloatingPointError):
        run(model, QUICK)


def test_too_little_to_keep_is_a_sentence_with_the_remedy(model, unchanged, monkeypatch):
    monkeypatch.setattr(prompts, "templates", lambda kind: ("the {}",))  # fewer pairs than dimensions
    nothing = replace(QUICK.with_settings(refine=KeepWeights(), fuse=KeepWeights()), preserve=())
    with pytest.raises(SingularGram, match="preserve list"):
        run(model, nothing)


def test_a_recipe_is_checked_before_anything_is_computed(model):
    with pytest.raises(RecipeError, match="at least one concept"):
        erase.erase(model, Recipe())


def test_an_empty_mask_falls_back_to_the_whole_image_and_is_said(model, unchanged, monkeypatch):
    monkeypatch.setattr(segment, "source", lambda model, name: lambda images, *_: [None] * len(images))
    result, _ = run(model, QUICK)
    assert len(result.warnings) == 2 and "whole image" in result.warnings[0]
    without, _ = run(model, QUICK.with_settings(masks="none"))
    assert not without.warnings
    key = next(iter(result.weights))
    assert torch.equal(result.weights[key], without.weights[key])


def test_styles_and_explicit_content_have_no_mask(model, unchanged, monkeypatch):
    monkeypatch.setattr(segment, "source", lambda model, name: lambda *_: pytest.fail("a mask was made"))
    concepts = (Concept("Lena Strich", "art", "style"), Concept("bomb", "a person", "explicit"))
    run(model, replace(QUICK, concepts=concepts))


def test_general_captions_count_as_many_as_the_papers(model, unchanged, tmp_path):
    """With lambda1 = 1 the keep Gram is that of the captions times 616,767 / n, whatever n is; doubling the file
    changes nothing."""
    captions = tmp_path / "captions.txt"
    model = replace(model, captions=captions)
    weighted = QUICK.with_settings(refine=KeepWeights(general=1e-4), lora=LoraSettings(steps=0))
    lines = ["a photo of the ship", "a dog in the snow", *prompts.about(Concept("horse", ""))] * 3
    captions.write_text("\n".join(lines))
    once, _ = run(model, weighted, tmp_path / "cache")
    captions.write_text("\n".join(lines * 2))
    twice, _ = run(model, weighted, tmp_path / "cache")
    grams.forget()
    cached, _ = run(model, weighted, tmp_path / "cache")
    assert len(list((tmp_path / "cache").glob("general-*"))) == 2
    assert once.warnings == ("General knowledge was taken from captions.txt.",)
    for key, weight_PD in once.weights.items():
        torch.testing.assert_close(twice.weights[key], weight_PD, atol=1e-5, rtol=1e-4)
        assert torch.equal(twice.weights[key], cached.weights[key])


def test_another_shape_of_model_goes_the_same_way(other):
    result, _ = run(other, QUICK)
    assert all(weight_PD.isfinite().all() for weight_PD in result.weights.values())


def test_half_precision_trains_with_float32_loras(other_folder, monkeypatch):
    half = sd_model.load(str(other_folder), "cpu", "bfloat16")
    kept, clip = [], torch.nn.utils.clip_grad_norm_

    def keeping(parameters, norm):
        kept.extend(parameters)
        return clip(parameters, norm)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", keeping)
    result, _ = run(half, QUICK)
    assert {p.dtype for p in kept} == {torch.float32}
    assert {w.dtype for w in result.weights.values()} == {torch.bfloat16}
    assert all(w.isfinite().all() for w in result.weights.values())


def test_a_file_holds_everything_and_reads_back_exactly(model, quick, tmp_path):
    result, _ = quick
    path = tmp_path / "new" / "cat.safetensors"
    result.save(path)
    again = erasure.load(path)
    assert all(torch.equal(again.weights[key], w) for key, w in result.weights.items())
    assert replace(again, weights={}, loras={}) == replace(result, weights={}, loras={})
    assert list(again.loras) == list(result.loras) == ["cat", "Ada Finch"]
    for phrase, delta in result.loras.items():
        assert replace(again.loras[phrase], pairs={}) == replace(delta, pairs={}) and delta.pairs
        for key, pair in delta.pairs.items():
            assert all(torch.equal(*sides) for sides in zip(again.loras[phrase].pairs[key], pair, strict=True))
    with safe_open(path, framework="pt") as file:
        about = json.loads(file.metadata()["mace_studio"])
    assert Recipe.from_json(json.dumps(about["recipe"])) == QUICK
    assert about["fingerprint"] == model.fingerprint and about["versions"]["torch"] == torch.__version__
    fresh = sd_model.load(model.source, "cpu", "float32").unet
    assert not fresh.load_state_dict(again.weights, strict=False).unexpected_keys


def test_a_file_of_an_older_version_has_weights_and_losses_but_no_loras(quick, tmp_path):
    result, _ = quick
    path = tmp_path / "old.safetensors"
    about = {k: v for k, v in vars(result).items() if k not in ("weights", "recipe", "loras")}
    about |= {"recipe": asdict(QUICK), "losses": {p: d.losses for p, d in result.loras.items()}}
    files.write(path, result.weights, {"mace_studio": json.dumps(about)})
    old = erasure.load(path)
    assert all(torch.equal(old.weights[key], w) for key, w in result.weights.items())
    assert [delta.losses for delta in old.loras.values()] == [delta.losses for delta in result.loras.values()]
    assert not any(delta.pairs for delta in old.loras.values())


def test_an_erasure_is_in_place_inside_the_block_only(model, other, unchanged, quick):
    result, _ = quick
    original = {key: weight_PD.clone() for key, weight_PD in projections.read(model.unet).items()}
    with result.applied(model):
        inside = projections.read(model.unet)
        assert all(torch.equal(inside[key], weight_PD) for key, weight_PD in result.weights.items())
    assert all(torch.equal(weight_PD, original[key]) for key, weight_PD in projections.read(model.unet).items())
    with pytest.raises(FileError, match="another model"), result.applied(other):
        pass


def test_an_erasure_goes_into_any_pipeline_whose_projections_it_fits(model, other_folder, refined):
    result, _ = refined
    pipeline = StableDiffusionPipeline.from_pretrained(model.source, torch_dtype=torch.bfloat16)
    before = {key: tensor.clone() for key, tensor in pipeline.unet.state_dict().items()}
    result.apply(pipeline)
    for key, tensor in pipeline.unet.state_dict().items():
        assert torch.equal(tensor, result.weights[key].bfloat16() if key in result.weights else before[key])
    another = StableDiffusionPipeline.from_pretrained(other_folder)
    before = {key: tensor.clone() for key, tensor in another.unet.state_dict().items()}
    with pytest.raises(FileError, match=r"does not fit this pipeline: .*attn2\.to_k\.weight of \("):
        result.apply(another)
    assert all(torch.equal(tensor, before[key]) for key, tensor in another.unet.state_dict().items())


@pytest.mark.parametrize(
    "stage, name", [("refine", "preserve list"), ("refine", "cat"), ("lora", "cat"), ("fuse", "cat")]
)
def test_cancel_is_seen_within_a_batch_of_sentences(model, unchanged, monkeypatch, stage, name):
    """600 kept phrases and 100 templates: the job ends with the first batch that is encoded, not with the list."""
    monkeypatch.setattr(prompts, "templates", lambda kind: tuple(f"{{}} {i}" for i in range(100)))
    monkeypatch.setattr(erase, "LIMIT", 0)  # so that each stage encodes its prompts again
    recipe = replace(QUICK, preserve=[f"dog {i}" for i in range(600 if name == "preserve list" else 1)])
    encoded, begun = [], []  # sizes of the batches of sentences; how many of them when the stage began

    def progress(event):
        if event.stage != stage and event.stage != "masks":
            begun[:] = [len(encoded)]
        if event.stage == stage and event.concept == name:
            raise Cancelled

    def count(_, args, options):
        encoded.append(len(args[0] if args else options["input_ids"]))

    handle = model.pipeline.text_encoder.register_forward_pre_hook(count, with_kwargs=True)
    try:
        with pytest.raises(Cancelled):
            erase.erase(model, recipe.with_settings(concepts_at_once=1), progress)
    finally:
        handle.remove()
    # The fusion says that it has come to a concept before it encodes its prompts.
    assert encoded[begun[0] :][-1:] == ([] if stage == "fuse" else [text.BATCH]) and text.BATCH == 32
    # Before the cat of the refinement: the kept phrase, and another concept with its mapping, 100 sentences each.
    counts = {("refine", "cat"): 3 * 4 + 1, ("fuse", "cat"): 0}
    assert len(encoded[begun[0] :]) == counts.get((stage, name), 1)


def test_known_loras_are_not_trained_again_and_fuse_to_the_same_weights(model, unchanged, quick, monkeypatch):
    whole, _ = quick
    part, seen = run(model, QUICK, known={"cat": whole.loras["cat"], "none of it": None})
    assert {p.concept for p in seen if p.stage == "lora"} == {"Ada Finch"}
    assert {p.total for p in seen if p.stage in ("images", "lora")} == {2}
    for key, weight_PD in whole.weights.items():
        torch.testing.assert_close(part.weights[key], weight_PD, atol=1e-5, rtol=1e-4)
    monkeypatch.setattr(lora, "train", lambda *_: pytest.fail("a LoRA was trained"))
    monkeypatch.setattr(sampling, "training_images", lambda *_: pytest.fail("an image was drawn"))
    again, seen = run(model, QUICK, known=whole.loras)
    assert list(dict.fromkeys(p.stage for p in seen)) == ["refine", "fuse"]
    fractions = [p.fraction for p in seen]
    assert fractions == sorted(fractions) and fractions[-1] == 1.0
    assert all(torch.equal(again.weights[key], w) for key, w in whole.weights.items())
    assert again.loras == whole.loras


def test_loras_are_of_one_origin_whatever_does_not_train_them():
    same = replace(
        QUICK.with_settings(fuse=KeepWeights(general=1.0), concepts_at_once=1, fusion="weighted-sum"), name="other"
    )
    same = replace(same, concepts=(QUICK.concepts[1], replace(QUICK.concepts[0], synonyms=())))
    assert erasure.origin(same) == erasure.origin(QUICK)
    others = (
        replace(QUICK, preserve=()),
        QUICK.with_settings(refine=KeepWeights(preserve=1.0)),
        replace(QUICK, concepts=QUICK.concepts[:1]),
        replace(QUICK, seed=1),
        QUICK.with_settings(lora=LoraSettings()),
    )
    assert len({erasure.origin(r) for r in (QUICK, *others)}) == 6


@pytest.mark.parametrize("shape", [(3, 1), (1,), (4, 2)])
def test_a_lora_that_does_not_fit_its_weight_makes_a_file_none_of_ours(tmp_path, shape):
    about = {"recipe": asdict(replace(QUICK, concepts=QUICK.concepts[:1])), "losses": {"cat": [1.0]}, "warnings": []}
    about |= {"conditions": {}, "fingerprint": "", "versions": {}, "origins": {"cat": ""}}
    key = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"
    pair = {f"lora.0.{key}.up": torch.ones(shape), f"lora.0.{key}.down": torch.ones(1, 2)}
    for up, fits in ((torch.ones(4, 1), True), (torch.ones(shape), False)):
        tensors = {key: torch.ones(4, 2)} | pair | {f"lora.0.{key}.up": up}
        files.write(tmp_path / "x.safetensors", tensors, {"mace_studio": json.dumps(about)})
        if fits:
            assert erasure.load(tmp_path / "x.safetensors").loras["cat"].pairs[key][0].shape == (4, 1)
        else:
            with pytest.raises(FileError, match=r"not an erasure|are matrices"):
                erasure.load(tmp_path / "x.safetensors")


def test_what_is_no_erasure_is_said(tmp_path):
    (tmp_path / "notes.safetensors").write_text("hello")
    with pytest.raises(FileError, match="not an erasure"):
        erasure.load(tmp_path / "notes.safetensors")
    with pytest.raises(FileError, match="no file"):
        erasure.load(tmp_path / "missing.safetensors")


def test_a_failed_write_leaves_no_part_behind(refined, tmp_path, monkeypatch):
    result, _ = refined
    path = tmp_path / "cat.safetensors"
    path.write_text("the old one")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(FileError, match="No space left on device"):
        result.save(path)
    assert path.read_text() == "the old one" and list(tmp_path.iterdir()) == [path]
