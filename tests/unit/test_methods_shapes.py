"""What the methods are given: other shapes are refused by a sentence, few or mixed inputs give finite weights."""

import pytest
import torch

from mace_studio.methods import adavd, concept_ablation, double_projection, esd, oce, rece, sld, speed, uce
from mace_studio.methods import selective_amnesia as sa
from mace_studio.methods.settings import AdaVdSettings

EDITS = {"uce": uce.edit, "speed": speed.edit, "oce": oce.edit, "dp": double_projection.edit}
P, D, T = 6, 5, 4


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


WEIGHT_PD, CONCEPTS_ND, OTHERS_ND = normal(P, D), normal(3, D, seed=1), normal(3, D, seed=2)


@pytest.mark.parametrize("name", EDITS)
@pytest.mark.parametrize(
    "given",
    [
        (WEIGHT_PD[0], CONCEPTS_ND, OTHERS_ND),
        ({"a": WEIGHT_PD, "b": normal(P, D + 1)}, CONCEPTS_ND, OTHERS_ND),
        (WEIGHT_PD, CONCEPTS_ND[0], OTHERS_ND[0]),
        (WEIGHT_PD, normal(3, D + 1), normal(3, D + 1)),
        (WEIGHT_PD, CONCEPTS_ND, normal(3, D + 1)),
        (WEIGHT_PD, CONCEPTS_ND, OTHERS_ND, normal(2, D + 1)),
        (WEIGHT_PD, CONCEPTS_ND, OTHERS_ND, normal(D)),
        (WEIGHT_PD, CONCEPTS_ND, OTHERS_ND, normal(1, 2, D)),
    ],
)
def test_a_closed_form_refuses_other_shapes(name, given):
    if name in ("oce", "dp") and given[1].ndim == 1:
        given = given[0], given[1], OTHERS_ND
    with pytest.raises(ValueError, match=r"shapes? .*must be"):
        EDITS[name](*given)


@pytest.mark.parametrize("name", ["uce", "speed"])
def test_every_concept_needs_an_anchor(name):
    with pytest.raises(ValueError, match="3 concepts have 2 anchors"):
        EDITS[name](WEIGHT_PD, CONCEPTS_ND, OTHERS_ND[:2])
    with pytest.raises(ValueError, match=r"concept 1 has shape \(2, 5\), its anchor \(1, 5\)"):
        EDITS[name](WEIGHT_PD, [CONCEPTS_ND[0], CONCEPTS_ND[:2]], [OTHERS_ND[0], OTHERS_ND[:1]])


@pytest.mark.parametrize("name", ["uce", "speed"])
def test_one_vector_may_be_a_row(name):
    alone_PD = EDITS[name](WEIGHT_PD, [CONCEPTS_ND[0]], [OTHERS_ND[0]])
    assert torch.equal(EDITS[name](WEIGHT_PD, [CONCEPTS_ND[:1]], [OTHERS_ND[0]]), alone_PD)
    assert torch.equal(EDITS[name](WEIGHT_PD, CONCEPTS_ND[:1], OTHERS_ND[:1, None]), alone_PD)


def test_other_inputs_of_one_method_are_refused_too():
    with pytest.raises(ValueError, match="invariants have shape"):
        speed.edit(WEIGHT_PD, CONCEPTS_ND, OTHERS_ND, None, normal(2, D + 1))
    with pytest.raises(ValueError, match="general_DD has shape"):
        oce.edit(WEIGHT_PD, CONCEPTS_ND, OTHERS_ND, None, normal(D, D + 1))


@pytest.mark.parametrize(
    ("original", "edited", "concepts", "anchors"),
    [
        ({"b": WEIGHT_PD}, {"a": WEIGHT_PD}, normal(2, T, D), normal(T, D)),
        ({"a": WEIGHT_PD[:2]}, {"a": WEIGHT_PD}, normal(2, T, D), normal(T, D)),
        ({"a": WEIGHT_PD}, {"a": WEIGHT_PD}, normal(2, T, D + 1), normal(T, D + 1)),
        ({"a": WEIGHT_PD}, {"a": WEIGHT_PD}, normal(2, T, D), normal(T + 1, D)),
        ({"a": WEIGHT_PD}, {"a": WEIGHT_PD}, normal(2, T, D), normal(3, T, D)),
        ({"a": WEIGHT_PD}, {"a": WEIGHT_PD}, normal(2, D), normal(D)),
    ],
)
def test_rece_refuses_other_shapes(original, edited, concepts, anchors):
    with pytest.raises(ValueError, match="must be"):
        rece.edit(original, edited, concepts, anchors)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("name", EDITS)
def test_few_mixed_and_doubled_inputs_give_finite_weights(name, dtype):
    weights = {"a": WEIGHT_PD.to(dtype), "b": normal(2, D, seed=3)}
    for concepts, others, kept in (
        (CONCEPTS_ND.to(dtype), OTHERS_ND.double(), normal(2, D, seed=4, dtype=dtype)),
        (CONCEPTS_ND[:1], OTHERS_ND[:1], None),
        (CONCEPTS_ND.repeat(4, 1), OTHERS_ND.repeat(4, 1), OTHERS_ND.repeat(4, 1)),
        (torch.zeros(1, D), OTHERS_ND[:1], OTHERS_ND[:0]),
    ):
        edited = EDITS[name](weights, concepts, others, kept)
        for key, weight_PD in weights.items():
            assert edited[key].dtype == weight_PD.dtype and edited[key].shape == weight_PD.shape
            assert edited[key].isfinite().all()
    assert EDITS[name]({}, CONCEPTS_ND, OTHERS_ND) == {}


def test_no_directions_are_all_directions():
    given = WEIGHT_PD, CONCEPTS_ND[:1], OTHERS_ND[:1], OTHERS_ND[1:]
    assert torch.equal(double_projection.edit(*given, directions=0), double_projection.edit(*given))


ONE, TWO, MASK = torch.ones(1, 4, 3, 3), torch.ones(2, 4, 3, 3), torch.ones(2, 1, 3, 3)
ONES = {"w": torch.ones(3)}


@pytest.mark.parametrize(
    "call",
    [
        lambda: esd.target(TWO, ONE),
        lambda: esd.target(TWO, TWO, base_BCHW=ONE),
        lambda: esd.loss(TWO, ONE),
        lambda: concept_ablation.loss(TWO, ONE),
        lambda: concept_ablation.loss(TWO, TWO, noise_BCHW=ONE, prior_weight=1.0),
        lambda: concept_ablation.loss(TWO, TWO, TWO),  # a mask of four channels would divide by four
        lambda: concept_ablation.loss(TWO, TWO, MASK[:, 0]),
        lambda: sld.guidance(TWO, ONE, TWO),
        lambda: sld.guidance(TWO, TWO, TWO, ONE),
        lambda: sa.loss(TWO, ONE, TWO, TWO, ONES, ONES, ONES),
        lambda: sa.loss(TWO, TWO, ONE, TWO, ONES, ONES, ONES),
        lambda: sa.loss(TWO, TWO, TWO, TWO, ONES, {"w": torch.ones(1)}, ONES),
        lambda: sa.loss(TWO, TWO, TWO, TWO, ONES, ONES, {"v": torch.ones(3)}),
        lambda: adavd.project(normal(2, T, P), normal(1, P + 1)),
        lambda: adavd.project(normal(2, T, P), normal(P)),
        lambda: adavd.project(normal(T, P), normal(1, P)),
        lambda: adavd.project(normal(3, T, P), normal(1, P), AdaVdSettings(jointly=True)),
        lambda: adavd.project(normal(2, T, P), normal(1, P), AdaVdSettings(jointly=True), normal(T, P + 1)),
        lambda: adavd.project(normal(2, T, P), normal(1, P), AdaVdSettings(jointly=True), normal(T + 1, P)),
    ],
)
def test_a_loss_or_a_guide_refuses_other_shapes(call):
    with pytest.raises(ValueError, match="must be"):
        call()


def test_a_mask_for_all_samples_and_one_of_nothing():
    loss = concept_ablation.loss(2 * TWO, TWO, MASK).item()
    assert loss == concept_ablation.loss(2 * TWO, TWO, MASK[:1]).item() == 4
    assert concept_ablation.loss(2 * TWO, TWO, torch.stack([MASK[0], 0 * MASK[0]])).item() == 2
