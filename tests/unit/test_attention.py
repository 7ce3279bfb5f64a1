"""Probabilities, the masked loss and maps, with numbers that a pencil gives."""

import math

import pytest
import torch

from mace_studio.core.attention import clearest, map_size, mask, masked_loss, otsu, probabilities, resize_mask, upsample


def test_probabilities_of_one_pixel_and_two_tokens():
    # q = 1, k = (ln 3, 0), scale 1: e^(ln 3) : e^0 = 3 : 1.
    query_BQC, key_BTC = torch.ones(1, 1, 1), torch.tensor([[[math.log(3)], [0.0]]])
    assert probabilities(query_BQC, key_BTC, 1, 1.0).flatten().tolist() == pytest.approx([0.75, 0.25])
    # scale 2: 9 : 1.
    assert probabilities(query_BQC, key_BTC, 1, 2.0).flatten().tolist() == pytest.approx([0.9, 0.1])


def test_heads_lie_side_by_side_in_the_channels():
    # Two heads of one channel: the first sees keys (ln 3, 0), the second (0, ln 3).
    key_BTC = torch.tensor([[[math.log(3), 0.0], [0.0, math.log(3)]]])
    got_BHQT = probabilities(torch.ones(1, 1, 2), key_BTC, 2, 1.0)
    assert got_BHQT.shape == (1, 2, 1, 2)
    assert got_BHQT[0, 0, 0].tolist() == pytest.approx([0.75, 0.25])
    assert got_BHQT[0, 1, 0].tolist() == pytest.approx([0.25, 0.75])


def test_probabilities_of_half_precision_are_float32():
    # 300 * 300 = 90,000 is beyond float16, whose largest number is 65,504.
    large = torch.full((1, 1, 1), 300.0, dtype=torch.float16)
    got = probabilities(large, large.expand(1, 2, 1), 1, 1.0)
    assert got.dtype == torch.float32
    assert got.flatten().tolist() == [0.5, 0.5]


# Four pixels (2 x 2), three tokens, one head; the concept is token 1, with attention 3, 4, 0, 12 down the pixels.
LAYER = torch.zeros(1, 4, 3)
LAYER[0, :, 1] = torch.tensor([3.0, 4.0, 0.0, 12.0])
LAYER[0, :, 0] = 99.0


def test_loss_without_a_mask_is_the_norm_over_all_pixels():
    assert masked_loss([LAYER], None, [1]).item() == 13  # sqrt(9 + 16 + 144)
    assert masked_loss([LAYER], None, [1], squared=True).item() == 169


def test_loss_counts_only_pixels_under_the_mask():
    top = torch.tensor([[1.0, 1.0], [0.0, 0.0]])
    assert masked_loss([LAYER], top, [1]).item() == 5  # sqrt(9 + 16)
    assert masked_loss([LAYER], top, [1], squared=True).item() == 25


def test_layers_are_summed_as_norms():
    # 13 + 13 = 26, not sqrt(2 * 169).
    assert masked_loss([LAYER, LAYER], None, [1]).item() == 26
    assert masked_loss([LAYER, LAYER], None, [1], squared=True).item() == 338


def test_heads_and_positions_share_one_norm():
    # Token 1 in two heads, 3 and 4 in one pixel each: 5, not 7.
    heads = torch.tensor([[[0.0, 3.0]], [[0.0, 4.0]]])
    assert masked_loss([heads], None, [1]).item() == 5
    tokens = torch.tensor([[[3.0, 4.0]]])
    assert masked_loss([tokens], None, [0, 1]).item() == 5
    assert masked_loss([tokens], None, range(1, 2)).item() == 4


def test_a_mask_of_zeros_gives_zero_and_a_gradient_of_zeros():
    layer = LAYER.clone().requires_grad_()
    loss = masked_loss([layer], torch.zeros(2, 2), [1])
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(layer.grad, torch.zeros_like(layer))


def test_the_gradient_reaches_only_masked_pixels_of_chosen_tokens():
    layer = LAYER.clone().requires_grad_()
    masked_loss([layer], torch.tensor([[1.0, 1.0], [0.0, 0.0]]), [1]).backward()
    expected = torch.zeros(1, 4, 3)
    expected[0, :2, 1] = torch.tensor([0.6, 0.8])  # a / ||a||
    assert torch.allclose(layer.grad, expected)


@pytest.mark.parametrize(
    ("pixels", "rows", "columns", "expected"),
    [
        (64, 64, 64, (8, 8)),
        (24, 48, 32, (6, 4)),
        (24, 32, 48, (4, 6)),
        (70, 75, 50, (10, 7)),  # 75 x 50, halved three times and rounded up each time
        (1, 9, 9, (1, 1)),
    ],
)
def test_map_size_keeps_the_image_s_proportions(pixels, rows, columns, expected):
    assert map_size(pixels, rows, columns) == expected


def test_map_size_says_what_does_not_fit():
    with pytest.raises(ValueError, match="7 pixels do not make a map with the proportions 4 x 4"):
        map_size(7, 4, 4)


def test_a_mask_is_resized_row_by_row():
    # 2 rows, 4 columns, the left half on; doubled and halved it keeps its left half, and rows stay rows.
    mask_IJ = torch.tensor([[1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0]])
    larger_IJ = resize_mask(mask_IJ, 32)
    assert larger_IJ.shape == (4, 8)
    assert larger_IJ[:, :4].all()
    assert not larger_IJ[:, 4:].any()
    assert resize_mask(mask_IJ, 2).tolist() == [[True, False]]


def test_the_loss_of_a_map_that_is_not_square_is_not_transposed():
    # A 2 x 4 map: pixel 1 is row 0, column 1; a 4 x 2 reading would call it row 0, column 1 of two, that is the right.
    layer = torch.zeros(1, 8, 1)
    layer[0, 1, 0] = 5.0
    left = torch.tensor([[1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0]])
    assert masked_loss([layer], left, [0]).item() == 5
    assert masked_loss([layer], 1 - left, [0]).item() == 0
    top = torch.tensor([[1.0] * 4, [0.0] * 4])
    assert masked_loss([layer], top, [0]).item() == 5


def test_a_mask_is_cut_at_one_half():
    assert resize_mask(torch.tensor([[0.49, 0.5], [0.51, 0.0]]), 4).tolist() == [[False, True], [True, False]]
    assert resize_mask(torch.tensor([[True, False], [False, True]]), 4).tolist() == [[True, False], [False, True]]


def test_a_cell_of_a_layer_takes_the_mask_at_its_upper_left_corner():
    # 8 -> 3: cells begin at 0, 8/3 and 16/3, so rows and columns 0, 2 and 5 count; their middles would be 1, 4 and 6.
    corners_IJ, middles_IJ = torch.zeros(8, 8), torch.zeros(8, 8)
    corners_IJ[[[0], [2], [5]], [0, 2, 5]] = 1.0
    middles_IJ[[[1], [4], [6]], [1, 4, 6]] = 1.0
    assert resize_mask(corners_IJ, 9).all() and not resize_mask(middles_IJ, 9).any()
    one_IJ = torch.zeros(8, 8)
    one_IJ[2, 5] = 1.0
    assert resize_mask(one_IJ, 9).tolist() == [[False] * 3, [False, False, True], [False] * 3]


def test_a_mask_is_what_stands_out_from_the_rest():
    map_IJ = torch.tensor([[0.1, 0.1, 0.1], [0.1, 0.9, 0.8]])
    assert mask(map_IJ).tolist() == [[False, False, False], [False, True, True]]
    assert mask(map_IJ + 2.0) is None  # the same shape, but hardly more than around it
    assert mask(torch.full((2, 3), 0.2)) is None


def test_the_clearest_map_stands_out_most():
    faint_IJ = torch.tensor([[1.0, 1.1], [1.0, 1.1]])
    clear_IJ = torch.tensor([[0.1, 0.4], [0.1, 0.4]])
    clearer_IJ = torch.tensor([[0.01, 0.01], [0.05, 0.01]])
    assert clearest(torch.stack([faint_IJ, clear_IJ, clearer_IJ])) == 2
    assert clearest(torch.stack([clear_IJ, faint_IJ])) == 0
    assert clearest(torch.stack([faint_IJ, torch.ones(2, 2)])) is None
    assert clearest(torch.zeros(0, 2, 2)) is None


def test_upsampling_keeps_each_map_s_own_mean():
    maps_BIJ = torch.tensor([[[4.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]], [[2.0, 2.0], [2.0, 2.0]]])
    larger_BIJ = upsample(maps_BIJ, 5, 7)
    assert larger_BIJ.shape == (3, 5, 7)
    assert larger_BIJ.mean(dim=(1, 2)).tolist() == pytest.approx([1.0, 0.0, 2.0])
    assert larger_BIJ[0].argmax().item() == 0
    assert torch.allclose(larger_BIJ[2], torch.full((5, 7), 2.0))


def test_upsampling_by_a_broken_factor_keeps_the_mean_too():
    # 3 -> 4 columns samples at -1/8, 5/8, 11/8, 17/8: bilinear gives 0, 5/8, 5/8, 0 with mean 5/16, not 1/3.
    larger_J = upsample(torch.tensor([[[0.0, 1.0, 0.0]]]), 1, 4)[0, 0]
    assert larger_J.tolist() == pytest.approx([0, 2 / 3, 2 / 3, 0])


def test_otsu_splits_two_clusters():
    values = torch.cat([torch.linspace(0.1, 0.2, 50), torch.linspace(0.7, 0.9, 30)])
    threshold = otsu(values)
    assert 0.2 <= threshold <= 0.7
    assert (values > threshold).sum().item() == 30


def test_otsu_is_the_best_of_all_splits():
    # Values 0, 1, 5, 6: variance between classes n1 n2 (m1 - m2)^2 is 2 * 2 * 25 = 100 for the middle split;
    # 0 | 1, 5, 6 gives 1 * 3 * 16 = 48, and so does its mirror. The middle of the gap is 3.
    assert otsu(torch.tensor([0.0, 1.0, 5.0, 6.0])) == pytest.approx(3.0, abs=0.1)


def test_otsu_works_where_values_hardly_differ():
    # A spread of 1e-8 above 1: nothing to a float32, whose next number after 1 is 1 + 1.2e-7.
    values = 1 + 1e-9 * torch.tensor([0.0, 1.0, 9.0, 10.0]).double()
    assert (values > otsu(values)).tolist() == [False, False, True, True]


def test_otsu_of_equal_values_leaves_nothing_above():
    values = torch.full((3, 3), 0.4)
    assert not (values.double() > otsu(values)).any()
    assert otsu(torch.tensor([2.0])) == 2.0


def test_otsu_does_not_need_a_detached_tensor():
    assert otsu(torch.tensor([0.0, 1.0], requires_grad=True)) == pytest.approx(0.5)
