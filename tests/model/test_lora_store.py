"""A run that is broken off goes on from the LoRAs that it has trained, and ends with the same bytes."""

from dataclasses import replace

import pytest
import torch

from mace_studio.errors import NotFinite
from mace_studio.methods.mace import MaceSettings, lora_store
from mace_studio.methods.mace.erase import erase
from mace_studio.recipe import Concept, Recipe
from mace_studio.sd import lora
from mace_studio.sd.lora import LoraDelta
from mace_studio.settings import ImageSettings, KeepWeights, LoraSettings
from tests.model.test_lora import FAST, subject
from tests.steps import cancelled

RECIPE = Recipe(
    concepts=tuple(Concept(phrase, "forest") for phrase in ("cat", "dog", "horse")),
    settings=MaceSettings(
        refine=KeepWeights(identity=10.0),
        fuse=KeepWeights(identity=10.0),
        images=ImageSettings(per_concept=1, steps=2),
        lora=LoraSettings(steps=3),
        masks="none",
        concepts_at_once=2,
    ),
)


def test_an_interrupted_run_trains_only_what_is_missing_and_gives_the_same_bytes(model, tmp_path):
    whole = tmp_path / "whole.safetensors"
    erase(model, RECIPE, cache=tmp_path / "other").save(whole)
    # 3 steps x 2 concepts in the first batch; the event after them is of the second.
    with cancelled(lambda e: e.stage == "lora" and e.step == 8) as stop:
        erase(model, RECIPE, stop, cache=tmp_path / "cache")
    assert len(list((tmp_path / "cache" / "loras").iterdir())) == 2
    seen = []
    erase(model, RECIPE, seen.append, cache=tmp_path / "cache").save(tmp_path / "resumed.safetensors")
    trained = [event for event in seen if event.stage == "lora" and event.loss is not None]
    # One event for each of the two that are there, three for the one that is trained.
    assert [(event.concept, event.step) for event in trained] == [
        ("cat", 3), ("dog", 6), ("horse", 7), ("horse", 8), ("horse", 9),
    ]  # fmt: skip
    assert (tmp_path / "resumed.safetensors").read_bytes() == whole.read_bytes()


def test_a_lora_is_read_bit_for_bit(model, tmp_path):
    subjects = [subject(model, "cat"), subject(model, "dog", masked=False)]
    trained = lora_store.train(model, subjects, FAST, "0", tmp_path)
    alone = lora.train(model, subjects, FAST)
    again = lora_store.train(model, subjects, FAST, "0", tmp_path, lambda event: None)
    for one, other, kept in zip(trained, alone, again, strict=True):
        assert one.losses == other.losses == kept.losses
        for key, pair in one.pairs.items():
            assert all(map(torch.equal, pair, other.pairs[key]))
            assert all(map(torch.equal, pair, kept.pairs[key]))


def test_whatever_decides_the_bits_changes_the_name(model):
    one, other = subject(model, "cat"), subject(model, "dog")
    first = lora_store.keys(model, [one, other], FAST, "0")
    assert first == lora_store.keys(model, [subject(model, "cat"), subject(model, "dog")], FAST, "0")
    flipped = [~mask for mask in one.masks]
    changes = [
        ([one], FAST, "0"),
        ([other, one], FAST, "0"),
        ([one, other], replace(FAST, learning_rate=2e-4), "0"),
        ([one, other], FAST, "1"),
        ([replace(one, seed=1), other], FAST, "0"),
        ([replace(one, guidance=2.0), other], FAST, "0"),
        ([replace(one, masks=flipped), other], FAST, "0"),
        ([replace(one, masks=[None, None]), other], FAST, "0"),
        ([replace(one, latents_NCHW=one.latents_NCHW + 1), other], FAST, "0"),
        ([replace(one, context_MTD=one.context_MTD + 1), other], FAST, "0"),
        ([replace(one, positions=[[1], [1]]), other], FAST, "0"),
    ]
    names = [name for change in changes for name in lora_store.keys(model, *change)]
    assert len({*first, *names}) == len(first) + len(names)


def test_a_damaged_lora_is_trained_again(model, tmp_path):
    (before,) = lora_store.train(model, [subject(model, "cat")], FAST, "0", tmp_path)
    (path,) = (tmp_path / "loras").iterdir()
    path.write_bytes(path.read_bytes()[:-1])
    (after,) = lora_store.train(model, [subject(model, "cat")], FAST, "0", tmp_path)
    assert after.losses == before.losses
    assert lora_store.read(model, FAST, tmp_path, path.stem) is not None


def test_what_is_not_finite_is_never_stored(tmp_path):
    infinite = LoraDelta({"a.weight": (torch.full((2, 1), float("inf")), torch.ones(1, 2))}, (0.5,))
    with pytest.raises(NotFinite):
        lora_store.write(tmp_path, "name", infinite)
    with pytest.raises(NotFinite):
        lora_store.write(tmp_path, "name", LoraDelta({}, (float("nan"),)))
    assert not list(tmp_path.rglob("*.safetensors"))
