"""Consoles that are not UTF-8, proxies, and ports that are none."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tqdm import tqdm

from mace_studio import surroundings
from mace_studio.errors import StudioError
from mace_studio.parser import command_parser, page_parser

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("encoding", ["cp1252", "cp932", "ascii", "latin-1", "utf-8"])
def test_no_console_ends_the_program(encoding):
    code = "from mace_studio import surroundings; surroundings.make_console_forgiving()\n" \
        "import sys; print('“café” → 猫 🐈 done'); print('→', file=sys.stderr)"  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, cwd=ROOT, env=os.environ | {"PYTHONIOENCODING": encoding}
    )
    assert done.returncode == 0 and done.stdout.decode(encoding).rstrip().endswith("done")


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
@pytest.mark.parametrize("arguments", [["--help"], ["erase", "--help"], ["erase", "“猫”", "--out", "x"]])
def test_the_terminal_answers_in_any_console(encoding, arguments):
    environment = os.environ | {"PYTHONIOENCODING": encoding, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "mace_studio", *arguments], capture_output=True, cwd=ROOT, env=environment
    )
    assert b"Traceback" not in done.stderr and done.returncode in (0, 1)


class Broken(io.StringIO):
    def write(self, text):
        raise OSError(28, "No space left on device")

    def flush(self):
        self.write("")


@pytest.mark.parametrize("stream", [Broken(), None], ids=["full", "none"])
def test_progress_that_nobody_reads_ends_nothing(monkeypatch, stream):
    monkeypatch.setattr(sys, "stdout", stream and io.StringIO())
    monkeypatch.setattr(sys, "stderr", stream)
    surroundings.make_console_forgiving()
    surroundings.make_console_forgiving()  # as where one program runs several commands
    for _ in tqdm(range(3), mininterval=0, file=sys.stderr):
        print("a remark", file=sys.stderr, flush=True)
        print("a result", flush=True)


def test_a_reader_that_stops_reading_ends_no_command_in_a_traceback():
    code = (
        "import sys; from mace_studio import cli; "
        "cli.COMMANDS['erase'] = lambda _: [print('x' * 99) for _ in range(9999)]; "
        "sys.exit(cli.main(['erase', 'cat']))"
    )
    running = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT)
    assert running.stdout.readline().startswith(b"xxx")
    running.stdout.close()
    assert running.stderr.read() == b"" and running.wait() == 0
    running.stderr.close()


@pytest.fixture
def proxies(monkeypatch):
    for name in (*surroundings.PROXIES, "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name in ("no_proxy", "NO_PROXY"):  # so that they are restored
        monkeypatch.setenv(name, "example.org")
    return monkeypatch


def test_this_machine_is_asked_without_a_proxy(proxies):
    import httpx  # noqa: PLC0415 - reads the environment

    proxies.setenv("http_proxy", "http://127.0.0.1:9")
    proxies.setenv("ALL_PROXY", "http://127.0.0.1:9")
    surroundings.prepare_network()
    surroundings.prepare_network()
    assert os.environ["NO_PROXY"].split(",") == ["example.org", *surroundings.LOOPBACK]
    for host in ("127.0.0.1", "localhost"):
        client = httpx.Client()
        assert client._transport_for_url(httpx.URL(f"http://{host}:7860/")) is client._transport
        assert client._transport_for_url(httpx.URL("http://example.com/")) is not client._transport


@pytest.mark.parametrize("name", ["all_proxy", "ALL_PROXY", "HTTPS_PROXY"])
@pytest.mark.parametrize("address", ["socks5://127.0.0.1:9", "SOCKS5H://127.0.0.1:9"])
def test_a_socks_proxy_without_its_package_is_a_sentence(proxies, name, address):
    proxies.setattr(surroundings, "find_spec", lambda _: None)
    proxies.setenv(name, address)
    with pytest.raises(StudioError, match=rf"{name} names a SOCKS proxy.*pip install"):
        surroundings.prepare_network()


@pytest.mark.parametrize("address", ["socks4://127.0.0.1:9", "ftp://x:1", "SOCKS://x"])
def test_a_proxy_of_another_kind_is_a_sentence(proxies, address):
    proxies.setenv("ALL_PROXY", address)
    with pytest.raises(StudioError, match=r"ALL_PROXY names a proxy of the kind .*give one of http, https, socks5"):
        surroundings.prepare_network()


@pytest.mark.parametrize("address", ["http://[::1", "http://me:secret@proxy:80x", "proxy:99999"])
def test_a_proxy_that_is_no_address_is_a_sentence(proxies, address):
    proxies.setenv("https_proxy", address)
    with pytest.raises(StudioError, match=r"https_proxy is no address of a proxy; mend it") as error:
        surroundings.prepare_network()
    assert "secret" not in str(error.value)


def test_an_address_of_this_machine_is_asked_without_a_proxy(proxies):
    proxies.setenv("http_proxy", "127.0.0.1:9")
    surroundings.prepare_network("192.168.3.4")
    assert os.environ["no_proxy"].endswith(",0.0.0.0,192.168.3.4")


@pytest.mark.parametrize("port", ["99999", "-1", "0", "65536", "1.5", "9" * 5000])
def test_a_port_that_is_none_is_a_sentence(port, capsys):
    with pytest.raises(SystemExit) as ended:
        page_parser().parse_args([f"--port={port}"])
    assert ended.value.code == 2 and "a port is a number from 1 to 65535" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [["compare", "x", "--prompt", "x", "--seed"], ["export", "x", "--format"], ["study"], ["erase", "--no"]],
)
def test_a_long_argument_that_is_wrong_is_not_repeated(arguments, capsys):
    with pytest.raises(SystemExit):
        command_parser().parse_args(
            [*arguments[:-1], arguments[-1] + ("=" if arguments[-1][:2] == "--" else ""), "9" * 5000]
        )
    assert "9" * 80 not in capsys.readouterr().err


def test_the_devices_that_are_offered_exist():
    from mace_studio.sd import devices  # noqa: PLC0415 - torch takes seconds

    assert set(surroundings.devices()) <= set(devices.available()) and surroundings.devices()[0] == "auto"


@pytest.mark.parametrize("host", ["::1", "[::1]", "http://127.0.0.1", "127.0.0.1:7860", "a b"])
def test_a_host_that_is_no_name_and_no_address_is_a_sentence(host):
    with pytest.raises(StudioError, match="--host takes a name or an address"):
        surroundings.prepare_network(host)


@pytest.mark.parametrize("port", ["abc", "0", "70000", "-1", "1e4", "9" * 400])
def test_a_port_in_the_variable_that_is_none_is_a_sentence(monkeypatch, port):
    monkeypatch.setenv("GRADIO_SERVER_PORT", port)
    with pytest.raises(StudioError, match=r"GRADIO_SERVER_PORT is .*; a port is a number from 1 to 65535"):
        surroundings.prepare_network()


@pytest.mark.parametrize(
    ("flag", "text", "says"),
    [
        ("--seed", "5-3", "“5-3” cannot be read as a whole number; give one such as 7"),
        ("--seed", "1e3", "“1e3” cannot be read as a whole number"),
        ("--seed", "9" * 5000, "cannot be read as a whole number"),
        ("--steps", "", "“” cannot be read as a whole number"),
        ("--guidance", "7,5", "“7,5” cannot be read as a number; give one such as 0.5"),
    ],
)
def test_a_number_that_is_none_is_said_with_what_to_give(flag, text, says, capsys):
    with pytest.raises(SystemExit):
        command_parser().parse_args(["compare", "cat", "--prompt", "a cat", f"{flag}={text}"])
    said = " ".join(capsys.readouterr().err.split())
    assert f"argument {flag}: " in said and says in said and "9" * 81 not in said
