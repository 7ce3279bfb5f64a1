"""RECE in one dimension, where every step is a fraction, and its laws."""

import pytest
import torch

from mace_studio.methods import rece, uce
from mace_studio.methods.settings import ReceSettings


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def number(value):
    return torch.tensor([[value]], dtype=torch.float64)


def test_the_revived_embedding_by_hand():
    # G = W' W / (rho + W'^2) = 6 / 5; with a second layer of the same weights 12 / 9
    assert rece.revive({"k": number(3.0)}, {"k": number(2.0)}, number(1.0), rho=1.0).item() == pytest.approx(1.2)
    both = {"k": number(3.0), "v": number(3.0)}, {"k": number(2.0), "v": number(2.0)}
    assert rece.revive(*both, number(1.0), rho=1.0).item() == pytest.approx(12 / 9)


def test_the_map_is_not_its_transpose():
    # W' = I, W = [[0, 1], [0, 0]], rho = 1: G = W / 2, so c = e2 becomes e1 / 2.
    original, edited = {"k": torch.tensor([[0.0, 1], [0, 0]])}, {"k": torch.eye(2)}
    assert torch.allclose(
        rece.revive(original, edited, torch.tensor([[0.0, 1]]), rho=1.0), torch.tensor([[0.5, 0.0]]).double()
    )


def test_it_minimises_its_objective():
    original = {name: normal(4, 3, seed=i) for i, name in enumerate("kv")}
    edited = {name: normal(4, 3, seed=i + 5) for i, name in enumerate("kv")}
    context_TD = normal(2, 3, seed=9)

    def objective(revived_TD):
        misses = sum((revived_TD @ edited[n].T - context_TD @ original[n].T).square().sum() for n in original)
        return misses + 0.3 * revived_TD.square().sum()

    found_TD = rece.revive(original, edited, context_TD, rho=0.3).requires_grad_()
    (gradient_TD,) = torch.autograd.grad(objective(found_TD), found_TD)
    assert gradient_TD.abs().max() < 1e-10


def test_unchanged_weights_revive_the_concept_itself():
    weights, context_TD = {"k": normal(5, 4)}, normal(3, 4, seed=1)
    assert torch.allclose(rece.revive(weights, weights, context_TD, rho=1e-10), context_TD, atol=1e-8)


def test_one_round_by_hand():
    # c_adv = 1.2, a = 0.5: W' (0.5 * 1.2 + 0.1 * 0.25 + 0.1) / (1.44 + 0.1 * 0.25 + 0.1)
    found = rece.edit({"k": number(3.0)}, {"k": number(2.0)}, number(1.0)[None], number(0.5), rounds=1, rho=1.0)
    assert found["k"].item() == pytest.approx(2 * 0.725 / 1.565)


def test_the_anchor_is_preserved_once_for_every_concept():
    # Twice the concept: 2 (2 * 0.6 + 2 * 0.025 + 0.1) / (2 * 1.44 + 2 * 0.025 + 0.1)
    concepts_NTD = torch.ones(2, 1, 1, dtype=torch.float64)
    found = rece.edit({"k": number(3.0)}, {"k": number(2.0)}, concepts_NTD, number(0.5), rounds=1, rho=1.0)
    assert found["k"].item() == pytest.approx(2.7 / 3.03)


def test_two_rounds_are_one_round_from_where_the_first_ended():
    original, edited = {"k": normal(4, 3)}, {"k": normal(4, 3, seed=1)}
    inputs = normal(2, 5, 3, seed=2), normal(5, 3, seed=3)
    once = rece.edit(original, edited, *inputs, rounds=1)
    twice = rece.edit(original, edited, *inputs, rounds=2)
    assert torch.allclose(rece.edit(original, once, *inputs, rounds=1)["k"], twice["k"])
    assert not torch.allclose(once["k"], twice["k"], atol=1e-4)
    each = list(rece.each_round(original, edited, *inputs, ReceSettings(rounds=2)))
    assert torch.equal(each[0]["k"], once["k"]) and torch.equal(each[1]["k"], twice["k"])


def test_a_round_is_an_edit_of_the_current_weights():
    original, edited = {"k": normal(4, 3)}, {"k": normal(4, 3, seed=1)}
    concepts_NTD, anchor_TD = normal(2, 5, 3, seed=2), normal(5, 3, seed=3)
    revived_NTD = rece.revive(original, edited, concepts_NTD, 0.1)
    expected = uce.edit(
        edited, revived_NTD, anchor_TD.expand(2, 5, 3), torch.cat([anchor_TD, anchor_TD]), preserve_scale=0.1, ridge=0.1
    )
    assert torch.allclose(rece.edit(original, edited, concepts_NTD, anchor_TD, rounds=1)["k"], expected["k"])


def test_no_rounds_no_concepts_or_no_strength_give_the_weights_back_bit_for_bit():
    original, edited = {"k": normal(4, 3).half()}, {"k": normal(4, 3, seed=1).half()}
    concepts_NTD, anchor_TD = normal(2, 5, 3, seed=2), normal(5, 3, seed=3)
    assert torch.equal(rece.edit(original, edited, concepts_NTD, anchor_TD, rounds=0)["k"], edited["k"])
    assert torch.equal(rece.edit(original, edited, concepts_NTD[:0], anchor_TD)["k"], edited["k"])
    assert torch.equal(rece.edit(original, edited, concepts_NTD, anchor_TD, erase_scale=0)["k"], edited["k"])
    changed = rece.edit(original, edited, concepts_NTD, anchor_TD)["k"]
    assert changed.dtype == torch.float16 and not torch.equal(changed, edited["k"])


def test_rho_has_to_be_above_nought():
    with pytest.raises(ValueError, match="rho"):
        rece.revive({"k": number(1.0)}, {"k": number(1.0)}, number(1.0), rho=0.0)
