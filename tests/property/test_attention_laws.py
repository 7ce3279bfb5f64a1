"""Laws of attention probabilities, of the masked loss and of maps that hold for any numbers."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from mace_studio.core.attention import map_size, masked_loss, otsu, probabilities, resize_mask, upsample

seeds = st.integers(0, 2**31)
small = st.integers(1, 4)


def uniform(seed: int, *shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@given(seeds, small, st.integers(1, 9), st.integers(1, 7), small, small)
def test_probabilities_are_those_of_torch_s_own_attention(seed, batch, pixels, tokens, heads, width):
    query = 4 * uniform(seed, batch, pixels, heads * width) - 2
    key = 4 * uniform(seed + 1, batch, tokens, heads * width) - 2
    got_BHQT = probabilities(query, key, heads, width**-0.5)
    assert got_BHQT.shape == (batch, heads, pixels, tokens)
    assert torch.allclose(got_BHQT.sum(-1), torch.ones(batch, heads, pixels), atol=1e-5)
    # With identity matrices for values, attention returns its probabilities.
    split = [x.unflatten(-1, (heads, width)).transpose(1, 2) for x in (query, key)]
    eye = torch.eye(tokens).expand(batch, heads, tokens, tokens)
    assert torch.allclose(got_BHQT, functional.scaled_dot_product_attention(*split, eye), atol=1e-5)


@given(seeds, small, st.booleans(), st.booleans())
def test_samples_of_a_batch_lose_what_they_lose_alone(seed, batch, squared, masked):
    # Layers of 4 x 2 and 8 x 4 pixels, with a mask and positions of each sample's own.
    layers = [uniform(seed + i, batch, 2, pixels, 5).requires_grad_() for i, pixels in enumerate((8, 32))]
    masks = [(uniform(seed + 9 + i, 16, 8) > 0.5).float() if masked else None for i in range(batch)]
    positions = [[i % 5, 4] for i in range(batch)]

    def loss(layers, i):
        return masked_loss([layer[i] for layer in layers], masks[i], positions[i], squared)

    together = torch.stack([loss(layers, i) for i in range(batch)])
    gradients = torch.autograd.grad(together.sum(), layers)
    for i in range(batch):
        alone = [layer.detach()[i : i + 1].clone().requires_grad_() for layer in layers]
        lost = loss(alone, 0) if batch == 1 else masked_loss([a[0] for a in alone], masks[i], positions[i], squared)
        assert torch.equal(lost, together[i])
        for one, all_of_them in zip(torch.autograd.grad(lost, alone), gradients, strict=True):
            assert torch.equal(one[0], all_of_them[i])


@given(seeds, st.floats(0.01, 10), st.booleans())
def test_the_loss_is_a_norm(seed, factor, squared):
    layer, mask = uniform(seed, 2, 12, 3), (uniform(seed + 1, 8, 6) > 0.4).float()
    lost = masked_loss([layer], mask, [0, 2], squared)
    power = 2 if squared else 1
    assert masked_loss([factor * layer], mask, [0, 2], squared).item() == pytest.approx(
        factor**power * lost.item(), rel=1e-4
    )
    assert lost >= 0
    wider = masked_loss([layer], None, [0, 1, 2], squared)
    assert wider >= lost


@given(seeds, st.booleans())
def test_a_mask_of_zeros_is_no_loss_and_a_finite_gradient_of_zeros(seed, squared):
    layer = uniform(seed, 2, 6, 4).requires_grad_()
    loss = masked_loss([layer, layer], torch.zeros(6, 4), [0, 3], squared)
    (gradient,) = torch.autograd.grad(loss, [layer])
    assert loss.item() == 0
    assert torch.equal(gradient, torch.zeros_like(gradient))


@given(seeds, st.booleans())
def test_a_mask_of_ones_is_no_mask(seed, squared):
    layer = uniform(seed, 2, 6, 4)
    whole = masked_loss([layer], None, [1, 2], squared)
    assert torch.equal(masked_loss([layer], torch.ones(6, 4), [1, 2], squared), whole)


@given(st.integers(4, 20), st.integers(4, 20), st.integers(0, 3))
def test_map_size_finds_what_the_unet_made(rows, columns, halvings):
    # A UNet halves rows and columns alike and rounds up; sizes of latents are multiples of eight.
    rows, columns = 8 * rows, 8 * columns
    height, width = -(-rows // 2**halvings), -(-columns // 2**halvings)
    assert map_size(height * width, rows, columns) == (height, width)


@given(seeds, st.integers(1, 5), st.integers(1, 5), st.integers(1, 4))
def test_a_mask_blown_up_by_a_whole_factor_repeats_its_pixels(seed, rows, columns, factor):
    mask = uniform(seed, rows, columns) > 0.5
    larger = mask.repeat_interleave(factor, 0).repeat_interleave(factor, 1)
    assert torch.equal(resize_mask(mask.float(), rows * columns * factor**2), larger)
    assert torch.equal(resize_mask(larger.float(), rows * columns), mask)


@given(seeds, small, st.integers(1, 8), st.integers(1, 8), st.integers(1, 4))
def test_upsampling_keeps_the_mean(seed, batch, rows, columns, factor):
    maps = uniform(seed, batch, rows, columns)
    larger = upsample(maps, factor * rows, factor * columns)
    assert larger.shape == (batch, factor * rows, factor * columns)
    assert torch.allclose(larger.mean(dim=(1, 2)), maps.mean(dim=(1, 2)), atol=1e-5)
    assert (larger >= 0).all()


@given(seeds, st.integers(1, 60), st.integers(1, 60), st.floats(-100, 100), st.floats(0.1, 100))
def test_otsu_separates_two_clusters_wherever_they_lie(seed, low, high, origin, gap):
    # Two clusters whose spread is a tenth of what lies between them.
    below = origin + 0.1 * gap * uniform(seed, low).double()
    above = origin + 1.1 * gap + 0.1 * gap * uniform(seed + 1, high).double()
    threshold = otsu(torch.cat([above, below]))
    assert below.max() < threshold < above.min()


@given(seeds, st.integers(2, 60))
def test_otsu_always_leaves_something_on_both_sides(seed, number):
    values = uniform(seed, number).double()
    above = values > otsu(values)
    assert 0 < above.sum() < number
