"""Laws of the refinement (Eq. 2) and of the fusion (Eq. 7) that hold for any numbers."""

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mace_studio.core import ridge
from mace_studio.core.moments import Moments, PairSums
from mace_studio.core.ridge import Fusion, Keep, fuse, keep_gram, refine, refinement, weighted_sum
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
        deltas.append((up_PR, down_RD, context))
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
    deltas = [(*lora, context) for lora, (context, _) in zip(case.loras(), case.embeddings(), strict=True)]
    gram_DD = 1e10 * Moments.of(case.kept()).gram_DD
    assert close(fuse(original_PD, refined_PD, deltas, gram_DD), original_PD, 1e-6)
    assert close(fuse(original_PD, refined_PD, deltas, 0 * gram_DD, identity=1e10), refined_PD, 1e-6)


@given(cases, strengths, st.randoms(use_true_random=False))
def test_the_order_of_concepts_is_irrelevant(case, strength, random):
    order = list(range(case.concepts))
    random.shuffle(order)
    eye = torch.eye(case.width, dtype=torch.float64)
    sums = [Moments.of(context, guide) for context, guide in case.embeddings()]
    deltas = [(*lora, context) for lora, (context, _) in zip(case.loras(), case.embeddings(), strict=True)]
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
    nothing_DD = torch.zeros(case.width, case.width).double()
    fused_PD = fuse(case.weight(), refined_PD, [(up_PR, down_RD, case.kept())], nothing_DD)
    assert close(fused_PD, refined_PD + up_PR @ down_RD)


@given(cases, strengths)
def test_without_a_lora_the_fusion_lies_where_its_keep_term_pulls(case, strength):
    # Nothing was refined and nothing tuned: nothing may change.
    weight_PD = case.weight()
    context, _ = case.embeddings()[0]
    none = torch.zeros(case.out, 1), torch.zeros(1, case.width), context
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


@dataclass(frozen=True)
class Prompts:
    """Random contexts of a few concepts (N prompts, T positions) with mappings that some of them share."""

    case: Case
    prompts: int
    length: int
    mappings: int

    def concepts(self) -> list[tuple[Tensor, Tensor, list[tuple[list[int], list[int]]]]]:
        """For each concept context_NTD, guide_NTD and the paired positions; those of one mapping share its tensor."""
        generator = self.case.generator()
        shape = (self.prompts, self.length, self.case.width)
        guides = [normal(generator, *shape) for _ in range(self.mappings)]
        return [
            (normal(generator, *shape), guides[i % self.mappings], [self._pair(generator) for _ in range(self.prompts)])
            for i in range(self.case.concepts)
        ]

    def _pair(self, generator: torch.Generator) -> tuple[list[int], list[int]]:
        count = int(torch.randint(self.length + 1, (), generator=generator))
        first, second = (torch.randperm(self.length, generator=generator)[:count].tolist() for _ in range(2))
        return first, second


many_prompts = st.builds(
    Prompts, case=cases, prompts=st.integers(1, 3), length=st.integers(1, 5), mappings=st.integers(1, 3)
)


def outer(rows: list[tuple[Tensor, Tensor]], width: int) -> Tensor:
    """The sum of first second^T, one product after the other."""
    zero = torch.zeros(width, width, dtype=torch.float64)
    return sum((torch.outer(first, second) for first, second in rows), start=zero)


@given(many_prompts)
def test_the_sums_of_pairs_are_those_of_single_outer_products(given_prompts):
    concepts, width = given_prompts.concepts(), given_prompts.case.width
    sums = PairSums(width)
    for context, guide, pairs in concepts:
        sums.add(context, guide, pairs)
    moments = sums.moments()
    paired = [
        (context[n, i], guide[n, j])
        for context, guide, pairs in concepts
        for n, (here, there) in enumerate(pairs)
        for i, j in zip(here, there, strict=True)
    ]
    everything = [row for context, _, _ in concepts for row in context.flatten(0, 1)]
    assert close(moments.gram_DD, outer([(e, e) for e, _ in paired], width), 1e-10)
    assert close(moments.cross_DD, outer([(g, e) for e, g in paired], width), 1e-10)
    assert close(sums.all_positions(), outer([(e, e) for e in everything], width), 1e-10)
    assert moments.count == len(paired)
    assert torch.equal(moments.gram_DD, moments.gram_DD.T)


@given(many_prompts)
def test_concepts_that_map_to_themselves_move_nothing_and_hold_others_in_place(given_prompts):
    case, sums = given_prompts.case, PairSums(given_prompts.case.width)
    for context, _, pairs in given_prompts.concepts():
        sums.add(context, context.clone(), [(here, here) for here, _ in pairs])
    eye = torch.eye(case.width, dtype=torch.float64)
    assert torch.equal(refinement(sums.moments(), eye).matrix_DD, eye)
    before = sums.moments().gram_DD
    context, guide, pairs = given_prompts.concepts()[0]
    sums.add(context, guide + 1, pairs)
    moments = sums.moments()
    rows = [(context[n, i], guide[n, j] + 1) for n, pair in enumerate(pairs) for i, j in zip(*pair, strict=True)]
    assert close(moments.cross_DD, before + outer([(g, e) for e, g in rows], case.width), 1e-10)


@given(many_prompts, strengths, strengths, st.integers(1, 5))
def test_the_fusion_is_eq_7_as_it_is_written(given_prompts, strength, identity, ranks):
    case, concepts = given_prompts.case, given_prompts.concepts()
    original = {name: case.weight(offset) for offset, name in enumerate("kv")}
    refined = {name: case.weight(offset + 2) for offset, name in enumerate("kv")}
    contexts = [context.flatten(0, 1) for context, _, _ in concepts]
    keep = Keep(strength * Moments.of(case.kept()).gram_DD, identity)
    grams = [context.T @ context for context in contexts]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ridge, "RANKS", ranks)
        fusion = Fusion(sum(grams), keep)
        for context, pair in zip(contexts, case.loras(), strict=True):
            fusion.add(context, {"k": pair})
        found = {name: fusion.fused(name, original[name], refined[name]) for name in original}
    eye = torch.eye(case.width, dtype=torch.float64)
    for name in "kv":
        tuned = [(up @ down if name == "k" else 0 * up @ down) for up, down in case.loras()]
        first = sum((refined[name] + delta) @ gram for delta, gram in zip(tuned, grams, strict=True))
        wanted = (first + original[name] @ keep.gram_DD + identity * refined[name]) @ torch.inverse(
            sum(grams) + keep.gram_DD + identity * eye
        )
        assert close(found[name], wanted, 1e-10 * max(1, strength))


@given(cases)
def test_the_weighted_sum_is_eq_6_as_it_is_written(case):
    refined_PD = case.weight()
    fused_PD = weighted_sum({"k": refined_PD}, [{"k": pair} for pair in case.loras()])["k"]
    assert close(fused_PD, refined_PD + sum(up @ down for up, down in case.loras()) / case.concepts, 1e-10)
