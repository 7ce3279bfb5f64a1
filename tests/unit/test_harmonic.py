"""Harmonic means of a report: how they are named, written and read."""

from dataclasses import asdict

import pytest

from mace_studio.evaluation.report import Harmonic, harmonic_from

MEANS = (Harmonic("H_o", "top-1", 0.931), Harmonic("H_o", "mean probability", 0.875))


def test_they_are_read_as_they_were_written():
    assert harmonic_from([asdict(mean) for mean in MEANS]) == MEANS
    assert [mean.name for mean in MEANS] == ["H_o, top-1", "H_o, mean probability"]


def test_those_of_version_0_1_are_read():
    assert harmonic_from({"H_o, top-1": 0.931, "H_o, mean probability": 0.875}) == MEANS
    assert harmonic_from({}) == harmonic_from([]) == ()


@pytest.mark.parametrize("data", [{"H_o": 0.5}, {"H_o, top-1": "much"}, [{"metric": "H_o"}], ["H_o"], 3, None])
def test_anything_else_is_an_error(data):
    with pytest.raises((AttributeError, KeyError, TypeError, ValueError)):
        harmonic_from(data)
