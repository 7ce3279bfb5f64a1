"""Whose fault it is where a request fails, on an app of three routes in the place of Gradio's."""

import logging

import httpx
import pytest
from fastapi import FastAPI
from gradio.data_classes import PredictBody
from gradio.route_utils import get_fn
from starlette.testclient import TestClient

from mace_studio.ui import server
from mace_studio.ui.sessions import machine_of


@pytest.fixture
def client():
    app = FastAPI(exception_handlers=server.HANDLERS)

    @app.get("/clients")
    def _clients():
        get_fn(type("Blocks", (), {"fns": {}}), None, PredictBody(data=[], fn_index=99))

    @app.get("/own")
    def _own():
        class Headers:
            def get(self, *_):
                raise KeyError("/srv/secret")

        machine_of(type("Request", (), {"headers": Headers(), "client": None}))

    @app.get("/other")
    def _other():
        raise ValueError("/srv/secret")

    return TestClient(app, raise_server_exceptions=False)


def test_what_a_client_asks_wrongly_is_its_fault(client, caplog):
    answer = client.get("/clients")
    assert (answer.status_code, answer.text) == (400, server.NOT_SENT)
    assert not [
        record for record in caplog.records if record.levelno >= logging.ERROR and record.name == server.__name__
    ]


@pytest.mark.parametrize("path", ["/own", "/other"])
def test_a_fault_of_the_studio_is_logged_and_told_without_paths(client, caplog, monkeypatch, path):
    monkeypatch.setenv("SPACE_ID", "a/b")
    answer: httpx.Response = client.get(path)
    assert answer.status_code == 500 and "Something unforeseen" in answer.text and "srv" not in answer.text
    (logged,) = [record for record in caplog.records if record.name == server.__name__]
    assert logged.levelno == logging.ERROR and "/srv/secret" in str(logged.exc_info[1])
