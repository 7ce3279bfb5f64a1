"""The flags of app.py, and what is set before gradio is imported."""

import os
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*flags):
    return subprocess.run(
        [sys.executable, "app.py", *flags], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )


def test_help_names_every_flag_and_the_command_serve_has_the_same():
    done = run("--help")
    assert done.returncode == 0
    serve = subprocess.run(
        [sys.executable, "-m", "mace_studio", "serve", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.split("options:")[1] == serve.stdout.split("options:")[1]
    for flag in (
        "--model",
        "--device",
        "--dtype",
        "--low-memory",
        "--host",
        "--port",
        "--output-dir",
        "--auth",
        "--mcp",
    ):
        assert flag in done.stdout


@pytest.mark.skipif(find_spec("mcp") is not None, reason="the packages of --mcp are installed")
def test_without_its_packages_mcp_says_what_to_install():
    done = run("--mcp")
    assert done.returncode == 2
    assert "pip install 'gradio[mcp]==6.31.*'" in done.stderr


@pytest.mark.parametrize("text", ["me", "me:", ":secret"])
def test_credentials_need_a_name_and_a_password(text):
    done = run("--auth", text)
    assert done.returncode == 2
    assert "user:password" in done.stderr


def test_a_hosted_space_finds_the_page_and_nothing_is_told_outside():
    check = (
        "import os, sys, app, gradio\n"
        "assert isinstance(app.demo, gradio.Blocks)\n"
        "assert not {'torch', 'diffusers', 'transformers', 'peft'} & set(sys.modules), 'the page needs no engine'\n"
        "assert os.environ['GRADIO_ANALYTICS_ENABLED'] == 'False'\n"
        "assert os.environ['HF_HUB_DISABLE_TELEMETRY'] in ('1', 'True')\n"
        "assert not app.demo.analytics_enabled\n"
        "blocks = [b for b in app.demo.blocks.values() if b.get_block_name() not in\n"
        "          ('row', 'column', 'form', 'api', 'state', 'browserstate', 'tabs', 'tabitem', 'timer')]\n"
        "unnamed = [b for b in blocks if not b.elem_id]\n"
        "assert not unnamed, unnamed\n"
        "fields = [b for b in blocks if not b.get_block_name().endswith('button')]\n"
        "unlabelled = [b for b in fields if not getattr(b, 'label', None)]\n"
        "assert not unlabelled, unlabelled\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_port_in_use_is_a_sentence():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = subprocess.run(
            [sys.executable, "app.py", "--port", str(port), "--host", "127.0.0.1"], capture_output=True, cwd=ROOT,
            env=os.environ | {"http_proxy": "http://127.0.0.1:9"}, timeout=300, text=True,
        )  # fmt: skip
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert f"port {port}: it is in use by another program" in done.stderr
