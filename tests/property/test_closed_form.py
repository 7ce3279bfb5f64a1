"""Laws of the refinement (Eq. 2) and of the fusion (Eq. 7) that hold for any numbers."""

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mace_studio.core.moments import Moments
from mace_studio.core.ridge import fuse, keep_gram, refine, refinement
from mace_studio.settings import KeepWeights


@dataclass(frozen=True)
class Case:
    """Random numbers of a few small sizes, float64: widths D and P, rank R, `pairs` pairs a concept, some concepts."""

    width: int
    out: int
    rank: int
    pairs: int
    concepts: int
    seed: int

    def generator(self, offset: int = 0) -> torch.Generator:
        return torch.Generator().manual_seed(2 * self.seed + offset)

    def weight(self, offset: int = 0) -> Tensor:
        return normal(self.generator(offset), self.out, self.width)

    def embeddings(self) -> list[tuple[Tensor, Tensor]]:
        """For each concept context and guide, (pairs, D)."""
        generator = self.generator()
        shape = (self.pairs, self.width)
        return [(normal(generator, *shape), normal(generator, *shape)) for _ in range(self.concepts)]

    def loras(self) -> list[tuple[Tensor, Tensor]]:
        """For each concept up_PR and down_RD."""
        generator = self.generator(1)
        shapes = (self.out, self.rank), (self.rank, self.width)
        return [tuple(normal(generator, *shape) for shape in shapes) for _ in range(self.concepts)]

    def kept(self) -> Tensor:
        """Embeddings to keep, enough for a full rank."""
        return normal(self.generator(1), 3 * self.width, self.width)


def normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


cases = st.builds(
    Case,
    width=st.integers(2, 6),
    out=st.integers(1, 5),
    rank=st.integers(1, 2),
    pairs=st.integers(1, 12),
    concepts=st.integers(1, 4),
    seed=st.integers(0, 2**31),
)
strengths = st.floats(0.01, 100)


def close(first: Tensor, second: Tensor, tolerance: float = 1e-8) -> bool:
    return torch.allclose(first, second, rtol=tolerance, atol=tolerance)


def total(sums: list[Moments]) -> Moments:
    return sum(sums[1:], start=sums[0])


def least_squares(rows: list[tuple[Tensor, Tensor]]) -> Tensor:
    """W that minimises sum || inputs W^T - targets ||^2 over all (inputs_ND, targets_NP), without any Gram."""
    inputs, targets = (torch.cat(part) for part in zip(*rows, strict=True))
    return torch.linalg.lstsq(inputs, targets, driver="gelsd").solution.T


@given(cases, strengths)
def test_refinement_is_the_least_squares_solution_of_eq_1(case, strength):
    # Eq. 1: sum || W' e - W g ||^2 + lambda sum || W' k - W k ||^2, as stacked rows.
    weight_PD, kept = case.weight(), case.kept()
    rows = [(context, guide @ weight_PD.T) for context, guide in case.embeddings()]
    root = strength**0.5
    expected_PD = least_squares([*rows, (root * kept, root * kept @ weight_PD.T)])
    sums = total([Moments.of(context, guide) for context, guide in case.embeddings()])
    keep = keep_gram(KeepWeights(general=strength), Moments.of(kept), None, case.width)
    assert close(refine(weight_PD, refinement(sums, keep.total_DD)), expected_PD)


@given(cases, strengths, strengths, strengths)
def test_all_three_keep_terms_enter_eq_1_with_their_weights(case, general, preserve, identity):
    weight_PD, kept = case.weight(), case.kept()
    eye = torch.eye(case.width, dtype=torch.float64)
    rows = [(context, guide @ weight_PD.T) for context, guide in case.embeddings()]
    for strength, inputs in ((general, kept), (preserve, kept[:2] + 1), (identity, eye)):
        rows.append((strength**0.5 * inputs, strength**0.5 * inputs @ weight_PD.T))
    sums = total([Moments.of(context, guide) for context, guide in case.embeddings()])
    weights = KeepWeights(general, preserve, identity)
    keep = keep_gram(weights, Moments.of(kept), Moments.of(kept[:2] + 1), case.width)
    assert close(refine(weight_PD, refinement(sums, keep.total_DD)), least_squares(rows))


@given(cases, strengths, strengths)
def test_fusion_is_the_least_squares_solution_of_eq_7(case, strength, identity):
    # sum_i || W* E_i - (W' + B_i A_i) E_i ||^2 + lambda || (W* - W) K ||^2 + identity || W* - W' ||^2
    original_PD, refined_PD, kept = case.weight(), case.weight(1), case.kept()
    contexts = [context for context, _ in case.embeddings()]
    rows, deltas = [], []
    for context, (up_PR, down_RD) in zip(contexts, case.loras(), strict=True):
        rows.append((context, context @ (refined_PD + up_PR @ down_RD).T))
        deltas.append((up_PR, down_RD, Moments.of(context).gram_DD))
    eye = torch.eye(case.width, dtype=torch.float64)
    rows.append((strength**0.5 * kept, strength**0.5 * kept @ original_PD.T))
    rows.append((identity**0.5 * eye, identity**0.5 * refined_PD.T))
    keep = keep_gram(KeepWeights(general=strength), Moments.of(kept), None, case.width)
    assert close(fuse(original_PD, refined_PD, deltas, keep.gram_DD, identity), least_squares(rows))


@given(cases, strengths)
def test_mapping_a_concept_to_itself_changes_nothing_at_all(case, strength):
    sums = total([Moments.of(context, context.clone()) for context, _ in case.embeddings()])
    eye = torch.eye(case.width, dtype=torch.float64)
    solved = refinement(sums, strength * eye)
    assert torch.equal(solved.matrix_DD, eye)
    assert torch.equal(refine(case.weight(), solved), case.weight())


@given(cases)
def test_an_ever_larger_keep_weight_gives_the_original_weights(case):
    weight_PD = case.weight()
    sums = total([Moments.of(context, guide) for context, guide in case.embeddings()])
    far = [
        (refine(weight_PD, refinement(sums, strength * Moments.of(case.kept()).gram_DD)) - weight_PD).norm()
        for strength in (1e3, 1e6, 1e9)
    ]
    assert far[2] < 1e-6
    # For a large weight the distance falls in proportion to it.
    assert far[1] < 2e-3 * far[0] + 1e-9


@given(cases)
def test_a_large_keep_weight_takes_the_fusion_to_its_target(case):
    original_PD, refined_PD = case.weight(), case.weight(1)
    grams = [Moments.of(context).gram_DD for context, _ in case.embeddings()]
    deltas = [(*lora, gram_DD) for lora, gram_DD in zip(case.loras(), grams, strict=True)]
    gram_DD = 1e10 * Moments.of(case.kept()).gram_DD
    assert close(fuse(original_PD, refined_PD, deltas, gram_DD), original_PD, 1e-6)
    assert close(fuse(original_PD, refined_PD, deltas, 0 * gram_DD, identity=1e10), refined_PD, 1e-6)


@given(cases, strengths, st.randoms(use_true_random=False))
def test_the_order_of_concepts_is_irrelevant(case, strength, random):
    order = list(range(case.concepts))
    random.shuffle(order)
    eye = torch.eye(case.width, dtype=torch.float64)
    sums = [Moments.of(context, guide) for context, guide in case.embeddings()]
    deltas = [(*lora, one.gram_DD) for lora, one in zip(case.loras(), sums, strict=True)]
    first = refinement(total(sums), strength * eye)
    second = refinement(total([sums[i] for i in order]), strength * eye)
    assert close(first.matrix_DD, second.matrix_DD)
    weights = case.weight(), case.weight(1)
    assert close(fuse(*weights, deltas, strength * eye), fuse(*weights, [deltas[i] for i in order], strength * eye))


@given(cases, strengths)
def test_every_prompt_twice_is_half_the_keep_weight(case, strength):
    gram_DD = Moments.of(case.kept()).gram_DD
    embeddings = case.embeddings()
    once = total([Moments.of(context, guide) for context, guide in embeddings])
    twice = total([Moments.of(torch.cat([c, c]), torch.cat([g, g])) for c, g in embeddings])
    assert twice.count == 2 * once.count
    first = refinement(twice, strength * gram_DD).matrix_DD
    assert close(first, refinement(once, strength / 2 * gram_DD).matrix_DD)
    assert close(first, refinement(2 * once, strength * gram_DD).matrix_DD)


@given(cases)
def test_one_lora_with_nothing_to_keep_gives_the_tuned_weights_back(case):
    refined_PD, (up_PR, down_RD) = case.weight(1), case.loras()[0]
    gram_DD = Moments.of(case.kept()).gram_DD
    fused_PD = fuse(case.weight(), refined_PD, [(up_PR, down_RD, gram_DD)], torch.zeros_like(gram_DD))
    assert close(fused_PD, refined_PD + up_PR @ down_RD)


@given(cases, strengths)
def test_without_a_lora_the_fusion_lies_where_its_keep_term_pulls(case, strength):
    # Nothing was refined and nothing tuned: nothing may change.
    weight_PD = case.weight()
    context, _ = case.embeddings()[0]
    none = torch.zeros(case.out, 1), torch.zeros(1, case.width), Moments.of(context).gram_DD
    keep = keep_gram(KeepWeights(general=strength), Moments.of(case.kept()), None, case.width)
    assert torch.equal(fuse(weight_PD, weight_PD, [none], keep.gram_DD, strength), weight_PD)


@given(cases)
def test_taking_a_concept_out_again_restores_the_sums(case):
    first, *others = [Moments.of(context, guide) for context, guide in case.embeddings()]
    back = total([first, *others])
    for other in others:
        back = back - other
    assert close(back.gram_DD, first.gram_DD, 1e-12)
    assert close(back.cross_DD, first.cross_DD, 1e-12)
    assert back.count == first.count


@given(cases, strengths)
def test_refining_weights_is_refining_embeddings(case, strength):
    # W' e = W (M e): stage 1 can be looked at without touching a weight.
    sums = total([Moments.of(context, guide) for context, guide in case.embeddings()])
    solved = refinement(sums, strength * torch.eye(case.width))
    kept = case.kept()
    assert close(kept @ refine(case.weight(), solved).T, kept @ solved.matrix_DD.T @ case.weight().T)


@given(cases, st.integers(0, 3))
def test_a_rotation_of_the_embeddings_rotates_the_solution(case, offset):
    turn_DD = torch.linalg.qr(normal(case.generator(offset), case.width, case.width)).Q
    kept = case.kept()
    plain = total([Moments.of(c, g) for c, g in case.embeddings()])
    turned = total([Moments.of(c @ turn_DD, g @ turn_DD) for c, g in case.embeddings()])
    first = refinement(plain, Moments.of(kept).gram_DD)
    second = refinement(turned, Moments.of(kept @ turn_DD).gram_DD)
    assert close(turn_DD.T @ first.matrix_DD @ turn_DD, second.matrix_DD)
    assert second.condition == pytest.approx(first.condition, rel=1e-6)
