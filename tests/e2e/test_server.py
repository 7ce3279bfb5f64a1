"""The server without a browser: who may reach it, and what it gives away."""

import time

import httpx
import pytest

from mace_studio.ui import gradio_compat
from mace_studio.ui.api import NAMES
from tests.e2e.serving import app


def test_every_answer_has_the_safe_headers(base_url):
    headers = httpx.get(base_url).headers
    assert headers["content-security-policy"].startswith("default-src 'self'")
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"


def test_another_host_name_is_refused(base_url):
    assert httpx.get(base_url, headers={"Host": "evil.example"}).status_code == 400


@pytest.mark.parametrize("path", ["/etc/passwd", "app.py", "../app.py", "mace_studio/studio.py", "output"])
def test_files_stay_private(base_url, path):
    assert httpx.get(f"{base_url}gradio_api/file={path}").status_code in (403, 404)


def test_only_what_was_offered_can_be_downloaded(base_url, studio, erased):
    path = studio.output / "never-offered.txt"
    path.write_bytes(studio.entry(erased).path.read_bytes())
    assert httpx.get(f"{base_url}gradio_api/file={path}").status_code in (403, 404)


def test_the_queue_cannot_be_passed_by(base_url):
    assert httpx.post(f"{base_url}gradio_api/run/on_erase", json={"data": []}).status_code == 404


def test_only_the_documented_endpoints_can_be_called_by_name(base_url):
    offered = httpx.get(f"{base_url}gradio_api/info").json()["named_endpoints"]
    assert set(offered) == {f"/{name}" for name in NAMES}
    for name in ("on_erase", "on_cancel", "on_read", "predict", "lambda", "//on_erase", "on_erase/", "Erase"):
        assert httpx.post(f"{base_url}gradio_api/call/{name}", json={"data": [""]}).status_code == 404, name
    for name in ("on_erase", "erase", "predict"):
        assert httpx.post(f"{base_url}gradio_api/run/{name}", json={"data": [""]}).status_code in (400, 404), name


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("queue/join", b'{"fn_index": 99999, "data": [], "session_hash": "a"}'),
        ("queue/join", b'{"fn_index": -1, "data": [], "session_hash": "a"}'),
        ("queue/join", b'{"fn_index": 1' + b"0" * 400 + b', "data": [], "session_hash": "a"}'),
        ("queue/join", b'{"fn_index": NaN, "data": [], "session_hash": "a"}'),
        ("queue/join", b"\xff\xfe"),
        ("queue/join", b"[" * 100_000),
        ("run/predict", b'{"fn_index": 99999, "data": []}'),
        ("component_server", b'{"session_hash": "a", "component_id": 99999, "fn_name": "x", "data": null}'),
    ],
)
def test_what_no_page_sends_is_refused_in_a_sentence(base_url, path, body):
    headers = {"content-type": "application/json"}
    answer = httpx.post(f"{base_url}gradio_api/{path}", content=body, headers=headers)
    assert 400 <= answer.status_code < 500 and answer.text, answer


def test_an_icon_of_another_size_is_none_that_the_page_has(base_url):
    assert httpx.get(f"{base_url}pwa_icon/99").status_code == 400


def test_the_run_history_and_the_monitor_are_off(base_url):
    assert httpx.get(f"{base_url}monitoring").status_code in (403, 404)


def test_the_browser_looks_up_no_input_of_an_event(base_url):
    (script,) = gradio_compat.ASSETS.glob("statustracker-*.js")
    own, served = script.read_text(encoding="utf-8"), httpx.get(f"{base_url}assets/{script.name}")
    assert len(gradio_compat.OUTPUTS_AND_INPUTS.findall(own)) == 1
    assert not gradio_compat.OUTPUTS_AND_INPUTS.search(served.text) and 0 < len(own) - len(served.text) < 20
    assert served.headers["content-type"].startswith("text/javascript")
    assert "default-src" in served.headers["content-security-policy"]
    assert httpx.get(f"{base_url}assets/statustracker-none.js").status_code == 404


def test_the_app_is_up_soon_and_asks_for_the_password(tmp_path):
    begun = time.monotonic()
    with app("--auth", "me:secret", "--output-dir", str(tmp_path)) as address:
        took = time.monotonic() - begun
        assert httpx.get(f"{address}config").status_code == 401
        assert took < 20, f"the page was up after {took:.1f} s"
        for wrong in ({"username": "me", "password": "secrets"}, {"username": "you", "password": "secret"}):
            begun = time.monotonic()
            assert httpx.post(f"{address}login", data=wrong).status_code == 400
            assert time.monotonic() - begun >= 1.0
        pair = {"username": "me", "password": "secret"}
        foreign = {"origin": "https://evil.example"}
        assert httpx.post(f"{address}login", data=pair, headers=foreign).status_code == 403
        assert httpx.post(f"{address}login", data=pair).status_code == 200
