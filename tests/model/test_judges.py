import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

from mace_studio.errors import ModelError
from mace_studio.miniature.judge import Judge
from mace_studio.paths import BUILT_IN
from mace_studio.sd import judges
from mace_studio.sd.judges import ZeroShotClip


@pytest.fixture(scope="module")
def images():
    random = np.random.default_rng(0)
    return [Image.fromarray(random.integers(0, 256, (40, 48, 3), dtype=np.uint8)) for _ in range(3)]


def test_zero_shot_probabilities_are_the_softmax_that_transformers_computes(clip_folder, images):
    judge, labels = ZeroShotClip(str(clip_folder)), ["cat", "dog", "a ship at sea"]
    ours = judge.probabilities(images, labels)
    model = CLIPModel.from_pretrained(clip_folder)
    tokens = CLIPTokenizer.from_pretrained(clip_folder)(
        [f"a photo of {label}" for label in labels], padding=True, return_tensors="pt"
    )
    pixels = CLIPImageProcessorPil.from_pretrained(clip_folder)(images, return_tensors="pt")
    with torch.no_grad():
        theirs = model(**tokens, **pixels).logits_per_image.softmax(dim=1)
    torch.testing.assert_close(ours.float(), theirs, atol=1e-4, rtol=1e-4)
    assert ours.sum(dim=1).allclose(torch.ones(3).double())
    assert judge.name == "zero-shot CLIP, small-clip" and judge.none is None
    assert judge.features(images).norm(dim=1).allclose(torch.ones(3))


def test_a_judge_is_named_as_a_model_is(model, clip_folder):
    for pasted in (f'"{clip_folder}"', f" {clip_folder}/ \n", f"file://{clip_folder}"):
        assert judges.choose(model, pasted).name == "zero-shot CLIP, small-clip"
    with pytest.raises(ModelError, match="is the address of a page"):
        judges.choose(model, "https://example.org/clip")


def test_the_judge_of_a_model_is_its_own_unless_another_is_named(model, other, clip_folder):
    assert isinstance(judges.choose(model, None), Judge)
    assert isinstance(judges.choose(model, str(clip_folder)), ZeroShotClip)
    assert judges.of(other) is None


@pytest.mark.parametrize("held", ["", "[]", "{}", "[" * 100_000, '{"widths": [1], "heads": {}, "temperatures": {}}'])
def test_a_damaged_judge_beside_a_model_is_a_sentence(model, tmp_path, held):
    (tmp_path / "judge").mkdir()
    (tmp_path / "judge" / "judge.json").write_text(held)
    with pytest.raises(ModelError, match="beside the model cannot be read; take it away"):
        judges.of(replace(model, source=str(tmp_path / "model")))


def test_a_missing_judge_is_a_sentence(tmp_path):
    with pytest.raises(ModelError, match="could not be loaded"):
        ZeroShotClip(str(tmp_path))


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "preprocessor_config.json"])
@pytest.mark.parametrize("held", [b"", b"cut", b"[]", b'{"model": 7, "vision_config": [], "size": "x"}'])
def test_a_damaged_judge_is_a_sentence(clip_folder, tmp_path, name, held):
    folder = shutil.copytree(clip_folder, tmp_path / "clip")
    assert (folder / name).is_file()
    (folder / name).write_bytes(held)
    with pytest.raises(ModelError, match="judge"):
        ZeroShotClip(str(folder)).probabilities([Image.new("RGB", (32, 32))], ["cat"])


def test_presence_needs_a_judge_that_can_say_none(model, clip_folder, images):
    assert judges.presence(ZeroShotClip(str(clip_folder)), images[0], "cat") is None
    assert judges.presence(judges.of(model), images[0], "cat") < 0.5, "noise shows no cat"


def test_features_of_the_built_in_judge_tell_images_apart(model, images):
    features_NF = judges.of(model).features(images)
    assert features_NF.shape[0] == 3 and not torch.allclose(features_NF[0], features_NF[1])


def test_a_judge_with_a_missing_weight_is_refused(clip_folder, tmp_path):
    """It would answer with random numbers."""
    folder = shutil.copytree(clip_folder, tmp_path / "clip")
    weights = load_file(folder / "model.safetensors")
    weights.pop("visual_projection.weight")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"judge of .* lacks 1 weight: visual_projection\.weight"):
        judges.ZeroShotClip(str(folder))


@pytest.mark.parametrize("length", [300, 3000])
def test_a_judge_of_a_name_that_no_folder_can_have_is_a_sentence(length):
    with pytest.raises(ModelError) as refused:
        judges.ZeroShotClip("é" * length)
    assert len(str(refused.value)) < 500


def test_a_clip_of_float16_files_leaves_torch_s_default_alone_while_it_loads(monkeypatch):
    """The default is one for all threads: two loads at once, one of them in float16, left it behind for ever."""
    seen, change = [], torch.set_default_dtype
    monkeypatch.setattr(torch, "set_default_dtype", lambda dtype: (seen.append(dtype), change(dtype)))
    judge = ZeroShotClip(str(BUILT_IN.parent / "clip"))
    assert {part.dtype for part in judge._model.parameters()} == {torch.float32}
    assert set(seen) == {torch.float32}
