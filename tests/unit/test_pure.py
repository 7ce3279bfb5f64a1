"""The rule of tests/unit/conftest.py holds."""

import socket

import pytest
import torch
from transformers import CLIPTextConfig, CLIPTextModel

from mace_studio.miniature.judge import Judge


@pytest.mark.parametrize(
    "build", [lambda: torch.nn.Linear(1, 1), lambda: CLIPTextModel(CLIPTextConfig()), lambda: Judge(widths=(8,))]
)
def test_no_network_is_built(build):
    with pytest.raises(pytest.fail.Exception, match="a network in tests/unit"):
        build()


def test_no_server_is_started():
    with socket.socket() as own, pytest.raises(pytest.fail.Exception, match="a server in tests/unit"):
        own.listen()
