"""Tests of this folder are pure: none builds a network or waits for others to connect, as a server does."""

import socket
import sys

import pytest


@pytest.fixture(autouse=True)
def pure(monkeypatch):
    """Refuse both; what needs them belongs into tests/model or tests/e2e."""

    def refuse(what):
        def refused(*_, **__):
            pytest.fail(f"{what} in tests/unit: such a test belongs into tests/model")

        return refused

    monkeypatch.setattr(socket.socket, "listen", refuse("a server"))
    if (torch := sys.modules.get("torch")) is not None:  # a file that needs none must not wait for its import
        monkeypatch.setattr(torch.nn.Module, "__init__", refuse("a network"))
