"""The loss of concept ablation on differences that can be summed by hand."""

import pytest
import torch

from mace_studio.methods.concept_ablation import cut_start, loss


def test_it_is_summed_over_channels_and_averaged_over_pixels():
    ones_BCHW, zeros_BCHW = torch.ones(3, 4, 2, 2), torch.zeros(3, 4, 2, 2)
    assert loss(ones_BCHW, zeros_BCHW).item() == 4
    mask_B1HW = torch.tensor([[[[1.0, 0], [0, 0]]]] * 3)
    assert loss(ones_BCHW, zeros_BCHW, mask_B1HW).item() == 4
    ones_BCHW[:, :, 0, 0] = 3
    assert loss(ones_BCHW, zeros_BCHW, mask_B1HW).item() == 36


@pytest.mark.parametrize(("form", "expected"), [("compvis", 4 * 4.0 + 0.5 * 4 * 9), ("diffusers", 4 * 4.0 + 0.5 * 9)])
def test_the_regulariser_of_both_codes(form, expected):
    # U(c*) = 3, U(a) = 1, eps = -2: d = 2, the rest 3
    parts = [torch.full((2, 4, 2, 2), value) for value in (3.0, 1.0, -2.0)]
    assert loss(*parts[:2], noise_BCHW=parts[2], prior_weight=0.5, form=form).item() == pytest.approx(expected)


def test_no_gradient_goes_through_the_anchor_but_in_the_regulariser():
    concept, anchor = (torch.full((1, 4, 2, 2), value, requires_grad=True) for value in (3.0, 1.0))
    loss(concept, anchor).backward()
    assert anchor.grad is None and torch.allclose(concept.grad, torch.full_like(concept, 2 * 2 / 4))
    loss(concept, anchor, noise_BCHW=torch.zeros(1, 4, 2, 2), prior_weight=0.5).backward()
    assert torch.allclose(anchor.grad, torch.full_like(anchor, 0.5 * 2 / 4))


@pytest.mark.parametrize(("form", "over"), [("compvis", 1), ("diffusers", 4)])
def test_the_regulariser_on_other_images_is_a_second_call(form, over):
    # R of predictions that differ from their noise by 3: 4 * 9 summed over channels, or 9 as the mean of all
    both = torch.full((1, 4, 2, 2), 3.0), torch.zeros(1, 4, 2, 2)
    expected = loss(*both, noise_BCHW=torch.full((1, 4, 2, 2), -3.0), prior_weight=0.5, form=form).item()
    assert (loss(*both) + 0.5 * loss(*both) / over).item() == pytest.approx(expected)
    assert expected == pytest.approx(36 + 0.5 * 36 / over)


def test_half_precision_is_squared_in_float32():
    assert loss(torch.full((1, 4, 2, 2), 300.0).half(), torch.zeros(1, 4, 2, 2).half()).item() == 4 * 90000


def test_what_is_missing_or_unknown_is_refused():
    ones = torch.ones(1, 4, 2, 2)
    with pytest.raises(ValueError, match="noise_BCHW"):
        loss(ones, ones, prior_weight=1.0)
    with pytest.raises(ValueError, match="jax"):
        loss(ones, ones, form="jax")


def test_the_start_token_gets_no_gradient():
    keys_BTP = torch.ones(2, 3, 4, requires_grad=True)
    cut_BTP = cut_start(keys_BTP)
    assert torch.equal(cut_BTP, keys_BTP)
    cut_BTP.sum().backward()
    assert keys_BTP.grad[:, 0].abs().sum() == 0 and (keys_BTP.grad[:, 1:] == 1).all()
