"""Sums of outer products, with numbers that a pencil gives."""

import pytest
import torch
from torch.profiler import profile

from mace_studio.core import moments
from mace_studio.core.moments import Moments, PairSums

CONTEXT = torch.tensor([[1.0, 2.0], [3.0, 0.0]])
GUIDE = torch.tensor([[0.0, 1.0], [2.0, 1.0]])
# F = (1,2)(1,2)^T + (3,0)(3,0)^T = [[1,2],[2,4]] + [[9,0],[0,0]]
GRAM = torch.tensor([[10.0, 2.0], [2.0, 4.0]]).double()
# C = (0,1)(1,2)^T + (2,1)(3,0)^T = [[0,0],[1,2]] + [[6,0],[3,0]]: rows are the guide, columns the context
CROSS = torch.tensor([[6.0, 0.0], [4.0, 2.0]]).double()


def test_gram_and_cross_are_sums_of_outer_products():
    sums = Moments.of(CONTEXT, GUIDE)
    assert torch.equal(sums.gram_DD, GRAM)
    assert torch.equal(sums.cross_DD, CROSS)
    assert sums.count == 2


def test_without_guide_the_cross_sum_is_the_gram():
    sums = Moments.of(CONTEXT)
    assert torch.equal(sums.gram_DD, GRAM)
    assert torch.equal(sums.cross_DD, GRAM)


def test_sums_are_float64_whatever_goes_in():
    # 1 + 2^-10 is a float16; its square 1 + 2^-9 + 2^-20 is neither a float16 nor exact in a float32 sum of many.
    value = torch.tensor([[1 + 2**-10]], dtype=torch.float16)
    sums = Moments.of(value)
    assert sums.gram_DD.dtype == sums.cross_DD.dtype == torch.float64
    assert sums.gram_DD.item() == 1 + 2**-9 + 2**-20


def test_chunks_do_not_change_the_sums(monkeypatch):
    rows = torch.arange(21.0).reshape(7, 3)
    whole = Moments.of(rows, rows.flip(0))
    monkeypatch.setattr(moments, "CHUNK", 2)
    parts = Moments.of(rows, rows.flip(0))
    assert torch.equal(parts.gram_DD, whole.gram_DD)
    assert torch.equal(parts.cross_DD, whole.cross_DD)
    assert parts.count == 7


def test_addition_and_weights_apply_to_every_part():
    sums = Moments.of(CONTEXT, GUIDE) + 3 * Moments.of(CONTEXT, GUIDE) * 2 - Moments.of(CONTEXT, GUIDE)
    assert torch.equal(sums.gram_DD, 6 * GRAM)
    assert torch.equal(sums.cross_DD, 6 * CROSS)
    assert sums.count == 12


def test_zero_changes_nothing():
    sums = Moments.zero(2) + Moments.of(CONTEXT, GUIDE)
    assert torch.equal(sums.gram_DD, GRAM)
    assert torch.equal(sums.cross_DD, CROSS)
    assert sums.count == 2


def test_sums_do_not_write_into_their_operands():
    first = Moments.of(CONTEXT)
    first + first
    assert torch.equal(first.gram_DD, GRAM)


def test_sums_carry_no_gradient():
    sums = Moments.of(CONTEXT.clone().requires_grad_(), GUIDE.clone().requires_grad_())
    assert not sums.gram_DD.requires_grad
    assert not sums.cross_DD.requires_grad


@pytest.mark.parametrize("shape", [(3, 2), (2, 3), (2,), (1, 2, 2)])
def test_shapes_that_do_not_fit_are_refused_with_both(shape):
    with pytest.raises(ValueError, match=r"\(2, 2\).*must both be \(N, D\)"):
        Moments.of(CONTEXT, torch.ones(shape))


def test_pairs_and_what_they_leave_out():
    # One prompt of three positions, D = 1: e = (1, 2, 3), g = (10, 20, 30). Position 0 belongs to 0, 2 to 1.
    sums = PairSums(1)
    sums.add(torch.tensor([[[1.0], [2.0], [3.0]]]), torch.tensor([[[10.0], [20.0], [30.0]]]), [([0, 2], [0, 1])])
    moments = sums.moments()
    assert moments.gram_DD.item() == 1 + 9
    assert moments.cross_DD.item() == 10 * 1 + 20 * 3
    assert moments.count == 2
    assert sums.all_positions().item() == 1 + 4 + 9


def test_concepts_with_one_mapping_share_a_product():
    contexts, guide = torch.randn(3, 2, 4, 5, generator=torch.Generator().manual_seed(0)), torch.ones(2, 4, 5)
    sums, pairs = PairSums(5), [([0, 1], [0, 2]), ([3], [3])]
    with profile() as added:
        for context in contexts:
            sums.add(context, guide, pairs)
    with profile() as finished:
        moments = sums.moments()
    products = [sum("mm" in event.name for event in seen.events()) for seen in (added, finished)]
    assert products == [0, 1]
    chosen = torch.stack([contexts[:, 0, 0], contexts[:, 0, 1], contexts[:, 1, 3]]).double()
    assert torch.allclose(moments.cross_DD, chosen.sum(dim=(0, 1)).expand(5, 5), atol=1e-12)
    assert torch.equal(sums.moments().cross_DD, moments.cross_DD)  # looking twice adds nothing


def test_sums_that_were_made_apart_are_merged():
    # Two concepts with one mapping, one with another, and one that maps to itself; D = 5, all positions paired but one.
    contexts, pairs = torch.randn(4, 2, 4, 5, generator=torch.Generator().manual_seed(0)), [([0, 1, 3], [0, 2, 3])] * 2
    one, other = torch.ones(2, 4, 5), torch.full((2, 4, 5), 2.0)
    whole, merged = PairSums(5), PairSums(5)
    for context, guide in zip(contexts[:3], (one, one, other), strict=True):
        whole.add(context, guide, pairs)
        part = PairSums(5)
        part.add(context, guide.clone(), pairs)  # on another machine it is another object
        merged.merge(part)
    itself = PairSums(5)
    for sums in (whole, itself):
        sums.add(contexts[3], contexts[3].clone(), [([0, 1], [0, 1])] * 2)
    merged.merge(itself)
    first, second = whole.moments(), merged.moments()
    assert first.count == second.count == 3 * 6 + 4
    assert torch.allclose(first.gram_DD, second.gram_DD, atol=1e-12)
    assert torch.allclose(first.cross_DD, second.cross_DD, atol=1e-12)
    assert torch.allclose(whole.all_positions(), merged.all_positions(), atol=1e-12)


def test_prompts_of_another_shape_than_the_mapping_s_are_refused():
    with pytest.raises(ValueError, match=r"\(1, 3, 1\).*\(N, T, D\)"):
        PairSums(1).add(torch.zeros(1, 3, 1), torch.zeros(2, 3, 1), [([0], [0])])
