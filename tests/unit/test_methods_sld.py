"""SLD's guidance: one step worked out on paper, and its limits."""

import math
from dataclasses import replace

import pytest
import torch

from mace_studio.methods import sld
from mace_studio.methods.settings import PUBLISHED, SldSettings


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def scalar(value):
    return torch.full((1, 1, 1, 1), value, dtype=torch.float64)


def test_one_step_of_medium_by_hand():
    # mu = 1000 * 0.0004 = 0.4; g = 0.4 * 0.4996 + 0.3 * 0.2 = 0.25984; nu' = 0.4 * 0.2 + 0.6 g = 0.235904
    inputs = scalar(0.0), scalar(0.5), scalar(0.4996), scalar(0.2)
    late, early = sld.guidance(*inputs, step=10), sld.guidance(*inputs, step=9)
    assert late.noise_BCHW.item() == pytest.approx(7.5 * (0.5 - 0.25984))
    assert early.noise_BCHW.item() == pytest.approx(3.75)
    assert late.momentum_BCHW.item() == early.momentum_BCHW.item() == pytest.approx(0.235904)


def test_at_the_threshold_only_the_momentum_acts():
    # e_p - e_S = 0.25 >= 0.01: mu = 0, g = 0.3 * 0.2
    guided = sld.guidance(scalar(0.0), scalar(0.5), scalar(0.25), scalar(0.2), step=20)
    assert guided.noise_BCHW.item() == pytest.approx(7.5 * (0.5 - 0.06))
    exactly = sld.guidance(scalar(0.0), scalar(0.5), scalar(0.25), step=20, settings=SldSettings(threshold=0.25))
    assert exactly.noise_BCHW.item() == pytest.approx(3.75)


def test_mu_grows_to_one_on_either_side():
    # e_p - e_S = -0.5: mu = min(1, 500) = 1, g = 1.0 - 0
    guided = sld.guidance(scalar(0.0), scalar(0.5), scalar(1.0), step=20)
    assert guided.noise_BCHW.item() == pytest.approx(7.5 * (0.5 - 1.0))


@pytest.mark.parametrize("changed", [{"threshold": -math.inf}, {"safety_scale": 0.0}, {"safety_scale": 0.99}])
def test_without_strength_it_is_classifier_free_guidance_bit_for_bit(changed):
    null, prompt, safety = (normal(2, 4, 3, 3, seed=i) for i in range(3))
    momentum, settings = None, replace(PUBLISHED["sld"]["max"], **changed)
    for step in range(3):
        guided = sld.guidance(null, prompt, safety, momentum, step, settings)
        assert torch.equal(guided.noise_BCHW, null + 7.5 * (prompt - null))
        momentum = guided.momentum_BCHW
    assert not torch.equal(sld.guidance(null, prompt, safety, settings=PUBLISHED["sld"]["max"])[0], guided[0])


def test_with_all_strength_and_no_momentum_it_is_a_negative_prompt():
    null, prompt, safety = (normal(2, 4, 3, 3, seed=i) for i in range(3))
    settings = SldSettings(warmup=2, safety_scale=math.inf, threshold=math.inf, momentum_scale=0.0)
    expected = null + 7.5 * ((prompt - null) - (safety - null))
    assert torch.allclose(sld.guidance(null, prompt, safety, None, 2, settings).noise_BCHW, expected)
    assert torch.equal(sld.guidance(null, prompt, safety, None, 1, settings).noise_BCHW, null + 7.5 * (prompt - null))
    # Where both predictions are the same there is nothing to guide away from, whatever the strength.
    assert torch.equal(sld.guidance(null, prompt, prompt, None, 2, settings).noise_BCHW, null + 7.5 * (prompt - null))


def test_the_four_published_configurations():
    table = {
        "weak": (15, 200, 0.0, 0.0), "medium": (10, 1000, 0.01, 0.3), "strong": (7, 2000, 0.025, 0.5),
        "max": (0, 5000, 1.0, 0.5),
    }  # fmt: skip
    found = {n: (s.warmup, s.safety_scale, s.threshold, s.momentum_scale) for n, s in PUBLISHED["sld"].items()}
    assert found == table
    betas = [PUBLISHED["sld"][name].momentum_beta for name in ("medium", "strong", "max")]
    assert betas == [0.4, 0.7, 0.7] and {s.guidance for s in PUBLISHED["sld"].values()} == {7.5}


def test_half_precision_does_not_overflow():
    null, prompt, safety = (20 * normal(1, 4, 2, 2, seed=i).half() for i in range(3))
    guided = sld.guidance(null, prompt, safety, step=5, settings=PUBLISHED["sld"]["max"])
    assert guided.noise_BCHW.dtype == torch.float16 and guided.noise_BCHW.isfinite().all()
    assert guided.momentum_BCHW.dtype == torch.float32
