"""The closed forms with numbers that a pencil gives: width 1, where every solve is a division."""

import pytest
import torch

from mace_studio.core import ridge
from mace_studio.core.moments import Moments
from mace_studio.core.ridge import Fusion, Keep, SingularGram, fuse, keep_gram, refine, refinement, weighted_sum
from mace_studio.errors import StudioError
from mace_studio.settings import KeepWeights


def number(value: float) -> torch.Tensor:
    return torch.tensor([[value]]).double()


def test_refinement_of_one_number():
    # e = 2, g = 6: F = 4, C = 12, R = 4. M = 1 + (12 - 4) / (4 + 4) = 2, so W' = 5 * 2 = 10.
    solved = refinement(Moments.of(number(2), number(6)), number(4))
    assert solved.matrix_DD.item() == pytest.approx(2)
    assert solved.condition == pytest.approx(1)
    assert refine(number(5), solved).item() == pytest.approx(10)


def test_the_shift_multiplies_from_the_right_of_the_cross_sum():
    # e = (1,0), g = (0,1), R = I: F = diag(1,0), C = [[0,0],[1,0]], K = diag(2,1).
    # C - F = [[-1,0],[1,0]]; times K^-1 halves the first column: M = [[1/2,0],[1/2,1]]. The transpose would be wrong.
    sums = Moments.of(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]))
    solved = refinement(sums, torch.eye(2))
    assert torch.allclose(solved.matrix_DD, torch.tensor([[0.5, 0.0], [0.5, 1.0]]).double())
    assert solved.condition == pytest.approx(2)


def test_refined_weights_keep_dtype_and_shape():
    sums = Moments.of(torch.eye(2), torch.eye(2).flip(0))
    weight_PD = torch.ones(3, 2, dtype=torch.float16)
    refined_PD = refine(weight_PD, refinement(sums, torch.eye(2)))
    assert refined_PD.dtype == torch.float16
    assert refined_PD.shape == (3, 2)
    assert torch.equal(weight_PD, torch.ones(3, 2, dtype=torch.float16))


def test_fusion_of_one_number():
    # W = 3, W' = 5, B = 2, A = 4, E = -1 and so G = 1, R = 2, identity 1:
    # W* = W' + (B A G + (W - W') R) / (G + R + identity) = 5 + (8 - 4) / 4 = 6.
    fused = fuse(number(3), number(5), [(number(2), number(4), number(-1))], number(2), identity=1.0)
    assert fused.item() == pytest.approx(6)


def test_the_two_keep_targets_differ():
    # No LoRA, nothing but the keep term, as strong as can be: a Gram pulls to W = 3, the identity term to W' = 5.
    nothing = [(number(0), number(0), number(1e-5))]
    assert fuse(number(3), number(5), nothing, number(1)).item() == pytest.approx(3)
    assert fuse(number(3), number(5), nothing, number(0), identity=1.0).item() == pytest.approx(5)


def test_two_loras_meet_at_their_weighted_mean():
    # Deltas +2 on G = 1 and -1 on G = 1 + 2 = 3, no keep: W* = W' + (2 - 3) / 4 = 1 - 0.25.
    deltas = [(number(2), number(1), number(1)), (number(-1), number(1), torch.tensor([[1.0], [2**0.5]]))]
    assert fuse(number(9), number(1), deltas, number(0)).item() == pytest.approx(0.75)


def test_all_projections_share_one_solve_and_untrained_ones_are_kept():
    # "k" has a LoRA of +8, "v" none; S = 1, R = 1, W = W' = 2: k = 2 + 8 / 2 = 6, v = 2.
    fusion = Fusion(number(1), Keep(number(1), 0.0))
    fusion.add(number(1), {"k": (number(2), number(4))})
    fused = fusion.fused("k", number(2).half(), number(2))
    assert fused.item() == 6 and fused.dtype == torch.float16
    assert fusion.fused("v", number(2), number(2)).item() == 2
    assert fusion.condition == pytest.approx(1)


@pytest.mark.parametrize("ranks", [1, 2, 64])
def test_loras_are_added_up_however_many_are_fused_in_one_product(monkeypatch, ranks):
    monkeypatch.setattr(ridge, "RANKS", ranks)
    context_ND, gram_DD = number(1), number(3)
    fusion = Fusion(gram_DD, Keep(number(0), 0.0))
    for up in (1.0, 3.0, 5.0):
        fusion.add(context_ND, {"k": (number(up), number(1)), "v": (number(0), number(1))})
    # W* = 0 + (1 + 3 + 5) / (1 + 1 + 1)
    assert fusion.fused("k", number(0), number(0)).item() == pytest.approx(3)
    assert context_ND.item() == 1 and gram_DD.item() == 3


def test_refined_weights_are_rounded_once_at_the_end():
    # W' = 1 + 2^-20 is no float16; with nothing to keep and nothing trained W* is W'.
    fusion = Fusion(number(2), Keep(number(0), 0.0))
    assert fusion.fused("k", number(5), number(1 + 2**-20)).item() == 1 + 2**-20
    assert fusion.fused("k", number(5).half(), number(1 + 2**-20)).item() == 1


def test_a_gram_of_zeros_is_not_multiplied():
    # 0 times infinity would be no number.
    fusion = Fusion(number(2), Keep(number(0), 1.0))
    assert fusion.fused("k", number(float("inf")), number(3)).item() == 3


def test_equal_weights_add_all_loras_divided_by_their_number():
    # 1 + (2 * 3 + 4 * 5) / 2 = 14; "v" has no LoRA.
    loras = [{"k": (number(2), number(3))}, {"k": (number(4), number(5))}]
    fused = weighted_sum({"k": number(1).half(), "v": number(7)}, loras)
    assert fused["k"].item() == 14 and fused["k"].dtype == torch.float16
    assert fused["v"].item() == 7


def test_each_keep_weight_is_applied_once():
    # R = 0.5 * 2^2 + 3 * 4^2 = 50 in the Gram; the identity weight apart, and on the diagonal only.
    weights = KeepWeights(general=0.5, preserve=3.0, identity=7.0)
    keep = keep_gram(weights, Moments.of(number(2)), Moments.of(number(4)), 1)
    assert keep.gram_DD.item() == 50
    assert keep.identity == 7
    assert keep.total_DD.item() == 57


def test_what_is_not_there_is_not_kept():
    keep = keep_gram(KeepWeights(general=1.0, preserve=1.0), None, None, 2)
    assert torch.equal(keep.total_DD, torch.zeros(2, 2).double())
    total_DD = Keep(torch.zeros(2, 2).double(), 2.0).total_DD
    assert torch.equal(total_DD, torch.tensor([[2.0, 0.0], [0.0, 2.0]]).double())


def test_a_weight_of_zero_ignores_even_a_gram_with_infinity():
    keep = keep_gram(KeepWeights(), Moments.of(number(float("inf"))), None, 1)
    assert keep.gram_DD.item() == 0


def test_with_nothing_to_keep_the_remedy_is_named():
    one_token = torch.tensor([[1.0, 2.0, 3.0]])  # a Gram of rank 1 in three dimensions
    with pytest.raises(SingularGram, match="Add phrases to the preserve list") as caught:
        refinement(Moments.of(one_token), torch.zeros(3, 3))
    assert isinstance(caught.value, StudioError)
    message = str(caught.value)
    assert "too little to keep" in message
    assert all(word in message for word in ("general captions", "λ1", "λ2", "identity weight"))
    assert message.endswith(".")


def test_fusion_says_so_too():
    with pytest.raises(SingularGram, match="too little to keep"):
        fuse(torch.zeros(1, 2), torch.zeros(1, 2), [], torch.zeros(2, 2))


def test_a_gram_that_is_singular_only_by_rounding_is_refused():
    # Two tokens that differ in the last digit of a float64: Cholesky alone may accept their Gram.
    nearly = torch.tensor([[1.0, 1.0], [1.0, 1.0 + 2**-40]]).double()
    with pytest.raises(SingularGram):
        refinement(Moments.of(nearly), torch.zeros(2, 2))


def test_the_condition_is_that_of_the_factorised_matrix():
    # F = diag(1, 0), R = diag(3, 1): K = diag(4, 1).
    sums = Moments.of(torch.tensor([[1.0, 0.0]]))
    assert refinement(sums, torch.diag(torch.tensor([3.0, 1.0]))).condition == pytest.approx(4)
