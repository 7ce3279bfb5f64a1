"""Erasure files of strangers: refused by key, dtype and shape before a tensor is read."""

import json
import os

import pytest
import torch
from safetensors.torch import save_file

from mace_studio import erasure as erasures
from mace_studio import erasure_header
from mace_studio.erasure import Erasure
from mace_studio.errors import FileError
from mace_studio.recipe import Concept, Recipe
from mace_studio.sd import files, projections
from mace_studio.sd import model as sd_model
from tests import families

RECIPE = Recipe(concepts=(Concept("cat", "dog"),))
KEY = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight"


def header():
    return erasure_header.Header(recipe=RECIPE, fingerprint="0" * 64, losses={"cat": (1.0,)}, origins={"cat": "x"})


def lora(number="0", key=KEY, up=(4, 2), down=(2, 4)):
    return {f"lora.{number}.{key}.up": torch.zeros(up), f"lora.{number}.{key}.down": torch.zeros(down)}


GOOD = {KEY: torch.zeros(4, 4)}


@pytest.mark.parametrize(
    "tensors",
    [
        {KEY: torch.zeros(4)}, {KEY: torch.zeros(2, 2, 1, 1)}, {KEY: torch.zeros(())}, {KEY: torch.zeros(0, 4)},
        {KEY: torch.zeros(4, 4, dtype=torch.int64)}, {KEY: torch.zeros(4, 4, dtype=torch.bool)},
        {KEY: torch.zeros(4, 4, dtype=torch.complex64)}, {KEY: torch.zeros(4, 4, dtype=torch.float8_e4m3fn)},
        {**GOOD, "conv_in.weight": torch.zeros(4, 4)}, {**GOOD, "x": torch.zeros(4, 4)}, {},
        {**GOOD, KEY.replace("to_k", "to_q"): torch.zeros(4, 4)}, {**GOOD, "../../" + KEY: torch.zeros(4, 4)},
        {**GOOD, KEY.replace("attn2", "attn1"): torch.zeros(4, 4)},
        {**GOOD, **lora("1")}, {**GOOD, **lora("-1")}, {**GOOD, **lora("00")},
        {**GOOD, **lora("9" * 40)}, {**GOOD, **lora(key="conv_in.weight")}, {**GOOD, **lora(up=(4,))},
        {**GOOD, **lora(up=(4, 3))}, {**GOOD, **lora(down=(2, 5))}, {**GOOD, f"lora.0.{KEY}.up": torch.zeros(4, 2)},
        {**GOOD, **lora(key=KEY.replace("to_k", "to_v"))}, {**GOOD, f"lora.0.{KEY}.alpha": torch.zeros(4, 2)},
    ],
)  # fmt: skip
def test_foreign_tensors_are_refused(tmp_path, tensors):
    path = tmp_path / "x.safetensors"
    save_file(tensors, path, header().metadata())
    with pytest.raises(FileError) as error:
        erasures.load(path)
    assert len(str(error.value)) < 400


def test_good_ones_are_taken(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({**GOOD, **lora()}, path, header().metadata())
    assert set(erasures.load(path).loras["cat"].pairs) == {KEY}


@pytest.mark.parametrize(
    "changes",
    [
        {"versions": []}, {"versions": None}, {"versions": 7}, {"conditions": []}, {"conditions": {"refine": "x"}},
        {"conditions": {"refine": 10**400}}, {"losses": []}, {"losses": {"cat": 1}}, {"losses": {"cat": [10**400]}},
        {"origins": []}, {"warnings": 7}, {"recipe": None}, {"recipe": []}, {"recipe": {"concepts": 7}},
        {"format": "x"}, {"format": None}, {"format": 10**9}, {"fingerprint": None}, {"recipe": {"settings": True}},
    ],
)  # fmt: skip
def test_a_damaged_header_is_a_sentence(tmp_path, changes):
    path = tmp_path / "x.safetensors"
    told = json.loads(header().metadata()[erasure_header.HEADER])
    save_file(GOOD, path, {erasure_header.HEADER: json.dumps(told | changes)})
    try:
        erasure_header.read(path)
    except FileError as error:
        assert len(str(error)) < 400


@pytest.mark.parametrize("text", ["[]", "7", "null", "[" * 100_000, "{", '{"recipe": ' * 20_000, "\\ud800"])
def test_a_header_that_is_no_object_is_a_sentence(tmp_path, text):
    path = tmp_path / "x.safetensors"
    save_file(GOOD, path, {erasure_header.HEADER: text})
    with pytest.raises(FileError):
        erasure_header.read(path)


def test_pipes_and_folders_are_no_erasures(tmp_path):
    os.mkfifo(tmp_path / "pipe.safetensors")
    (tmp_path / "folder.safetensors").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(FileError):
            erasure_header.read(tmp_path / f"{name}.safetensors")


def test_weights_of_another_shape_do_not_fit(models):
    model = models["sd1"]
    weights = {key: torch.zeros(2, 2) for key in projections.read(model.unet)}
    with pytest.raises(FileError, match="does not fit"):
        erasures.check_fits(Erasure(recipe=RECIPE, weights=weights, fingerprint=model.fingerprint), model)


def test_an_erasure_fits_the_same_unet_beside_another_vae(folders, models, tmp_path, caplog):
    model = models["sd1"]
    result = Erasure(
        recipe=RECIPE, weights=projections.read(model.unet), fingerprint=model.fingerprint, unet=model.unet_fingerprint
    )
    result.save(tmp_path / "x.safetensors")
    result = erasures.load(tmp_path / "x.safetensors")
    erasures.check_fits(result, model)
    assert not caplog.records
    torch.manual_seed(9)
    families.vae().save_pretrained(tmp_path / "vae")
    other = sd_model.load(str(folders["sd1"]), "cpu", "float32", vae=str(tmp_path / "vae"))
    assert other.fingerprint != model.fingerprint
    erasures.check_fits(result, other)
    assert "beside another VAE or text encoder" in caplog.text
    with pytest.raises(FileError, match="does not fit"):
        erasures.check_fits(result, models["lcm"])
    files.write(tmp_path / "old.safetensors", result.weights, header().metadata())
    with pytest.raises(FileError, match="does not fit"):
        erasures.check_fits(erasures.load(tmp_path / "old.safetensors"), other)
