"""Scores of an erasure: harmonic means of accuracies (Eq. 8, 9), intervals, and distances between sets of images.

Accuracies are shares in 0..1 everywhere; the tables of the paper print them in percent.
"""

from __future__ import annotations

import math
from statistics import harmonic_mean

import torch
from torch import Tensor

Z = 1.959964  # of 95 %
TAILS = (0.025, 0.975)
RESAMPLES = 2000
DRAWN = 2**20  # numbers of resamples that are held together
BLOCK = 1024  # rows of a kernel matrix that are held at once


# Harmonic means


def h_o(acc_e: float, acc_s: float, acc_g: float) -> float:
    """H_o = 3 / (1 / (1 - Acc_e) + 1 / Acc_s + 1 / (1 - Acc_g)), for objects (Eq. 8).

    Args:
        acc_e: share of images of the erased class that are still seen as that class (efficacy; low is good).
        acc_s: share of images of the other classes that are seen as their own (specificity; high is good).
        acc_g: share of images of the erased class's synonyms that are still seen as that class (generality; low is
            good).

    Returns:
        A share in 0..1, high is good; 0 where one of the three has failed entirely.

    Raises:
        ValueError: an accuracy outside of 0..1.
    """
    return harmonic_mean([1 - _share("acc_e", acc_e), _share("acc_s", acc_s), 1 - _share("acc_g", acc_g)])


def h_c(acc_e: float, acc_s: float) -> float:
    """H_c = 2 / (1 / (1 - Acc_e) + 1 / Acc_s), for celebrities (Eq. 9).

    Args:
        acc_e: share of images of the erased people that are still seen as them (efficacy; low is good).
        acc_s: share of images of the other people that are seen as themselves (specificity; high is good).

    Returns:
        A share in 0..1, high is good; 0 where one of the two has failed entirely.

    Raises:
        ValueError: an accuracy outside of 0..1.
    """
    return harmonic_mean([1 - _share("acc_e", acc_e), _share("acc_s", acc_s)])


def h_a(clip_e: float, clip_s: float) -> float:
    """H_a = CLIP_s - CLIP_e, for artistic styles; high is good.

    Args:
        clip_e: CLIP score of the erased artists' images with their prompts.
        clip_s: the same of the other artists; in the same unit, which is also that of the result.
    """
    return clip_s - clip_e


# Intervals


def wilson(correct: int, count: int) -> tuple[float, float]:
    """Wilson's 95 % interval of the share of `correct` in `count`.

    Args:
        correct: how many of those counted, 0 to `count`.
        count: how many were counted, at least 1.

    Returns:
        Its lower and upper end, within 0..1 and around correct / count.

    Raises:
        ValueError: nothing was counted, or `correct` does not lie in 0..count.

    Source: Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", JASA 22, 1927.
    """
    if count < 1 or not 0 <= correct <= count:
        raise ValueError(f"{correct} correct of {count} is no share")
    # The shares p with (correct / count - p)^2 <= Z^2 p (1 - p) / count, solved for p.
    spread = Z * math.sqrt(correct * (count - correct) / count + Z * Z / 4)
    low = (correct + Z * Z / 2 - spread) / (count + Z * Z)
    high = (correct + Z * Z / 2 + spread) / (count + Z * Z)
    return low, (1.0 if correct == count else high)  # 1 but for rounding


def bootstrap(values_N: Tensor, generator: torch.Generator) -> tuple[float, float]:
    """Percentile bootstrap: a 95 % interval of the mean of `values_N`.

    Args:
        values_N: one number per independent sample, any unit; N is at least 1.
        generator: draws the resamples, on the CPU; the same seed gives the same interval.

    Returns:
        The 2.5 % and 97.5 % quantiles of the means of `RESAMPLES` resamples, in the unit of the values.

    Raises:
        ValueError: not a list of at least one number, or a value that is not finite.

    Source: Efron, "Bootstrap Methods: Another Look at the Jackknife", Annals of Statistics 7, 1979.
    """
    if values_N.dim() != 1 or len(values_N) == 0:
        raise ValueError(f"values have shape {tuple(values_N.shape)}; it must be (N,) with N of at least 1")
    values_N = _finite("values", values_N)
    count = len(values_N)
    some = max(1, DRAWN // count)
    means = [
        values_N[torch.randint(count, (min(some, RESAMPLES - done), count), generator=generator)].mean(dim=1)
        for done in range(0, RESAMPLES, some)
    ]
    low, high = (torch.cat(means).quantile(tail).item() for tail in TAILS)
    return low, high


# Distances


def kid(first_ND: Tensor, second_MD: Tensor) -> float:
    """Kernel inception distance: the unbiased squared maximum mean discrepancy with the kernel (x.y / D + 1)^3.

    Args:
        first_ND: features of one set of images, D numbers each; N is at least 2.
        second_MD: features of the other set by the same network; M is at least 2.

    Returns:
        About 0 for sets alike, whatever their sizes; it may be slightly negative, since it is unbiased. Not
        multiplied by 1000.

    Raises:
        ValueError: shapes that do not go together, fewer than 2 images in a set, or a feature that is not finite.

    Source: Bińkowski et al., "Demystifying MMD GANs", ICLR 2018.
    """
    first_ND, second_MD = _features(first_ND, second_MD)
    across = _kernel_sum(first_ND, second_MD) / (len(first_ND) * len(second_MD))
    return _mean_of_pairs(first_ND) + _mean_of_pairs(second_MD) - 2 * across


def fid(first_ND: Tensor, second_MD: Tensor) -> float:
    """Fréchet inception distance: |m - m'|^2 + tr(C + C' - 2 (C C')^(1/2)) of two normal distributions.

    It is biased: smaller sets give larger values, so only sets of the same sizes can be compared.

    Args:
        first_ND: features of one set of images, D numbers each; N is at least 2.
        second_MD: features of the other set by the same network; M is at least 2.

    Returns:
        0 or more, in squared units of the features.

    Raises:
        ValueError: shapes that do not go together, fewer than 2 images in a set, or a feature that is not finite.

    Source: Heusel et al., "GANs Trained by a Two Time-Scale Update Rule ...", NeurIPS 2017.
    """
    first_ND, second_MD = _features(first_ND, second_MD)
    shift_D = first_ND.mean(dim=0) - second_MD.mean(dim=0)
    factor_RD, other_RD = _covariance_factor(first_ND), _covariance_factor(second_MD)
    # With C = A^T A and C' = B^T B the trace of (C C')^(1/2) is the sum of the singular values of A B^T. That needs no
    # root of a covariance, whose smallest eigenvalues are rounding errors where there are fewer images than features.
    overlap = torch.linalg.matrix_norm(factor_RD @ other_RD.T, ord="nuc")
    distance = shift_D.square().sum() + factor_RD.square().sum() + other_RD.square().sum() - 2 * overlap
    return max(0.0, distance.item())  # below 0 only by rounding


def _covariance_factor(features_ND: Tensor) -> Tensor:
    """A with A^T A = C, the unbiased covariance; min(N, D) rows."""
    centred_ND = features_ND - features_ND.mean(dim=0)
    return torch.linalg.qr(centred_ND, mode="r").R / math.sqrt(len(features_ND) - 1)


def _mean_of_pairs(features_ND: Tensor) -> float:
    """Mean of the kernel over pairs of different rows."""
    count = len(features_ND)
    with_itself = _kernel(features_ND.square().sum(dim=1), features_ND.shape[1]).sum().item()
    return (_kernel_sum(features_ND, features_ND) - with_itself) / (count * (count - 1))


def _kernel_sum(first_ND: Tensor, second_MD: Tensor) -> float:
    """Sum of the kernel over every pair of a row of one and a row of the other, a block of rows at a time."""
    width = first_ND.shape[1]
    return sum(_kernel(rows_BD @ second_MD.T, width).sum().item() for rows_BD in first_ND.split(BLOCK))


def _kernel(products: Tensor, width: int) -> Tensor:
    return (products / width + 1) ** 3


# What is refused


def _share(name: str, value: float) -> float:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} is {value}; a share lies between 0 and 1, and percent must be divided by 100")
    return value


def _features(first_ND: Tensor, second_MD: Tensor) -> tuple[Tensor, Tensor]:
    """Both sets in float64 on the CPU, or a ValueError."""
    shapes = f"{tuple(first_ND.shape)} and {tuple(second_MD.shape)}"
    if first_ND.dim() != 2 or second_MD.dim() != 2 or first_ND.shape[1:] != second_MD.shape[1:]:
        raise ValueError(f"features have shapes {shapes}; they must be (N, D) and (M, D)")
    if min(len(first_ND), len(second_MD)) < 2 or first_ND.shape[1] < 1:
        raise ValueError(f"features have shapes {shapes}; at least 2 images with 1 feature are needed in each")
    return _finite("features", first_ND), _finite("features", second_MD)


def _finite(name: str, values: Tensor) -> Tensor:
    """The values in float64 on the CPU, or a ValueError."""
    values = values.detach().double().cpu()
    bad = int((~values.isfinite()).sum())
    if bad:
        raise ValueError(f"{bad} of {values.numel()} {name} are not finite")
    return values
