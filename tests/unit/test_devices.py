"""Devices that are not here are refused by a sentence that names those that are."""

import pytest
import torch

from mace_studio.errors import ModelError
from mace_studio.sd import devices


@pytest.fixture
def cuda(monkeypatch):
    """A machine with two graphics cards, as PyTorch describes it."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: True)


def test_what_is_here_is_offered_and_taken():
    assert devices.available()[0] == "auto" and devices.available()[-1] == "cpu"
    for device in devices.available():
        assert torch.device(devices.checked(device)).type in ("cpu", "cuda", "mps")


def test_two_graphics_cards(cuda):
    assert devices.available()[:4] == ["auto", "cuda", "cuda:0", "cuda:1"]
    assert devices.checked("auto") == devices.checked("cuda") == "cuda" and devices.checked("cuda:1") == "cuda:1"
    with pytest.raises(ModelError, match=r"no device “cuda:9” on this machine. Use auto, cuda, cuda:0, cuda:1, cpu"):
        devices.checked("cuda:9")


@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:9"])
def test_a_build_without_cuda_is_said(device, monkeypatch):
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ModelError, match="built without CUDA"):
        devices.checked(device)


@pytest.mark.parametrize(
    "device", ["abacus", "", "cpu:3", "cuda:-1", "meta", "xpu", "cuda:x", "CUDA", "cpu cpu", "a" * 5000, "\ud800"]
)
def test_what_is_no_device_is_a_sentence(device):
    with pytest.raises(ModelError, match=r"Use auto, .*cpu|built without CUDA") as error:
        devices.checked(device)
    assert len(str(error.value)) < 400
    str(error.value).encode()


def test_mps_elsewhere(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ModelError, match="no device “mps” on this machine"):
        devices.checked("mps")
