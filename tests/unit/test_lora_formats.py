"""The pure conversions. Expected numbers are those of matrices whose singular values are known."""

import pytest
import torch

from mace_studio.errors import NotFinite
from mace_studio.exports import lora_formats

KEY = "up_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.weight"
NAME = "lora_unet_up_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"


def with_values(*values, rows=6, columns=5):
    """A matrix with these singular values, between random orthonormal bases."""
    generator = torch.Generator().manual_seed(0)
    left = torch.linalg.qr(torch.randn(rows, len(values), generator=generator, dtype=torch.float64))[0]
    right = torch.linalg.qr(torch.randn(columns, len(values), generator=generator, dtype=torch.float64))[0]
    return left * torch.tensor(values, dtype=torch.float64) @ right.T


def test_a_layer_is_named_as_lora_files_name_it():
    assert lora_formats.kohya_name(KEY) == NAME


def test_a_difference_is_new_minus_old_in_float32():
    new, old = {KEY: torch.tensor([[3.0]], dtype=torch.float16)}, {KEY: torch.tensor([[1.5]], dtype=torch.bfloat16)}
    delta_PD = lora_formats.differences(new, old)[KEY]
    assert delta_PD.dtype == torch.float32 and delta_PD.item() == 1.5


def test_a_full_file_holds_each_difference_under_diff():
    tensors = lora_formats.full({KEY: torch.full((2, 3), 0.5)})
    assert list(tensors) == [f"{NAME}.diff"]
    assert torch.equal(tensors[f"{NAME}.diff"], torch.full((2, 3), 0.5, dtype=torch.float16))


def test_biases_and_norms_have_keys_of_their_own():
    deltas = {
        "conv_in.weight": torch.ones(4, 2, 3, 3), "conv_in.bias": torch.ones(4),
        "mid_block.norm1.weight": torch.ones(4), "mid_block.norm1.bias": torch.ones(4),
    }  # fmt: skip
    names = ["lora_unet_conv_in.diff", "lora_unet_conv_in.diff_b"]
    names += ["lora_unet_mid_block_norm1.w_norm", "lora_unet_mid_block_norm1.b_norm"]
    assert list(lora_formats.full(deltas)) == names
    assert [key for key, delta in deltas.items() if lora_formats.fits(delta)] == ["conv_in.weight"]


def test_a_convolution_is_one_of_its_own_kernel_and_one_of_a_single_pixel():
    matrix_PD = with_values(2.0, 1.0, rows=6, columns=2 * 9)
    layer = lora_formats.low_rank(matrix_PD.view(6, 2, 3, 3), 2)
    assert lora_formats.rank_for(matrix_PD.view(6, 2, 3, 3), 0.81) == 2  # the first value has 4 of 5 squares
    assert lora_formats.rank_for(matrix_PD.view(6, 2, 3, 3), 0.79) == 1
    tensors = lora_formats.lora({"conv_in.weight": layer})
    up, down = tensors["lora_unet_conv_in.lora_up.weight"], tensors["lora_unet_conv_in.lora_down.weight"]
    assert up.shape == (6, 2, 1, 1) and down.shape == (2, 2, 3, 3)
    image = torch.randn(1, 2, 5, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    twice = torch.nn.functional.conv2d(torch.nn.functional.conv2d(image, down.double()), up.double())
    torch.testing.assert_close(twice, torch.nn.functional.conv2d(image, matrix_PD.view(6, 2, 3, 3)), atol=1e-2, rtol=0)


@pytest.mark.parametrize("rank, left", [(1, (3**2 + 2**2 + 1) ** 0.5), (2, 5**0.5), (3, 1.0), (4, 0.0)])
def test_what_a_rank_leaves_out_is_the_values_beyond_it(rank, left):
    """Eckart and Young: the distance to the best matrix of rank r is the norm of the singular values after the r-th."""
    layer = lora_formats.low_rank(with_values(4.0, 3.0, 2.0, 1.0), rank)
    assert layer.rank == rank
    assert layer.residual == pytest.approx(left / 30**0.5, abs=1e-3)


def test_the_product_is_the_difference_to_float16s_accuracy():
    delta_PD = with_values(4.0, 3.0, 2.0, 1.0)
    layer = lora_formats.low_rank(delta_PD, 5)
    torch.testing.assert_close(layer.up_PR.double() @ layer.down_RD.double(), delta_PD, atol=4e-3, rtol=0)


def test_a_rank_beyond_the_layers_own_is_filled_with_zeros():
    layer = lora_formats.low_rank(with_values(4.0, 3.0, 2.0), 9)
    assert layer.up_PR.shape == (6, 9) and layer.down_RD.shape == (9, 5)
    assert not layer.up_PR[:, 5:].any() and not layer.down_RD[5:].any()
    assert layer.residual < 1e-3


def test_a_layer_that_does_not_change_stays_unchanged():
    layer = lora_formats.low_rank(torch.zeros(6, 5), 2)
    assert not (layer.up_PR @ layer.down_RD).any() and layer.residual == 0.0
    assert lora_formats.rank_for(torch.zeros(6, 5), 0.9) == 1


@pytest.mark.parametrize("energy, rank", [(0.1, 1), (0.53, 1), (0.54, 2), (0.83, 2), (0.84, 3), (0.97, 4), (1.0, 4)])
def test_the_rank_is_the_smallest_that_keeps_the_energy(energy, rank):
    """Squares 16, 9, 4, 1 of 30 in all: 16 / 30 = 0.533, 25 / 30 = 0.833, 29 / 30 = 0.967."""
    assert lora_formats.rank_for(with_values(4.0, 3.0, 2.0, 1.0, rows=4, columns=4), energy) == rank


def test_a_lora_file_adds_the_very_product_at_full_strength():
    """The rule of every loader: strength * alpha / rank * up @ down."""
    layer = lora_formats.low_rank(with_values(4.0, 3.0, 2.0, 1.0), 2)
    tensors = lora_formats.lora({KEY: layer})
    assert set(tensors) == {f"{NAME}.lora_up.weight", f"{NAME}.lora_down.weight", f"{NAME}.alpha"}
    down_RD = tensors[f"{NAME}.lora_down.weight"]
    assert tensors[f"{NAME}.alpha"].item() / down_RD.shape[0] == 1.0
    assert torch.equal(tensors[f"{NAME}.lora_up.weight"], layer.up_PR) and torch.equal(down_RD, layer.down_RD)


def test_ranks_that_no_loader_could_scale_are_refused():
    with pytest.raises(ValueError, match="at least 1, not 0"):
        lora_formats.low_rank(with_values(1.0), 0)
    layers = {
        "a.weight": lora_formats.low_rank(with_values(1.0), 1),
        "b.weight": lora_formats.low_rank(with_values(1.0), 2),
    }
    with pytest.raises(ValueError, match=r"the same rank, not \[1, 2\]"):
        lora_formats.lora(layers)


def test_what_float16_has_no_room_for_is_not_written():
    large = {"attn2.to_k.weight": torch.full((4, 4), 1e6)}
    with pytest.raises(NotFinite, match="weight left the range of float16"):
        lora_formats.full(large)
    with pytest.raises(NotFinite, match="The LoRA left the range of float16"):
        lora_formats.low_rank(torch.full((4, 4), 1e12), 1)
    base = {"attn2.to_k.weight": torch.zeros(4, 4)}
    with pytest.raises(NotFinite, match="left the range of float32"):
        lora_formats.differences({"attn2.to_k.weight": torch.full((4, 4), 1e300, dtype=torch.float64)}, base)
