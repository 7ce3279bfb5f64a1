"""OCE: which of two transposed forms solves the problem, and what a rotation must leave alone."""

import pytest
import torch

from mace_studio.core.subspace import projector
from mace_studio.methods import oce


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def objective(turn_PP, concept_PP, anchor_PP, kept_PP, scale):
    """-s_e ||Q G - (I - G*)||^2 + tr((Q - I) K (Q - I)^T)."""
    eye_PP = torch.eye(len(kept_PP)).double()
    erased = (turn_PP @ concept_PP - (eye_PP - anchor_PP)).square().sum()
    return (-scale * erased + torch.trace((turn_PP - eye_PP) @ kept_PP @ (turn_PP - eye_PP).T)).item()


def as_printed(concept_PP, anchor_PP, kept_PP, scale):
    """The rotation with the erasing term as the paper prints it: G (I - G*), transposed to ours."""
    eye_PP = torch.eye(len(kept_PP)).double()
    left_PP, _, right_PP = torch.linalg.svd(kept_PP - scale * concept_PP @ (eye_PP - anchor_PP))
    if torch.linalg.det(left_PP @ right_PP) < 0:
        left_PP[:, -1] *= -1
    return left_PP @ right_PP


def problem(seed):
    values_MP = normal(9, 6, seed=seed)
    return projector(normal(1, 6, seed=seed + 50)), projector(normal(2, 6, seed=seed + 90)), values_MP.T @ values_MP


@pytest.mark.parametrize("seed", range(8))
def test_our_form_has_the_lower_objective(seed):
    parts = problem(seed)
    ours = objective(oce.rotation(*parts, 5.0), *parts, 5.0)
    assert ours < objective(as_printed(*parts, 5.0), *parts, 5.0) - 1e-3
    assert torch.allclose(as_printed(*parts, 5.0), oce.rotation(*parts, 5.0).T)


@pytest.mark.parametrize("seed", range(4))
def test_no_rotation_is_better(seed):
    parts = problem(seed)
    best_PP = oce.rotation(*parts, 5.0)
    ours = objective(best_PP, *parts, 5.0)
    for other in range(50):
        skew_PP = normal(6, 6, seed=100 + other) * (0.01 if other % 2 else 1)
        turn_PP = torch.linalg.matrix_exp(skew_PP - skew_PP.T)
        assert objective(turn_PP @ best_PP, *parts, 5.0) > ours - 1e-9


def test_both_forms_agree_where_the_projectors_commute():
    concept_PP, anchor_PP = (torch.diag(torch.tensor(d).double()) for d in ([1.0, 0, 0], [0.0, 1, 0]))
    kept_PP = normal(5, 3).T @ normal(5, 3)
    parts = concept_PP, anchor_PP, kept_PP
    assert torch.allclose(oce.rotation(*parts, 2.0), as_printed(*parts, 2.0))


def test_a_turn_by_hand():
    # W = I, c = e1, a = e2: M = -3 diag(1, 0) + I = diag(-2, 1); U V^T = diag(-1, 1) has determinant -1, and the
    # direction of the smaller singular value changes its sign.
    eye_PP = torch.eye(2)
    edited_PD = oce.edit(eye_PP, eye_PP[:1], eye_PP[1:], erase_scale=3.0, ridge=1.0, general_scale=0.0)
    assert torch.allclose(edited_PD, -eye_PP)


@pytest.mark.parametrize("out", [4, 12])  # more rows than columns leave directions that nothing determines
def test_singular_values_stay_and_the_determinant_is_one(out):
    weight_PD, kept_MD = normal(out, 8), normal(3, 8, seed=1)
    general_DD = kept_MD.T @ kept_MD
    edited_PD = oce.edit(weight_PD, normal(2, 8, seed=2), normal(1, 8, seed=3), kept_MD, general_DD, keep_scale=1.0)
    assert torch.allclose(torch.linalg.svdvals(edited_PD), torch.linalg.svdvals(weight_PD), atol=1e-10)
    assert (edited_PD - weight_PD).abs().max() > 0.1
    parts = problem(1)
    assert torch.linalg.det(oce.rotation(*parts, 5.0)).item() == pytest.approx(1)


def test_a_large_weight_of_keeping_leaves_the_values_where_they_are():
    weight_PD, concepts_ND, anchors_ND = normal(4, 8), normal(2, 8, seed=2), normal(1, 8, seed=3)
    kept_MD = normal(6, 8, seed=4)
    moves = [
        (oce.edit(weight_PD, concepts_ND, anchors_ND, kept_MD, keep_scale=scale, general_scale=0) - weight_PD).norm()
        for scale in (1.0, 1e5, 1e9)
    ]
    assert moves[0] > moves[1] > moves[2] and moves[2] < 1e-4


def test_general_captions_count_like_preserved_vectors():
    weight_PD, concepts_ND, anchors_ND = normal(4, 8), normal(2, 8, seed=2), normal(1, 8, seed=3)
    kept_MD = normal(6, 8, seed=4)
    as_kept_PD = oce.edit(weight_PD, concepts_ND, anchors_ND, kept_MD, keep_scale=70.0, general_scale=0.0)
    general_DD = kept_MD.T @ kept_MD / 6
    as_general_PD = oce.edit(weight_PD, concepts_ND, anchors_ND, None, general_DD, general_scale=6 * 70.0)
    assert torch.allclose(as_kept_PD, as_general_PD, atol=1e-9)
    assert not torch.allclose(as_kept_PD, oce.edit(weight_PD, concepts_ND, anchors_ND), atol=1e-3)


def test_only_what_the_vectors_span_counts():
    weight_PD, concepts_ND, anchors_ND = normal(4, 8), normal(2, 8, seed=2), normal(1, 8, seed=3)
    doubled_ND = torch.cat([5 * concepts_ND, concepts_ND[:1] + concepts_ND[1:]])
    first_PD = oce.edit(weight_PD, concepts_ND, anchors_ND)
    assert torch.allclose(oce.edit(weight_PD, doubled_ND, -anchors_ND), first_PD, atol=1e-8)


def test_no_concepts_or_no_strength_give_the_weights_back_bit_for_bit():
    weights = {"v": normal(4, 6).half()}
    nothing, some = torch.zeros(0, 6), normal(2, 6, seed=1)
    assert torch.equal(oce.edit(weights, nothing, some)["v"], weights["v"])
    assert torch.equal(oce.edit(weights, some, some + 1, erase_scale=0)["v"], weights["v"])
    assert oce.edit(weights, some, some + 1)["v"].dtype == torch.float16
