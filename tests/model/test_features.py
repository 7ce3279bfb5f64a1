"""Which features KID and FID are taken over."""

import sys
from types import ModuleType

import pytest

from mace_studio.sd import features, judges


@pytest.fixture
def clip(clip_folder):
    return judges.ZeroShotClip(str(clip_folder))


def test_a_models_own_judge_gives_its_own(model):
    judge = judges.of(model)
    assert features.choose(judge, "cpu") == ("built-in judge features", judge.features)


def test_without_torchvision_they_are_those_of_clip(clip, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    assert features.choose(clip, "cpu") == ("CLIP features", clip.features)


@pytest.mark.parametrize("error", [RuntimeError("operator does not exist"), OSError("no network")])
def test_a_torchvision_that_fails_is_no_reason_to_stop(clip, monkeypatch, error):
    def failing(**_):
        raise error

    broken = ModuleType("torchvision.models")
    broken.Inception_V3_Weights, broken.inception_v3 = None, failing
    monkeypatch.setitem(sys.modules, "torchvision", ModuleType("torchvision"))
    monkeypatch.setitem(sys.modules, "torchvision.models", broken)
    assert features.choose(clip, "cpu") == ("CLIP features", clip.features)
