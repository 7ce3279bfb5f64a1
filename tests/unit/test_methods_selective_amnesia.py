"""Fisher information and loss of selective amnesia, on one weight."""

import pytest
import torch

from mace_studio.methods.selective_amnesia import fisher, loss


def test_gradients_are_summed_before_they_are_squared():
    # (theta - a)^2 at theta = 0 for a = 1, 2: gradients -2, -4; (-6)^2 = 36, and not 4 + 16
    theta = torch.zeros(1, requires_grad=True)
    assert fisher([[(theta - a).square().sum() for a in (1, 2)]], {"theta": theta})["theta"].item() == 36


def test_samples_are_averaged_and_losses_read_one_at_a_time():
    theta = torch.zeros(1, requires_grad=True)
    samples = (((theta - a).square().sum() for a in pair) for pair in ((1, 2), (1, -1)))
    assert fisher(samples, {"theta": theta})["theta"].item() == (36 + 0) / 2


def test_a_loss_over_several_timesteps_counts_as_its_parts():
    theta = torch.zeros(1, requires_grad=True)
    together = (theta - 1).square().sum() + (theta - 2).square().sum()
    assert fisher([[together]], {"theta": theta})["theta"].item() == 36


def test_a_stride_scales_by_its_square():
    theta = torch.zeros(1, requires_grad=True)
    assert fisher([[(theta - 1).square().sum()]], {"theta": theta}, stride=20)["theta"].item() == 400 * 4


def test_a_parameter_without_influence_has_none():
    theta, other = (torch.zeros(2, requires_grad=True) for _ in range(2))
    found = fisher([[(theta - 1).square().sum()]], {"theta": theta, "other": other})
    assert found["theta"].tolist() == [4, 4] and found["other"].tolist() == [0, 0]
    assert theta.grad is None
    with pytest.raises(ValueError, match="sample"):
        fisher([], {"theta": theta})


def test_the_loss_by_hand():
    # errors of 2 and 3; two parameters that moved by 1 and 2 with F = 5 and 7: 4 + 0.5 * 9 + 10 (5 + 7 * 4)
    images = [torch.full((1, 4, 2, 2), value) for value in (2.0, 0.0, 3.0, 0.0)]
    parameters, start = {"a": torch.tensor([1.0, 3.0])}, {"a": torch.tensor([0.0, 1.0])}
    found = loss(*images, parameters, start, {"a": torch.tensor([5.0, 7.0])}, replay_weight=0.5, fisher_weight=10.0)
    assert found.item() == pytest.approx(4 + 4.5 + 330)


def test_the_penalty_has_no_factor_of_a_half():
    theta = torch.tensor([1.0], requires_grad=True)
    zero = torch.zeros(1, 4, 2, 2)
    loss(zero, zero, zero, zero, {"a": theta}, {"a": torch.zeros(1)}, {"a": torch.ones(1)}).backward()
    assert theta.grad.item() == 100  # 2 * 50 * 1
