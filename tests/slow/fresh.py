"""Installs the wheel with what it needs into an empty environment, runs README's Python there, and opens its page.

`python -m tests.slow.fresh` prints what it does and how long it takes. pip fetches the libraries, as it is configured.
"""

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).parents[2]
WAITED = 180  # seconds for the page to answer


def main(folder):
    begun = time.monotonic()

    def done(what):
        print(f"{time.monotonic() - begun:6.1f} s  {what}", flush=True)

    # Nothing of this checkout or of this process's environment may help.
    clean = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON") and k != "VIRTUAL_ENV"}
    empty, binaries = folder / "empty", folder / "venv" / "bin"
    empty.mkdir()

    def run(*command):
        return subprocess.run(command, cwd=empty, env=clean, check=True, stdout=subprocess.PIPE, text=True).stdout

    run(sys.executable, "-m", "venv", str(folder / "venv"))
    pip = [str(binaries / "python"), "-m", "pip"]
    left_out = shutil.ignore_patterns(".*", "build", "output", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, folder / "sources", ignore=left_out)
    run(*pip, "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(folder / "sources"))
    shutil.rmtree(folder / "sources")
    (wheel,) = folder.glob("*.whl")
    done(f"{wheel.name}: {wheel.stat().st_size / 1e6:.1f} MB")
    run(*pip, "install", "--quiet", str(wheel))
    done(f"installed with {len(run(*pip, 'list', '--format=freeze').splitlines()) - 1} others")
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    where = "import mace_studio\nprint(mace_studio.__file__, len(images))\n"
    done(f"README's Python: images from {run(str(binaries / 'python'), '-c', block + where).strip()}")
    done(f"cat.safetensors: {(empty / 'cat.safetensors').stat().st_size / 1e6:.1f} MB")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(binaries / "mace-studio"), "serve", "--port", str(port)]
    with open(folder / "serve.log", "w") as log, subprocess.Popen(command, cwd=empty, env=clean, stdout=log) as page:
        try:
            done(f"mace-studio serve --port {port}: / answers with {len(opened(port, page))} bytes")
        finally:
            page.terminate()


def opened(port, page):
    """What the page's address answers, once it does."""
    for _ in range(WAITED):
        assert page.poll() is None, f"it ended with {page.returncode}"
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=WAITED) as answer:
                found = answer.read()
                assert answer.status == 200 and b"MACE Studio" in found
                return found
        except OSError:
            time.sleep(1)
    raise TimeoutError(f"the page did not answer within {WAITED} s")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        main(Path(made))
