"""DP: preserved values stay, and one concept worked out on paper."""

import pytest
import torch

from mace_studio.methods import double_projection as dp


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rows(*values):
    return torch.tensor(values, dtype=torch.float64)


WEIGHT_PD, CONCEPT_ND, PRESERVE_KD = rows([1.0, 2, 3]), rows([1.0, 1, 0]), rows([1.0, 0, 0])


def test_a_concept_without_a_part_in_the_safe_space_goes_to_nothing():
    # a = 0, x = (1, 0) in the basis e2, e3, Z = -3 x^T: W' = [1, 2 - 3, 3]
    edited_PD = dp.edit(WEIGHT_PD, CONCEPT_ND, rows([0.0, 0, 1]), PRESERVE_KD)
    assert torch.allclose(edited_PD, rows([1.0, -1, 3]))


def test_a_concept_takes_the_value_of_its_safe_part():
    # a = 2/3 (1, 1, 1), W (a - c) = 4 - 3: W' = [1, 3, 3]
    edited_PD = dp.edit(WEIGHT_PD, CONCEPT_ND, rows([1.0, 1, 1], [2, 2, 2]), PRESERVE_KD)
    assert torch.allclose(edited_PD, rows([1.0, 3, 3]))


@pytest.mark.parametrize("count", [1, 3])
def test_preserved_values_stay_and_concepts_arrive(count):
    weight_PD, preserve_KD = normal(5, 10), normal(4, 10, seed=1)
    concepts_ND, safe_MD = normal(count, 10, seed=2), normal(2, 10, seed=3)
    edited_PD = dp.edit(weight_PD, concepts_ND, safe_MD, preserve_KD)
    assert ((edited_PD - weight_PD) @ preserve_KD.T).abs().max() < 1e-10
    # C -> S (S^T S)^+ S^T C, written with the columns of the paper
    s_DM = safe_MD.T
    target_DN = s_DM @ torch.linalg.inv(s_DM.T @ s_DM) @ s_DM.T @ concepts_ND.T
    assert (edited_PD @ concepts_ND.T - weight_PD @ target_DN).abs().max() < 1e-9


def test_with_few_directions_only_the_strongest_is_preserved():
    preserve_KD = rows([10.0, 0, 0], [0, 1, 0])
    all_PD = dp.edit(WEIGHT_PD, rows([1.0, 1, 1]), rows([1.0, 0, 0]), preserve_KD)
    one_PD = dp.edit(WEIGHT_PD, rows([1.0, 1, 1]), rows([1.0, 0, 0]), preserve_KD, directions=1)
    assert all_PD[0, :2].tolist() == pytest.approx([1, 2])
    assert one_PD[0, 0].item() == pytest.approx(1) and one_PD[0, 1].item() != pytest.approx(2, abs=0.1)


def test_a_concept_within_what_is_preserved_stays():
    weight_PD, preserve_KD = normal(5, 10), normal(4, 10, seed=1)
    concept_ND = (preserve_KD[0] + 2 * preserve_KD[1])[None]
    assert torch.allclose(dp.edit(weight_PD, concept_ND, normal(1, 10, seed=3), preserve_KD), weight_PD, atol=1e-9)


def test_no_concepts_give_the_weights_back_bit_for_bit():
    weights = {"k": normal(4, 6).half()}
    assert torch.equal(dp.edit(weights, torch.zeros(0, 6), normal(1, 6))["k"], weights["k"])
    assert dp.edit(weights, normal(1, 6, seed=1), normal(1, 6))["k"].dtype == torch.float16
