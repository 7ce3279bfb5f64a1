"""SPEED: what it must hold, and its parts on vectors whose norms can be read off."""

import pytest
import torch

from mace_studio.methods import speed


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rows(*values):
    return torch.tensor(values, dtype=torch.float64)


WEIGHT_PD, CONCEPT_D, ANCHOR_D = rows([3.0, 5]), [1.0, 0], [0.0, 1]


def test_without_anything_to_keep_by_hand():
    # S11 = diag(1, 0), W (S*1 - S11) = [2, 0], M = diag(1/2, 1)
    assert torch.allclose(speed.edit(WEIGHT_PD, rows(CONCEPT_D), rows(ANCHOR_D)), rows([4.0, 5]))
    # r = 3: M = diag(1/4, 1/3)
    assert torch.allclose(speed.edit(WEIGHT_PD, rows(CONCEPT_D), rows(ANCHOR_D), prior=3.0), rows([3.5, 5]))


def test_concepts_are_averaged_and_positions_of_one_summed():
    twice = rows(CONCEPT_D, CONCEPT_D), rows(ANCHOR_D, ANCHOR_D)
    assert torch.allclose(speed.edit(WEIGHT_PD, *twice), rows([4.0, 5]))
    # One entry of two positions: S11 = diag(2, 0), W (S*1 - S11) = [4, 0], M = diag(1/3, 1)
    assert torch.allclose(speed.edit(WEIGHT_PD, *(side[None] for side in twice)), rows([3 + 4 / 3, 5]))


@pytest.mark.parametrize("out", [4, 12])
def test_invariants_and_retained_vectors_keep_their_values(out):
    weight_PD, retain_ND, invariants_MD = normal(out, 8), normal(3, 8, seed=1), normal(2, 8, seed=2)
    concepts_ND, anchors_ND = normal(2, 8, seed=3), normal(2, 8, seed=4)
    for options in ({"augmentations": 0}, {"filtered": False, "augmentations": 0, "prior": 0.05}):
        edited_PD = speed.edit(weight_PD, concepts_ND, anchors_ND, retain_ND, invariants_MD, tau=1e-6, **options)
        for kept in (retain_ND, invariants_MD):
            assert ((edited_PD - weight_PD) @ kept.T).abs().max() < 1e-9
        # and the concepts do move, towards their anchors
        before, after = ((w @ concepts_ND.T - weight_PD @ anchors_ND.T).norm() for w in (weight_PD, edited_PD))
        assert after < 0.9 * before


def test_a_retained_vector_whose_eigenvalue_lies_below_tau_is_free():
    retain_ND = rows([0.0, 1])
    held_PD = speed.edit(WEIGHT_PD, rows([1.0, 1]), rows([0.0, 0]), retain_ND, tau=0.5, augmentations=0)
    free_PD = speed.edit(WEIGHT_PD, rows([1.0, 1]), rows([0.0, 0]), retain_ND, tau=1.5, augmentations=0)
    assert held_PD[0, 1].item() == pytest.approx(5) and free_PD[0, 1].item() != pytest.approx(5)


def test_an_invariant_that_the_projector_removes_does_no_harm():
    weight_PD, retain_ND = normal(4, 6), normal(2, 6, seed=1)
    pair = normal(1, 6, seed=2), normal(1, 6, seed=3)
    once_PD = speed.edit(weight_PD, *pair, retain_ND, tau=1e-6, augmentations=0)
    twice_PD = speed.edit(weight_PD, *pair, retain_ND, retain_ND, tau=1e-6, augmentations=0)
    assert torch.allclose(once_PD, twice_PD, atol=1e-8)


def test_a_ridge_lets_the_invariants_move_a_little():
    weight_PD, invariants_MD = normal(4, 6), normal(2, 6, seed=1)
    pair = normal(1, 6, seed=2), normal(1, 6, seed=3)
    drift = [
        ((speed.edit(weight_PD, *pair, None, invariants_MD, ridge=ridge) - weight_PD) @ invariants_MD.T).norm().item()
        for ridge in (0.0, 0.5, 1e6)
    ]
    assert drift[0] < 1e-9 < drift[1] < drift[2]


def test_p_q_m_is_the_product_that_is_written():
    gram_DD = normal(2, 5).T @ normal(2, 5)
    projector_DD, invariants_MD = speed.null_projector(normal(2, 5, seed=1), 1e-9), normal(2, 5, seed=2)
    eye_DD = torch.eye(5).double()
    m_DD = torch.linalg.inv(gram_DD @ projector_DD + 0.7 * eye_DD)
    inner_MM = invariants_MD @ projector_DD @ m_DD @ invariants_MD.T + 0.5 * torch.eye(2).double()
    q_DD = eye_DD - m_DD @ invariants_MD.T @ torch.linalg.inv(inner_MM) @ invariants_MD @ projector_DD
    found_DD = speed.constrained(gram_DD, projector_DD, invariants_MD, 0.7, 0.5)
    assert torch.allclose(found_DD, projector_DD @ q_DD @ m_DD, atol=1e-10)


def test_the_filter_keeps_what_moves_more_than_the_mean():
    vectors_ND = rows([3.0, 0], [1, 5], [2, 0])  # move by 3, 1, 2: the last one by the mean, not more
    assert torch.equal(speed.influential(rows([1.0, 0]), vectors_ND), rows([3.0, 0]))
    assert len(speed.influential(rows([1.0, 0]), vectors_ND[1:2])) == 0
    assert speed.influential(rows([1.0, 0]), vectors_ND[:0]).shape == (0, 2)


def test_the_filter_frees_what_erasing_hardly_moves():
    # c = e1 -> a = e2: D_er moves along c, so e3 is filtered out and e1 + e3 stays. Added vectors vary along e2, the
    # weakest direction of W, so that e1 - e3 is free.
    concept, anchor = rows([1.0, 0, 0]), rows([0.0, 1, 0])
    retain_ND = rows([1.0, 0, 1], [0, 0, 1])
    weight_PD = torch.diag(rows([3.0, 1, 2])[0])
    loose_PD = speed.edit(weight_PD, concept, anchor, retain_ND, tau=1e-6, augmentations=1)
    held_PD = speed.edit(weight_PD, concept, anchor, retain_ND, tau=1e-6, augmentations=0)
    assert torch.allclose(held_PD @ retain_ND[1], weight_PD @ retain_ND[1])
    assert not torch.allclose(loose_PD @ retain_ND[1], weight_PD @ retain_ND[1], atol=1e-3)


def test_the_filter_weighs_what_erasing_moves_with_its_prior():
    # c = 4 e1 and e2, both to 0: S11 = diag(8, 1/2), D_er = -W diag(8/9, 1/3). It moves e1 by 16/9 and 3 e2 by 3, so
    # 3 e2 is kept; S11 alone would move them by 16 and 4.5 and keep e1.
    weight_PD, retain_ND = torch.diag(rows([2.0, 3, 1])[0]), rows([1.0, 0, 0], [0, 3, 0])
    concepts_ND = rows([4.0, 0, 0], [0, 1, 0])
    edited_PD = speed.edit(weight_PD, concepts_ND, 0 * concepts_ND, retain_ND, tau=1e-6, augmentations=1)
    assert torch.allclose(edited_PD @ retain_ND[1], weight_PD @ retain_ND[1])
    assert not torch.allclose(edited_PD @ retain_ND[0], weight_PD @ retain_ND[0], atol=0.1)


def test_added_vectors_vary_along_the_weakest_direction_and_are_filtered():
    weight_PD, kept_ND = rows([3.0, 0], [0, 1]), rows([2.0, 0])
    added_KD = speed.augmented(weight_PD, rows([0.0, 1]), kept_ND, 50, torch.Generator().manual_seed(0))
    assert torch.allclose(added_KD[:, 0], rows([2.0]).expand(len(added_KD), 1).flatten())
    noise_AD = torch.randn(50, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    moves_A = noise_AD[:, 1].abs()
    assert len(added_KD) == (moves_A > moves_A.mean()).sum() < 50
    assert speed.augmented(weight_PD, rows([0.0, 1]), kept_ND, 0, torch.Generator()).shape == (0, 2)


def test_the_mean_of_the_filter_runs_over_one_chunk_of_added_vectors():
    # The first chunk moves by about 1, the second by about 100: over both together the first would be dropped.
    kept_ND = torch.cat([rows([0.0, 1]).expand(128, 2), rows([0.0, 100]).expand(3, 2)])
    added_KD = speed.augmented(rows([3.0, 0], [0, 1]), rows([0.0, 1]), kept_ND, 1, torch.Generator().manual_seed(0))
    assert (added_KD[:, 1] < 50).sum() > 10 and (added_KD[:, 1] > 50).any()


def test_for_a_wide_weight_the_smallest_of_its_values_counts_not_a_null_vector():
    added_KD = speed.augmented(rows([2.0, 0]), rows([1.0, 0]), rows([0.0, 0]), 5, torch.Generator().manual_seed(0))
    assert (added_KD[:, 0] != 0).all() and (added_KD[:, 1] == 0).all()


def test_the_same_generator_gives_the_same_weights():
    inputs = normal(4, 6), normal(1, 6, seed=1), normal(1, 6, seed=2), normal(5, 6, seed=3)
    first, second = (speed.edit(*inputs, tau=1.0) for _ in range(2))
    other = speed.edit(*inputs, tau=1.0, generator=torch.Generator().manual_seed(5))
    assert torch.equal(first, second) and not torch.equal(first, other)


def test_the_null_projector_by_hand():
    assert torch.allclose(speed.null_projector(rows([2.0, 0], [2, 0]), 0.1), torch.diag(rows([0.0, 1])[0]))
    assert torch.allclose(speed.null_projector(rows([2.0, 0], [0, 0]), 2.1), torch.eye(2).double())  # mean of 4 and 0


def test_no_concepts_give_the_weights_back_bit_for_bit():
    weights = {"v": normal(4, 6).half()}
    edited = speed.edit(weights, torch.zeros(0, 6), torch.zeros(0, 6), normal(3, 6, seed=1))
    assert torch.equal(edited["v"], weights["v"]) and edited["v"].dtype == torch.float16
    assert torch.equal(speed.edit(weights["v"], torch.zeros(0, 6), torch.zeros(0, 6)), weights["v"])


def test_an_anchor_that_is_the_concept_changes_nothing():
    weight_PD, concepts_ND = normal(4, 6), normal(2, 6, seed=1)
    assert torch.equal(speed.edit(weight_PD, concepts_ND, concepts_ND.clone(), normal(3, 6, seed=2)), weight_PD)


def test_the_prior_has_to_be_above_nought():
    with pytest.raises(ValueError, match="prior"):
        speed.edit(WEIGHT_PD, rows(CONCEPT_D), rows(ANCHOR_D), prior=0.0)


def test_the_invariants_are_the_start_token_and_the_centres_of_the_rest():
    empty_TD = rows([9.0, 9], [0, 0], [0, 2], [10, 0], [10, 2], [0, 50])
    found = speed.invariants(empty_TD)
    assert torch.equal(found[0], empty_TD[0])
    assert sorted(found[1:].tolist()) == [[0, 1], [0, 50], [10, 1]]
    assert len(speed.invariants(empty_TD[:2])) == 2


def test_phrases_with_a_target_as_a_word_are_not_retained():
    phrases = ["black cat", "Cat", "catalogue", "tomcat", "dog"]
    assert speed.retainable(phrases, ["cat"]) == ["catalogue", "tomcat", "dog"]
    assert speed.retainable(["the C++ book", "grand  PIANO", "Zoe\u0301", "C"], ["C++", "grand piano", "Zo\u00e9"]) == [
        "C"
    ]
