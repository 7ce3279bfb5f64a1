"""`python app.py` as a process of its own."""

import os
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import httpx

APP = Path(__file__).parents[2] / "app.py"


@contextmanager
def app(*flags, cwd=APP.parent, **environment):
    """The app at a free port, with more variables; gives its address once it answers, and stops it at the end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    variables = os.environ | {"GRADIO_SERVER_PORT": str(port)} | environment
    with subprocess.Popen([sys.executable, str(APP), *flags], cwd=cwd, env=variables) as process:
        try:
            address, end = f"http://127.0.0.1:{port}/", time.monotonic() + 90
            while True:
                try:
                    httpx.get(f"{address}config")
                    break
                except httpx.ConnectError:
                    assert time.monotonic() < end and process.poll() is None, "the app did not come up"
                    time.sleep(0.1)
            yield address
        finally:
            process.terminate()
