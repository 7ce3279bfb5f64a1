"""Who may reach the page, and how often a password can be tried."""

import asyncio
import inspect
import time
from types import SimpleNamespace

import gradio as gr
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from mace_studio import parser
from mace_studio.ui import access, api, gradio_compat, sessions
from mace_studio.ui.access import Password, SameOriginOnly
from tests.loops import awaited


def site(**options):
    async def taken(request):
        return PlainTextResponse("taken")

    route = Route("/upload", taken, methods=["GET", "POST"])
    return TestClient(
        Starlette(routes=[route], middleware=[Middleware(SameOriginOnly, **options)]), base_url="http://127.0.0.1:7860"
    )


@pytest.fixture
def bounded(monkeypatch):
    """A site of small bounds; its client may come from another machine."""
    monkeypatch.setattr(access, "BODY", 1000)
    monkeypatch.setattr(access, "EACH", 2500)
    monkeypatch.setattr(access, "ALL", 4000)
    monkeypatch.setattr(access, "LEAST", 100)

    async def read(request):
        return PlainTextResponse(str(len(await request.body())))

    routes = [Route(f"/{name}", read, methods=["POST"]) for name in ("upload", "join")]
    app = Starlette(routes=routes, middleware=[Middleware(access.BoundedBodies)])
    return lambda machine="a": TestClient(app, client=(machine, 1))


def test_a_request_that_is_too_large_is_stopped_whatever_it_says_of_its_length(bounded):
    for body in (b"x" * 1001, iter([b"x" * 600] * 2)):
        answer = bounded().post("/join", content=body)
        assert (answer.status_code, answer.text) == (413, "This request is too large; 0 MB are the most.")
    assert [bounded().post("/join", content=b"x" * 1000).text for _ in range(5)] == ["1000"] * 5
    assert bounded().post("/join").text == "0"


def test_uploads_of_a_machine_and_of_all_are_bounded_within_a_day(bounded, monkeypatch):
    now = time.monotonic()
    monkeypatch.setattr(access.time, "monotonic", lambda: now)
    upload = lambda machine: bounded(machine).post("/upload", content=b"x" * 900).status_code  # noqa: E731
    assert [upload("a") for _ in range(100)] == [200, 200, *[429] * 98]  # what is refused does not count
    assert "can be uploaded here within a day; try again tomorrow" in bounded("a").post("/upload").text
    assert [upload("b") for _ in range(3)] == [200, 429, 429]  # of all
    assert bounded("a").post("/join", content=b"x" * 900).status_code == 200
    now += access.DAY + 1
    assert [upload("b"), upload("a")] == [200, 200]


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        (None, 200),
        ("http://127.0.0.1:7860", 200),
        ("http://localhost:7860", 403),
        ("http://127.0.0.1:3000", 403),
        ("https://evil.example", 403),
        ("http://127.0.0.1:7860.evil.example", 403),
        ("null", 403),
        ("", 403),
        ("http://[", 403),
        ("http://127.0.0.1:99999", 403),
    ],
)
def test_an_upload_from_another_site_is_refused(origin, status):
    headers = {} if origin is None else {"origin": origin}
    assert site().post("/upload", headers=headers).status_code == status
    assert site().get("/upload", headers=headers).status_code == 200


def test_only_the_host_s_own_proxy_says_what_the_address_was():
    headers = {"origin": "https://mace.hf.space", "x-forwarded-host": "mace.hf.space"}
    assert site(forwarded=True).post("/upload", headers=headers).status_code == 200
    assert site().post("/upload", headers=headers).status_code == 403
    usual = {"origin": "https://studio.example", "host": "studio.example:443"}
    assert site().post("/upload", headers=usual).status_code == 200


def attempts(password, *tried):
    async def together():
        return await asyncio.gather(*(password.check("me", one) for one in tried))

    begun = time.monotonic()
    return awaited(together()), time.monotonic() - begun


def test_the_right_password_is_let_in_at_once_and_wrong_ones_wait(monkeypatch):
    monkeypatch.setattr(access, "DELAY", 0.1)
    password = Password("me", "sécret")
    found, seconds = attempts(password, "sécret")
    assert found == [True] and seconds < 0.1
    found, seconds = attempts(password, "secret")
    assert found == [False] and seconds >= 0.1
    assert not awaited(password.check("you", "sécret"))


def test_after_several_wrong_ones_attempts_take_turns_however_many_come_at_once(monkeypatch):
    """Eight at once after five wrong ones: the last waits eight turns, and its own delay."""
    monkeypatch.setattr(access, "DELAY", 0.05)
    monkeypatch.setattr(access, "QUEUED", 8)
    password = Password("me", "right")
    attempts(password, *("wrong",) * 5)
    found, seconds = attempts(password, *("wrong",) * 7, "right", *("right",) * 20)
    assert found == [False] * 7 + [True] + [False] * 20  # those beyond the eight are refused unread
    assert seconds >= 8 * 0.05


def test_halves_of_characters_are_as_wrong_as_any(monkeypatch):
    monkeypatch.setattr(access, "DELAY", 0.05)
    assert attempts(Password("me", "right"), "\ud800")[0] == [False]
    assert attempts(Password("me", "r\udcff"), "r\udcff")[0] == [True]  # as a variable holds bytes that are no UTF-8


def test_a_password_too_long_for_its_file_is_refused_not_cut(tmp_path, capsys):
    file = tmp_path / "auth"
    for length, fits in ((996, True), (997, False), (5000, False)):
        file.write_text(f"me:{'x' * length}")
        if fits:
            assert len(parser.page_parser().parse_args(["--auth-file", str(file)]).auth[1]) == length
        else:
            with pytest.raises(SystemExit):
                parser.page_parser().parse_args(["--auth-file", str(file)])
            assert "too long" in capsys.readouterr().err


def test_credentials_come_from_the_flag_a_variable_or_a_file(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv(parser.AUTH, raising=False)
    assert parser.page_parser().parse_args([]).auth is None
    assert parser.page_parser().parse_args(["--auth", "me:pa:ss"]).auth == ("me", "pa:ss")
    file = tmp_path / "auth"
    file.write_bytes(b"\xef\xbb\xbfme:from file\r\nmore")
    assert parser.page_parser().parse_args(["--auth-file", str(file)]).auth == ("me", "from file")
    monkeypatch.setenv(parser.AUTH, "you:from variable")
    assert parser.page_parser().parse_args([]).auth == ("you", "from variable")
    assert parser.page_parser().parse_args(["--auth-file", str(file)]).auth == ("me", "from file")
    monkeypatch.setenv(parser.AUTH, "nonsense")
    with pytest.raises(SystemExit):
        parser.page_parser().parse_args([])
    assert "write it as user:password" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        parser.page_parser().parse_args(["--auth-file", str(tmp_path / "none")])


def test_a_client_without_a_cookie_gets_a_folder_that_nobody_can_guess(monkeypatch):
    request = SimpleNamespace(cookies={}, session_hash=None)
    monkeypatch.setattr(sessions, "LocalContext", SimpleNamespace(request=SimpleNamespace(get=lambda _: request)))
    assert len({sessions.folder() for _ in range(3)}) == 3


def test_the_machine_is_told_by_the_hub_s_proxy_and_nobody_else(monkeypatch):
    request = SimpleNamespace(headers={"x-forwarded-for": "6.6.6.6, 1.2.3.4"}, client=SimpleNamespace(host="10.0.0.1"))
    monkeypatch.delenv("SPACE_ID", raising=False)
    assert sessions.machine_of(request) == "10.0.0.1"
    monkeypatch.setenv("SPACE_ID", "a/b")
    assert sessions.machine_of(request) == "1.2.3.4"


def test_files_that_are_served_in_place_are_bounded(tmp_path, monkeypatch):
    served = []
    monkeypatch.setattr(gradio_compat._StaticFiles, "all_paths", served)
    monkeypatch.setattr(gradio_compat, "SERVED", 3)
    for name in ("a", "b", "b", "c", "d", "d"):
        gradio_compat.serve_in_place(tmp_path / name)
    assert [path.name for path in served] == ["b", "c", "d"]


class Queue:
    """As much of Gradio's queue as counts here."""

    def __init__(self):
        self.event_queue_per_concurrency_id, self.active_jobs = {"api": SimpleNamespace(queue=[])}, [None]

    async def push(self, body, request, username):
        event = SimpleNamespace(fn=body.fn, request=request)
        self.event_queue_per_concurrency_id["api"].queue.append(event)
        return True, "id", "success"


def test_calls_of_one_program_leave_room_for_others_and_for_the_page():
    functions = {
        0: SimpleNamespace(api_name="erase", fn=lambda: None), 1: SimpleNamespace(api_name="on_edit", fn=lambda: None)
    }  # fmt: skip
    demo = SimpleNamespace(_queue=Queue(), fns=functions)
    gradio_compat.bound_queue(demo, ("erase",), 3, 5, lambda request: request)

    def send(index, machine):
        body = SimpleNamespace(fn_index=index, fn=functions[index], data=[])
        return awaited(demo._queue.push(body=body, request=machine, username=None))[2]

    assert [send(0, "greedy") for _ in range(90)].count("success") == 3
    assert [send(0, "other") for _ in range(3)] == ["success", "success", "queue_full"]  # five of all
    assert {send(1, "greedy") for _ in range(gradio_compat.UNFINISHED)} == {"success"}
    assert send(1, "greedy") == "queue_full" and send(1, "other") == "success"


def test_one_machine_cannot_hold_every_call_that_runs():
    assert api.EACH < api.AT_ONCE < api.MOST


def test_a_call_with_fewer_values_takes_the_defaults_of_the_rest():
    endpoint = SimpleNamespace(api_name="compare", fn=lambda name, prompts, steps=20, wait=60.0: None)
    demo = SimpleNamespace(_queue=Queue(), fns={0: endpoint})
    gradio_compat.bound_queue(demo, ("compare",), 3, 5, lambda request: request)

    def send(*data):
        body = SimpleNamespace(fn_index=0, fn=endpoint, data=list(data))
        return awaited(demo._queue.push(body=body, request="a", username=None))[1:], body.data

    assert send("x") == (("prompts: This value is missing.", "error"), ["x"])
    assert send("x", ["a cat"]) == (("id", "success"), ["x", ["a cat"], 20, 60.0])
    assert send("x", ["a cat"], 5, 0.0) == (("id", "success"), ["x", ["a cat"], 5, 0.0])
    for meta in ({"_type": "gradio.FileData"}, 5):  # what Gradio answers with `null`
        file = {"path": "/etc/passwd", "meta": meta}
        (said, _), _ = send("x", [["a cat", {"a": file}]])
        assert said.startswith("prompts: No file is taken here")
        assert send(file)[0][0].startswith("name: No file")


def test_events_of_the_past_are_not_summed_up_after_each():
    demo = gr.Blocks()
    demo.queue()
    event = {"time": 0.0, "status": "success", "process_time": 0.1, "function": "on_edit", "session_hash": "a"}
    demo._queue.events_recorded = 1
    assert demo._queue.compute_analytics_summary([event])["functions"]["on_edit"]["success_rate"] == 1
    gradio_compat.without_statistics(demo)
    assert demo._queue.compute_analytics_summary([event]) == {}


def test_gradio_awaits_the_check():
    """Of an object that is called it would take the coroutine for a yes."""
    assert inspect.iscoroutinefunction(Password("me", "right").check)
