"""Harmonic means, intervals and distances, with numbers that can be derived by hand."""

import math

import pytest
import torch

from mace_studio.core import scores
from mace_studio.core.scores import bootstrap, fid, h_a, h_c, h_o, kid, wilson


def column(*values: float) -> torch.Tensor:
    """Features of one number each."""
    return torch.tensor(values).double()[:, None]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_harmonic_means_by_hand():
    # What counts is .8, .4 and .4: 3 / (1.25 + 2.5 + 2.5) and 2 / (1.25 + 2.5).
    assert h_o(0.2, 0.4, 0.6) == pytest.approx(0.48)
    assert h_c(0.2, 0.4) == pytest.approx(8 / 15)
    assert h_o(0.5, 0.5, 0.5) == h_c(0.5, 0.5) == 0.5
    assert h_o(0, 1, 0) == h_c(0, 1) == 1


def test_one_thing_that_failed_entirely_is_a_score_of_0():
    assert h_o(1, 0.9, 0.1) == h_o(0.1, 0, 0.1) == h_o(0.1, 0.9, 1) == h_o(1, 0, 1) == 0
    assert h_c(1, 0.9) == h_c(0.1, 0) == 0
    assert h_c(0.1, 5e-324) == 0  # 1 / Acc_s is infinite


@pytest.mark.parametrize("bad", [-0.01, 1.01, 84.5, math.nan, math.inf])
def test_an_accuracy_that_is_no_share_is_refused_by_name(bad):
    for arguments, name in (((bad, 1, 0), "acc_e"), ((0, bad, 0), "acc_s"), ((0, 1, bad), "acc_g")):
        with pytest.raises(ValueError, match=f"{name} is {bad}; a share lies between 0 and 1"):
            h_o(*arguments)
    for arguments, name in (((bad, 1), "acc_e"), ((0, bad), "acc_s")):
        with pytest.raises(ValueError, match=f"{name} is {bad}"):
            h_c(*arguments)


def test_h_a_is_what_the_kept_artists_are_ahead():
    assert h_a(clip_e=22.5, clip_s=28.75) == 6.25
    assert h_a(clip_e=30, clip_s=28) == -2


def test_wilson_by_hand():
    # z^2 = 3.84146. 8 of 10: (8 + 1.92073 -+ z sqrt(1.6 + .960365)) / 13.84146, where z times the root is 3.13615.
    assert wilson(8, 10) == pytest.approx((0.49016, 0.94332), abs=2e-5)
    # None of 10: from 0 to z^2 / (n + z^2); all of 10: the mirror image.
    assert wilson(0, 10) == pytest.approx((0, 3.84146 / 13.84146), abs=1e-6)
    assert wilson(10, 10) == pytest.approx((10 / 13.84146, 1), abs=1e-6)
    assert wilson(0, 1)[0] == 0
    assert wilson(7, 7)[1] == 1


@pytest.mark.parametrize(("correct", "count"), [(0, 0), (3, 2), (-1, 5), (0, -1)])
def test_counts_that_are_no_share_are_refused(correct, count):
    with pytest.raises(ValueError, match=f"{correct} correct of {count} is no share"):
        wilson(correct, count)


def test_the_bootstrap_of_0_and_1():
    # A resample of {0, 1} has the mean 0 or 1 in a quarter of all cases each: more than 2.5 %.
    assert bootstrap(torch.tensor([0.0, 1.0]), seeded()) == (0, 1)


def test_the_bootstrap_of_many_values_is_about_two_standard_errors_wide():
    # 90 zeros and ones with the mean .3 have the standard error sqrt(.21 / 90) = .0483, of which 1.96 are .0947.
    low, high = bootstrap(torch.tensor([1.0] * 27 + [0.0] * 63), seeded())
    assert (low, high) == pytest.approx((0.3 - 0.0947, 0.3 + 0.0947), abs=0.012)


def test_the_bootstrap_follows_its_generator():
    values = torch.rand(7, generator=seeded())
    assert bootstrap(values, seeded(1)) == bootstrap(values, seeded(1)) != bootstrap(values, seeded(2))


def test_the_bootstrap_of_one_value_or_of_equal_values_is_a_point():
    assert bootstrap(torch.tensor([3]), seeded()) == (3, 3)
    assert bootstrap(torch.full((9,), 0.25), seeded()) == (0.25, 0.25)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (torch.zeros(0), r"values have shape \(0,\)"),
        (torch.zeros(2, 3), r"values have shape \(2, 3\)"),
        (torch.tensor(1.0), r"values have shape \(\)"),
        (torch.tensor([1.0, math.nan, math.inf]), "2 of 3 values are not finite"),
    ],
)
def test_values_without_a_mean_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        bootstrap(values, seeded())


def test_kid_by_hand_with_one_feature():
    # (xy + 1)^3: 1 for the pair (0, 1), 27 for (1, 2), and 1, 1, 8, 27 across.
    assert kid(column(0, 1), column(1, 2)) == pytest.approx(1 + 27 - 2 * 37 / 4)


def test_kid_by_hand_with_two_features():
    # (x.y / 2 + 1)^3: 1 for the first pair, 8 for the second, and 8, 8, 1, 8 across. Unbiased, so it may be negative.
    first, second = torch.tensor([[1, 1], [1, -1]]), torch.tensor([[1, 1], [2, 0]])
    assert kid(first, second) == pytest.approx(1 + 8 - 2 * 25 / 4) == -3.5


def test_kid_by_hand_with_sets_of_different_sizes():
    # 0, 0, 0 is at the kernel value 1 to everything; the pair (1, 3) has 4^3.
    assert kid(column(0, 0, 0), column(1, 3)) == pytest.approx(1 + 64 - 2)


def test_kid_does_not_depend_on_the_size_of_its_blocks(monkeypatch):
    first, second = torch.rand(7, 3, generator=seeded()), torch.rand(5, 3, generator=seeded(1))
    whole = kid(first, second)
    monkeypatch.setattr(scores, "BLOCK", 2)
    assert kid(first, second) == pytest.approx(whole, abs=1e-12)


def test_fid_by_hand_with_one_feature():
    # Means 1 and 5, variances 2 and 8: 16 + (sqrt 8 - sqrt 2)^2.
    assert fid(column(0, 2), column(3, 7)) == pytest.approx(18)


def test_fid_by_hand_with_two_features():
    # Means 0; covariances diag(2/3, 8/3) and diag(8/3, 2/3): 2 (sqrt(8/3) - sqrt(2/3))^2.
    first = torch.tensor([[1, 0], [-1, 0], [0, 2], [0, -2]])
    assert fid(first, first.flip(1)) == pytest.approx(4 / 3)


def test_fid_by_hand_with_covariances_that_do_not_commute():
    # Two points each, so both covariances have rank 1: 2 u u^T with u = (1, 0), and 8 v v^T with v = (.6, .8).
    # The trace of the root of their product is sqrt(16) |u.v| = 2.4.
    first, second = torch.tensor([[1, 0], [-1, 0]]), torch.tensor([[1.2, 1.6], [-1.2, -1.6]]).double()
    assert fid(first, second) == pytest.approx(2 + 8 - 2 * 2.4)


@pytest.mark.parametrize("distance", [kid, fid])
@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (torch.zeros(4, 3), torch.zeros(4, 2), r"\(4, 3\) and \(4, 2\); they must be"),
        (torch.zeros(4), torch.zeros(4), r"\(4,\) and \(4,\); they must be"),
        (torch.zeros(4, 3, 2), torch.zeros(4, 3, 2), "they must be"),
        (torch.zeros(1, 3), torch.zeros(4, 3), r"\(1, 3\) and \(4, 3\); at least 2 images"),
        (torch.zeros(4, 3), torch.zeros(1, 3), r"\(4, 3\) and \(1, 3\); at least 2 images"),
        (torch.zeros(4, 0), torch.zeros(4, 0), "with 1 feature"),
        (torch.zeros(4, 3), torch.tensor([[0, math.nan, 1], [math.inf, 1, 1]]), "2 of 6 features"),
    ],
)
def test_features_that_cannot_be_compared_are_refused(distance, first, second, message):
    with pytest.raises(ValueError, match=message):
        distance(first, second)
