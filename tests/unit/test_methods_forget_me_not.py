"""The loss of Forget-Me-Not on attention whose norm can be written down."""

import math

import pytest
import torch

from mace_studio.methods.forget_me_not import loss, pressed


def test_uniform_attention():
    # 2 layers, 3 heads, 4 and 16 queries of 8 tokens: sqrt(3 (4 + 16) |S|) / 8
    layers = [torch.full((3, pixels, 8), 1 / 8) for pixels in (4, 16)]
    assert loss(layers, [2, 5]).item() == pytest.approx(math.sqrt(3 * 20 * 2) / 8)


def test_one_norm_runs_over_all_layers():
    # 3-4-5, where a norm for each layer would give 7
    layers = [torch.tensor([[[0.0, 3]]]), torch.tensor([[[9.0, 4]]])]
    assert loss(layers, [1]).item() == pytest.approx(5)


def test_the_gradient_is_the_attention_over_the_norm():
    layer_HQT = torch.tensor([[[0.1, 3], [0.2, 4]]], requires_grad=True)
    loss([layer_HQT], [1]).backward()
    assert torch.allclose(layer_HQT.grad, torch.tensor([[[0, 0.6], [0, 0.8]]]))


def test_nothing_attended_has_a_gradient_of_nought():
    layer_HQT = torch.zeros(1, 2, 3, requires_grad=True)
    loss([layer_HQT], [1]).backward()
    assert torch.equal(layer_HQT.grad, torch.zeros(1, 2, 3))


def test_no_positions_give_nought_and_others_than_the_tokens_are_refused():
    layer_HQT = torch.full((1, 2, 3), 1 / 3, dtype=torch.float16)
    assert loss([layer_HQT], []).item() == 0 and loss([layer_HQT], [1]).dtype == torch.float32
    for layers, positions in (([layer_HQT], [3]), ([layer_HQT], [-1]), ([], [1])):
        with pytest.raises(ValueError, match="every position must be"):
            loss(layers, positions)


def test_positions_of_the_concept_and_of_every_end_token():
    ids = [49, 5, 6, 7, 6, 99, 99, 99]
    assert pressed(ids, [[6, 7]], 99) == [2, 3, 5, 6, 7]
    assert pressed([49, 5, 6, 7, 99, 0, 0], [[6, 7]], 99) == [2, 3, 4]
    assert pressed(ids, [[6, 7]], None) == [2, 3]
