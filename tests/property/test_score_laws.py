"""Laws of harmonic means, of intervals and of distances between sets of features that hold for any numbers."""

import math
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mace_studio.core.scores import Z, bootstrap, fid, h_c, h_o, kid, wilson

seeds = st.integers(0, 2**31)
shares = st.floats(0, 1)
widths = st.integers(1, 5)
sizes = st.integers(2, 9)  # fewer images than features, and more


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def rotation(seed: int, width: int) -> Tensor:
    return torch.linalg.qr(normal(seed, width, width)).Q


def polynomial(first_ND: Tensor, second_MD: Tensor) -> Tensor:
    return (first_ND @ second_MD.T / first_ND.shape[1] + 1) ** 3


# Harmonic means


@given(shares, shares, shares)
def test_a_harmonic_mean_lies_between_the_worst_and_three_times_the_worst(erased, kept, synonyms):
    parts = (1 - erased, kept, 1 - synonyms)
    assert min(parts) * (1 - 1e-12) <= h_o(erased, kept, synonyms) <= min(3 * min(parts), max(parts)) * (1 + 1e-12)
    parts = parts[:2]
    assert min(parts) * (1 - 1e-12) <= h_c(erased, kept) <= min(2 * min(parts), max(parts)) * (1 + 1e-12)


@given(shares, shares, shares, shares)
def test_no_score_rises_when_one_part_gets_worse(erased, kept, synonyms, other):
    better, worse = sorted((erased, other))
    assert h_o(worse, kept, synonyms) <= h_o(better, kept, synonyms)
    assert h_o(erased, kept, max(synonyms, other)) <= h_o(erased, kept, synonyms)
    assert h_o(erased, min(kept, other), synonyms) <= h_o(erased, kept, synonyms)
    assert h_c(worse, kept) <= h_c(better, kept)
    assert h_c(erased, min(kept, other)) <= h_c(erased, kept)


@given(shares, shares, shares)
def test_erased_and_synonyms_weigh_alike(erased, kept, synonyms):
    assert h_o(erased, kept, synonyms) == pytest.approx(h_o(synonyms, kept, erased), rel=1e-12)


@given(st.integers(0, 1000), st.integers(0, 1000))
def test_h_c_is_h_o_without_a_third_part(erased, kept):
    # 2/H_c = 1/a + 1/b and 3/H_o = 1/a + 1/b + 1/c.
    a, b, c = 1 - erased / 1001, (kept + 1) / 1001, 0.5
    assert 3 / h_o(1 - a, b, 1 - c) == pytest.approx(2 / h_c(1 - a, b) + 1 / c)


# Intervals


@given(st.integers(1, 10**6), shares)
def test_wilson_s_ends_are_as_far_away_as_chance_goes(count, share):
    correct = round(share * count)
    low, high = wilson(correct, count)
    assert 0 <= low <= correct / count <= high <= 1
    for end in (low, high):
        reach = Z * math.sqrt(end * (1 - end) / count)
        # At none and at all one end is the share itself, which no chance moves.
        assert abs(correct / count - end) == pytest.approx(reach, rel=1e-6, abs=1e-9)
    assert wilson(count - correct, count) == pytest.approx((1 - high, 1 - low), abs=1e-12)


@given(st.integers(0, 50), st.integers(1, 50), st.integers(2, 9))
def test_more_of_the_same_narrows_wilson_s_interval(correct, wrong, times):
    low, high = wilson(correct, correct + wrong)
    lower, higher = wilson(times * correct, times * (correct + wrong))
    assert higher - lower < high - low


@settings(max_examples=8)
@given(seeds, st.integers(1, 40), st.floats(0.01, 100), st.floats(-100, 100))
def test_the_bootstrap_goes_along_with_a_change_of_unit(seed, number, factor, shift):
    values = normal(seed, number)
    low, high = bootstrap(values, torch.Generator().manual_seed(seed))
    assert values.min() - 1e-12 <= low <= high <= values.max() + 1e-12
    moved = bootstrap(factor * values + shift, torch.Generator().manual_seed(seed))
    assert moved == pytest.approx((factor * low + shift, factor * high + shift), rel=1e-9, abs=1e-9)


# Distances


@given(seeds, sizes, sizes, widths)
def test_kid_is_the_mean_over_pairs_of_different_images(seed, first_size, second_size, width):
    first, second = normal(seed, first_size, width), normal(seed + 1, second_size, width)
    within = [
        sum(polynomial(x[i : i + 1], x[j : j + 1]).item() for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
        for x, n in ((first, first_size), (second, second_size))
    ]
    assert kid(first, second) == pytest.approx(sum(within) - 2 * polynomial(first, second).mean().item(), abs=1e-9)


@settings(max_examples=10)
@given(seeds, st.integers(1, 3), st.integers(1, 3), widths)
def test_kid_is_unbiased(seed, first_size, second_size, width):
    # All samples of two from two small populations, with replacement: their mean is the discrepancy of the populations.
    first, second = normal(seed, first_size, width), normal(seed + 1, second_size, width)
    samples = [[x[list(pair)] for pair in product(range(len(x)), repeat=2)] for x in (first, second)]
    drawn = [kid(one, other) for one, other in product(*samples)]
    exact = polynomial(first, first).mean() + polynomial(second, second).mean() - 2 * polynomial(first, second).mean()
    assert sum(drawn) / len(drawn) == pytest.approx(exact.item(), abs=1e-9, rel=1e-9)


@given(seeds, sizes, sizes, widths)
def test_distances_have_no_direction_no_order_and_no_axes(seed, first_size, second_size, width):
    first, second = normal(seed, first_size, width), 2 * normal(seed + 1, second_size, width) + 1
    turn = rotation(seed + 2, width)
    for distance in (kid, fid):
        expected = pytest.approx(distance(first, second), rel=1e-8, abs=1e-8)
        assert distance(second, first) == expected
        assert distance(first.flip(0), second) == expected
        assert distance(first @ turn, second @ turn) == expected


@given(seeds, sizes, sizes, widths)
def test_fid_by_its_definition(seed, first_size, second_size, width):
    first, second = normal(seed, first_size, width), 3 * normal(seed + 1, second_size, width) - 1
    covariances = [torch.cov(x.T).reshape(width, width) for x in (first, second)]
    roots = torch.linalg.eigvals(covariances[0] @ covariances[1]).real.clamp(min=0).sqrt()
    shift = (first.mean(0) - second.mean(0)).square().sum()
    expected = shift + covariances[0].trace() + covariances[1].trace() - 2 * roots.sum()
    # The root of an eigenvalue that should be 0 is about 1e-8 in the definition.
    assert fid(first, second) == pytest.approx(expected.item(), rel=1e-6, abs=1e-6)


@given(seeds, sizes, widths, st.floats(0, 10))
def test_fid_of_a_set_that_was_moved_or_stretched(seed, size, width, factor):
    features, shift = normal(seed, size, width), normal(seed + 1, width)
    assert fid(features, features) == pytest.approx(0, abs=1e-9)
    assert fid(features, features + shift) == pytest.approx(shift.square().sum().item(), rel=1e-9)
    centred = features - features.mean(0)
    spread = centred.square().sum().item() / (size - 1)
    assert fid(centred, factor * centred) == pytest.approx((factor - 1) ** 2 * spread, rel=1e-9, abs=1e-9)
    assert fid(factor * features, factor * (features + shift)) == pytest.approx(
        factor**2 * shift.square().sum().item(), rel=1e-9, abs=1e-9
    )
