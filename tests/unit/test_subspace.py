"""Spans, complements and Gram-Schmidt; the expected matrices are read off the vectors."""

import math

import pytest
import torch

from mace_studio.core.subspace import basis, complement, effective_rank, gram_schmidt, projector, share_within


def rows(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_a_dependent_vector_adds_no_rank():
    vectors_ND = rows([1.0, 0, 0], [0, 2, 0], [3, 4, 0])
    assert basis(vectors_ND).shape == (2, 3)
    assert torch.allclose(projector(vectors_ND), torch.diag(rows([1.0, 1, 0])[0]))


def test_what_lies_below_the_tolerance_is_no_direction():
    vectors_ND = rows([1.0, 0], [0, 1e-9])
    assert torch.allclose(projector(vectors_ND), torch.diag(rows([1.0, 0])[0]))
    assert torch.allclose(projector(vectors_ND, tolerance=1e-12), torch.eye(2).double())


def test_no_vectors_span_nothing():
    empty_0D = torch.zeros(0, 3)
    assert torch.equal(projector(empty_0D), torch.zeros(3, 3).double())
    assert torch.allclose(complement(empty_0D).T @ complement(empty_0D), torch.eye(3).double())


def test_the_complement_is_orthogonal_to_all_or_to_the_strongest():
    vectors_ND = rows([5.0, 0, 0], [0, 1, 0])
    assert torch.allclose(complement(vectors_ND).abs(), rows([0.0, 0, 1]))
    strongest_RD = complement(vectors_ND, directions=1)
    assert torch.allclose(strongest_RD.T @ strongest_RD, torch.diag(rows([0.0, 1, 1])[0]))


def test_gram_schmidt_keeps_the_order_and_marks_what_is_dependent():
    vectors_KP = rows([2.0, 0, 0], [1, 3, 0], [4, 5, 0], [0, 0, 7])
    assert torch.allclose(gram_schmidt(vectors_KP), rows([1.0, 0, 0], [0, 1, 0], [0, 0, 0], [0, 0, 1]))
    assert gram_schmidt(torch.zeros(0, 3)).shape == (0, 3)
    both = torch.stack([vectors_KP, vectors_KP.flip(0)])
    assert torch.equal(gram_schmidt(both), torch.stack([gram_schmidt(one) for one in both]))


@pytest.mark.parametrize("count", [1, 3])
def test_a_projector_leaves_its_vectors_and_squares_to_itself(count):
    vectors_ND = torch.randn(count, 5, generator=torch.Generator().manual_seed(0))
    onto_DD = projector(vectors_ND)
    assert torch.allclose(vectors_ND.double() @ onto_DD, vectors_ND.double(), atol=1e-12)
    assert torch.allclose(onto_DD @ onto_DD, onto_DD, atol=1e-12)


def test_the_effective_rank_counts_directions_by_their_energy():
    assert effective_rank(torch.eye(4, 7)) == pytest.approx(4)
    assert effective_rank(rows([1.0, 0], [5, 0])) == pytest.approx(1)
    # Energies 9 and 1: shares 0.9 and 0.1, e to the entropy.
    assert effective_rank(rows([3.0, 0], [0, 1])) == pytest.approx(math.exp(-0.9 * math.log(0.9) - 0.1 * math.log(0.1)))
    assert effective_rank(torch.zeros(0, 3)) == effective_rank(torch.zeros(2, 3)) == 0


def test_the_share_of_vectors_within_a_span():
    # Of (3, 4) the span of the first axis has 9 of 25, of (0, 5) nothing: 9 of 50.
    assert share_within(rows([3.0, 4], [0, 5]), rows([1.0, 0])) == pytest.approx(9 / 50)
    assert share_within(torch.zeros(0, 2), rows([1.0, 0])) == 0
