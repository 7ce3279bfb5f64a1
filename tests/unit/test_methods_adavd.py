"""AdaVD: what the projection leaves, by numbers that can be worked out on paper."""

import math

import pytest
import torch

from mace_studio.methods.adavd import project
from mace_studio.methods.settings import AdaVdSettings

PLAIN = AdaVdSettings(token_sim=False)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_plain_projection_leaves_nothing_along_the_targets():
    values_BTP, targets_KP = normal(2, 5, 7), normal(3, 7, seed=1)
    projected_BTP = project(values_BTP, targets_KP, PLAIN)
    assert (projected_BTP[:, 1:] @ targets_KP.T).abs().max() < 1e-10
    assert torch.equal(projected_BTP[:, 0], values_BTP[:, 0])
    assert (values_BTP[:, 1:] @ targets_KP.T).abs().min() > 1e-4


def test_d_is_one_at_the_threshold_and_near_two_for_the_target_itself():
    side = math.sqrt(1 - 0.93**2)
    values_BTP = torch.tensor([[[1.0, 0], [0.93, side], [3.0, 0], [0, 1.0]]], dtype=torch.float64)
    projected_BTP = project(values_BTP, torch.tensor([[2.0, 0]], dtype=torch.float64))
    # cos = 0.93: d = 1; cos = 1: d = 2 / (1 + e^-7), the value changes its sign; cos = 0: d is about 1e-40
    own = 3 * (1 - 2 / (1 + math.exp(-7)))
    expected = [[1.0, 0], [0, side], [own, 0], [0, 1.0]]
    assert torch.allclose(projected_BTP[0], torch.tensor(expected, dtype=torch.float64), atol=1e-12)


def test_each_target_has_its_own_weight():
    # v is the second target (0.6, 0.8): d_1 of cos 0.6 is 0, d_2 of cos 1 is 2 / (1 + e^-7), q_2 = (0, 1)
    values_BTP = torch.tensor([[[0.0, 0], [0.6, 0.8]]], dtype=torch.float64)
    projected_BTP = project(values_BTP, torch.tensor([[1.0, 0], [0.6, 0.8]], dtype=torch.float64))
    assert projected_BTP[0, 1].tolist() == pytest.approx([0.6, 0.8 * (1 - 2 / (1 + math.exp(-7)))])


def test_jointly_both_halves_move():
    # <(1, 0, 0, 1), (1, 0, 1, 0)> / 2 = 1/2
    values_BTP = torch.tensor([[[9.0, 9], [1.0, 0]], [[9.0, 9], [0, 1.0]]])
    projected_BTP = project(values_BTP, torch.tensor([[1.0, 0]]), AdaVdSettings(token_sim=False, jointly=True))
    assert torch.allclose(projected_BTP, torch.tensor([[[9.0, 9], [0.5, 0]], [[9.0, 9], [-0.5, 1.0]]]))
    alone_BTP = project(values_BTP, torch.tensor([[1.0, 0]]), PLAIN)
    assert torch.allclose(alone_BTP, torch.tensor([[[9.0, 9], [0, 0]], [[9.0, 9], [0, 1.0]]]))


def test_jointly_the_empty_prompt_is_the_unconditional_half_of_a_target():
    # At position 1 the target is (2, 1) in both halves, and <(1, 0), (2, 1)> / 5 = 2/5; at position 2 it is (0, 1).
    values_BTP, empty_TP = torch.tensor([[[9.0], [1], [1]], [[9.0], [0], [3]]]), torch.tensor([[7.0], [2], [0]])
    settings = AdaVdSettings(token_sim=False, jointly=True)
    projected_BTP = project(values_BTP, torch.ones(1, 1), settings, empty_TP)
    assert torch.allclose(projected_BTP, torch.tensor([[[9.0], [0.2], [1]], [[9.0], [-0.4], [0]]]))


def test_jointly_several_targets_leave_nothing_along_any_of_them():
    values_BTP, targets_KP, empty_TP = normal(2, 5, 7), normal(3, 7, seed=1), normal(5, 7, seed=2)
    settings = AdaVdSettings(token_sim=False, jointly=True)
    null_TP, prompt_TP = project(values_BTP, targets_KP, settings, empty_TP)
    for target_P in targets_KP:
        assert ((null_TP * empty_TP).sum(dim=-1) + prompt_TP @ target_P)[1:].abs().max() < 1e-10
    # Each half alone does not: (empty, v*) is one vector of twice the width.
    assert (prompt_TP[1:] @ targets_KP.T).abs().min() > 1e-3


def test_no_target_or_no_strength_gives_the_values_back_bit_for_bit():
    values_BTP = normal(2, 5, 7).half()
    assert torch.equal(project(values_BTP, torch.zeros(0, 7)), values_BTP)
    assert torch.equal(project(values_BTP, normal(2, 7), AdaVdSettings(scale=0.0)), values_BTP)
    assert project(values_BTP, normal(2, 7)).dtype == torch.float16
