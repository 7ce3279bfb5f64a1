"""UCE: laws, and solutions small enough to be worked out on paper."""

import pytest
import torch

from mace_studio.core.moments import Moments
from mace_studio.core.ridge import SingularGram, refine, refinement
from mace_studio.methods import uce


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rows(*values):
    return torch.tensor(values, dtype=torch.float64)


WEIGHT_PD, CONCEPT_ND, ANCHOR_ND = rows([3.0, 5]), rows([1.0, 0]), rows([0.0, 1])


def test_one_concept_by_hand():
    # (W a c^T + W)(c c^T + I)^-1 = ([5, 0] + [3, 5]) diag(1/2, 1)
    assert torch.allclose(uce.edit(WEIGHT_PD, CONCEPT_ND, ANCHOR_ND, ridge=1.0), rows([4.0, 5]))


def test_a_preserved_vector_by_hand():
    # p = (1, 1), s_p = 2: ([5, 0] + [16, 16] + [3, 5]) [[4, 2], [2, 3]]^-1 = [30, 36] / 8
    edited_PD = uce.edit(WEIGHT_PD, CONCEPT_ND, ANCHOR_ND, rows([1.0, 1]), preserve_scale=2.0, ridge=1.0)
    assert torch.allclose(edited_PD, rows([3.75, 4.5]))


def test_the_scale_of_erasing_by_hand():
    # s_e = 3: ([15, 0] + [3, 5]) diag(1/4, 1)
    assert torch.allclose(uce.edit(WEIGHT_PD, CONCEPT_ND, ANCHOR_ND, erase_scale=3.0, ridge=1.0), rows([4.5, 5]))


def test_the_tensor_technique_by_hand():
    # W = I: u = c = (1, 0), v = a - <u, a> u = (0, 1); ([[0, 0], [1, 0]] + I) diag(1/2, 1)
    edited_PD = uce.edit(torch.eye(2), CONCEPT_ND, rows([1.0, 1]), ridge=1.0, technique="tensor")
    assert torch.allclose(edited_PD, torch.tensor([[0.5, 0], [0.5, 1]]))


def test_the_tensor_technique_takes_one_norm_over_all_positions_of_an_entry():
    # W = I, c = e1, e2 and a = e1, 0: <U, W a> = 1/sqrt(2), v = a - c/2; (diag(1/2, -1/2) + I)(I + I)^-1.
    # One norm for each position would give v = 0 and diag(1/2, 1/2).
    concepts, anchors = [torch.eye(2)], [torch.tensor([[1.0, 0], [0, 0]])]
    edited_PD = uce.edit(torch.eye(2), concepts, anchors, ridge=1.0, technique="tensor")
    assert torch.allclose(edited_PD, torch.diag(torch.tensor([0.75, 0.25])))


def test_the_tensor_technique_takes_nothing_away_where_the_concept_has_no_output():
    # W c = 0, so v = W a = 5 and (5 c^T + W)(c c^T + I)^-1 = ([5, 0] + [0, 5]) diag(1/2, 1)
    edited_PD = uce.edit(rows([0.0, 5]), CONCEPT_ND, ANCHOR_ND, ridge=1.0, technique="tensor")
    assert torch.allclose(edited_PD, rows([2.5, 5]))


@pytest.mark.parametrize("changed", [{"ridge": 0.0}, {"ridge": 1e-30}, {"erase_scale": 1e30}])
def test_what_does_not_determine_the_weights_is_refused_with_a_remedy_of_this_method(changed):
    with pytest.raises(SingularGram, match=r"Use a larger ridge .* or smaller scales") as caught:
        uce.edit(WEIGHT_PD, CONCEPT_ND, ANCHOR_ND, **changed)
    assert "λ" not in str(caught.value)


@pytest.mark.parametrize("scales", [(1.0, 1.0, 0.5), (2.0, 0.1, 0.1)])
def test_it_is_ridge_refine_on_the_same_moments(scales):
    erase, preserve, ridge = scales
    weights = {"k": normal(5, 6), "v": normal(7, 6, seed=1)}
    concepts_ND, anchors_ND, kept_MD = normal(3, 6, seed=2), normal(3, 6, seed=3), normal(4, 6, seed=4)
    edited = uce.edit(
        weights, concepts_ND, anchors_ND, kept_MD, erase_scale=erase, preserve_scale=preserve, ridge=ridge
    )
    keep_DD = preserve * Moments.of(kept_MD).gram_DD + ridge * torch.eye(6).double()
    solved = refinement(erase * Moments.of(concepts_ND, anchors_ND), keep_DD)
    for name, weight_PD in weights.items():
        assert (edited[name] - refine(weight_PD, solved)).abs().max() < 1e-10
        # and the equation of the paper, written out
        left_PD = erase * sum(torch.outer(weight_PD @ a, c) for c, a in zip(concepts_ND, anchors_ND, strict=True))
        left_PD = left_PD + preserve * sum(torch.outer(weight_PD @ p, p) for p in kept_MD) + ridge * weight_PD
        right_DD = erase * concepts_ND.T @ concepts_ND + keep_DD
        assert (edited[name] @ right_DD - left_PD).abs().max() < 1e-10


def test_an_anchor_that_is_the_concept_changes_nothing():
    weight_PD, concepts_ND = normal(4, 6), normal(3, 6, seed=1)
    assert torch.equal(uce.edit(weight_PD, concepts_ND, concepts_ND.clone()), weight_PD)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_no_concepts_or_no_strength_give_the_weights_back_bit_for_bit(dtype):
    weights = {"k": normal(4, 6).to(dtype)}
    for concepts_ND, scale in ((torch.zeros(0, 6), 1.0), (normal(2, 6, seed=1), 0.0)):
        edited = uce.edit(weights, concepts_ND, concepts_ND + 1, erase_scale=scale, ridge=0.0)
        assert torch.equal(edited["k"], weights["k"]) and edited["k"].dtype == dtype
    assert not torch.equal(uce.edit(weights, normal(2, 6, seed=1), normal(2, 6, seed=2))["k"], weights["k"])


def test_entries_of_several_positions_count_one_by_one():
    weight_PD, concepts_NTD, anchors_NTD = normal(4, 6), normal(2, 3, 6, seed=1), normal(2, 3, 6, seed=2)
    flat_PD = uce.edit(weight_PD, concepts_NTD.flatten(0, 1), anchors_NTD.flatten(0, 1))
    assert torch.allclose(uce.edit(weight_PD, concepts_NTD, anchors_NTD), flat_PD)
    ragged = [concepts_NTD[0], concepts_NTD[1, :1]], [anchors_NTD[0], anchors_NTD[1, :1]]
    few_PD = uce.edit(weight_PD, concepts_NTD.flatten(0, 1)[:4], anchors_NTD.flatten(0, 1)[:4])
    assert torch.allclose(uce.edit(weight_PD, *ragged), few_PD)


def test_a_missing_anchor_and_an_unknown_technique_are_refused():
    with pytest.raises(ValueError, match="anchor"):
        uce.edit(WEIGHT_PD, normal(2, 2), normal(1, 2))
    with pytest.raises(ValueError, match="technique"):
        uce.edit(WEIGHT_PD, CONCEPT_ND, ANCHOR_ND, technique="subtract")


def test_the_vectors_of_both_forms():
    context_NTD = torch.arange(2 * 5 * 1).view(2, 5, 1)  # values 0..4 and 5..9
    assert uce.subjects(context_NTD, [2, 1]).flatten().tolist() == [2, 6]
    concept_nD, anchor_nD = uce.tails(context_NTD[0], context_NTD[1], 2, 1)
    assert concept_nD.flatten().tolist() == [2, 3, 4]  # T - max = 3 positions
    assert anchor_nD.flatten().tolist() == [6, 7, 8]


def test_the_first_codes_weight_of_preserving():
    assert [uce.preserve_scale(n) for n in (1, 3, 20)] == [1.0, 0.333, 0.1]
