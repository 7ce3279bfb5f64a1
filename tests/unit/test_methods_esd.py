"""ESD's target and the grid of its first code."""

import pytest
import torch
from diffusers import DDIMScheduler

from mace_studio.methods import esd


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


NULL, CONCEPT = normal(2, 4, 3, 3), normal(2, 4, 3, 3, seed=1)


def test_both_forms_by_hand():
    null, concept, base = torch.tensor([1.0]), torch.tensor([4.0]), torch.tensor([10.0])
    assert esd.target(null, concept).item() == 1 - 3
    assert esd.target(null, concept, eta=2.0).item() == 1 - 6
    assert esd.target(null, concept, eta=2.0, form="new").item() == 4 - 6
    assert esd.target(null, concept, eta=2.0, form="new", base_BCHW=base).item() == 10 - 6


@pytest.mark.parametrize("eta", [0.0, 1.0, 3.0])
def test_the_new_form_is_the_old_one_with_one_less(eta):
    assert torch.allclose(esd.target(NULL, CONCEPT, eta + 1, "new"), esd.target(NULL, CONCEPT, eta, "old"))


def test_without_strength_the_target_is_the_base_bit_for_bit():
    assert torch.equal(esd.target(NULL, CONCEPT, 0.0), NULL)
    assert torch.equal(esd.target(NULL, CONCEPT, 0.0, "new"), CONCEPT)


def test_the_target_carries_no_gradient():
    assert not esd.target(NULL, CONCEPT.clone().requires_grad_()).requires_grad


def test_another_form_is_refused():
    with pytest.raises(ValueError, match="newer"):
        esd.target(NULL, CONCEPT, form="newer")


def test_a_model_of_one_parameter_reaches_the_fixed_point():
    # U(x) = theta x with e(n) = 0.3 x and e(c) = 0.8 x: theta goes to 2 * 0.3 - 0.8
    x_BCHW, theta = normal(4, 4, 3, 3), torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([theta], lr=0.3)
    for _ in range(60):
        optimizer.zero_grad()
        esd.loss(theta * x_BCHW, esd.target(0.3 * x_BCHW, 0.8 * x_BCHW)).backward()
        optimizer.step()
    assert theta.item() == pytest.approx(-0.2, abs=1e-8)


def test_the_loss_is_the_mean_over_all_elements():
    assert esd.loss(torch.full((2, 4, 3, 3), 3.0), torch.ones(2, 4, 3, 3)).item() == 4
    half = torch.full((1, 4, 64, 64), 300.0).half()
    assert esd.loss(half, torch.zeros_like(half)).item() == 90000  # more than float16 holds


@pytest.mark.parametrize(
    ("j", "first", "last", "steps"),
    [(0, 961, 0, 49), (1, 961, 0, 49), (2, 961, 1, 48), (3, 961, 21, 47), (49, 961, 941, 1)],
)
def test_the_levels_that_the_first_code_passes_through(j, first, last, steps):
    levels = esd.visited(j)
    assert (levels[0], levels[-1], len(levels) - 1) == (first, last, steps)


def test_the_grid_is_the_one_of_ddim_without_its_first_step():
    scheduler = DDIMScheduler(steps_offset=1, timestep_spacing="leading")
    scheduler.set_timesteps(50)
    assert esd.visited(0) == [*scheduler.timesteps[1:].tolist(), 0]


def test_the_timestep_lies_above_the_level_of_x():
    gaps = [t - esd.visited(j)[-1] for j in range(2, 50) for t in esd.timesteps(j)]
    assert (min(gaps), max(gaps)) == (39, 58)
    assert [t for j in range(50) for t in esd.timesteps(j)] == list(range(1000))
    for j in (-1, 50):
        with pytest.raises(ValueError, match=str(j)):
            esd.visited(j)
