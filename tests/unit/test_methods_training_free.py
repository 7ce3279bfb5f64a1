"""MACE without training: the least squares that it claims to solve, and its targets."""

import torch

from mace_studio.core.moments import Moments
from mace_studio.core.ridge import Keep, fuse
from mace_studio.methods import training_free


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_it_is_the_least_squares_solution():
    original, refined = {"k": normal(4, 6)}, {"k": normal(4, 6, seed=1)}
    contexts, hats = [normal(9, 6, seed=s) for s in (2, 3)], [normal(9, 6, seed=s) for s in (4, 5)]
    kept_ND, eye_DD = normal(5, 6, seed=6), torch.eye(6).double()
    inputs = torch.cat([*contexts, kept_ND, 0.7**0.5 * eye_DD])
    wanted = torch.cat([*(hat @ refined["k"].T for hat in hats), kept_ND @ original["k"].T, 0.7**0.5 * refined["k"].T])
    expected_PD = torch.linalg.lstsq(inputs, wanted).solution.T
    moments = [Moments.of(*pair) for pair in zip(contexts, hats, strict=True)]
    solved = training_free.edit(original, refined, moments, Keep(Moments.of(kept_ND).gram_DD, 0.7))
    assert torch.allclose(solved.weights["k"], expected_PD, atol=1e-10)


def test_a_target_that_a_lora_reaches_gives_the_fusion_of_that_lora():
    # W' E^ = (W' + B A) E for B = W' and A = M - I with E^ = M E.
    original_PD, refined_PD, context_ND = normal(6, 6), normal(6, 6, seed=1), normal(20, 6, seed=2)
    step_DD = 0.1 * normal(6, 6, seed=3)
    hat_ND = context_ND @ (torch.eye(6).double() + step_DD).T
    gram_DD = Moments.of(normal(9, 6, seed=4)).gram_DD
    expected_PD = fuse(original_PD, refined_PD, [(refined_PD, step_DD, context_ND)], gram_DD)
    moments = [Moments.of(context_ND, hat_ND)]
    solved = training_free.edit({"k": original_PD}, {"k": refined_PD}, moments, Keep(gram_DD, 0.0))
    assert torch.allclose(solved.weights["k"], expected_PD)


def test_no_concepts_give_the_weights_back_bit_for_bit():
    weights = {"k": normal(4, 6).half()}
    solved = training_free.edit(weights, weights, [], Keep(torch.eye(6).double(), 0.5))
    assert torch.equal(solved.weights["k"], weights["k"])
    same = Moments.of(normal(9, 6), normal(9, 6))
    solved = training_free.edit(weights, weights, [same], Keep(torch.eye(6).double(), 0.5))
    assert torch.equal(solved.weights["k"], weights["k"])


def test_the_mapping_stands_at_the_concept_and_after_the_end():
    # "a photo of C C, red <end> <pad> <pad>" and "a photo of M, red <end> <pad> <pad> <pad>"
    concept_TD, mapping_TD = torch.arange(10.0)[:, None], torch.arange(10.0)[:, None] + 100
    hat_TD = training_free.targets(concept_TD, mapping_TD, [4, 5], [4], 7, 6)
    assert hat_TD.flatten().tolist() == [0, 1, 2, 3, 104, 104, 6, 106, 107, 108]


def test_a_longer_mapping_gives_its_last_tokens_and_its_last_padding_again():
    concept_TD, mapping_TD = torch.arange(8.0)[:, None], torch.arange(8.0)[:, None] + 100
    hat_TD = training_free.targets(concept_TD, mapping_TD, [1], [1, 2, 3], 2, 4)
    assert hat_TD.flatten().tolist() == [0, 103, 104, 105, 106, 107, 107, 107]
    assert concept_TD.flatten().tolist() == list(range(8))
