"""Serve the page: `python app.py`, and the same on a Space. The model loads when the page is first opened."""

import argparse
import os
import sys
from importlib.util import find_spec
from pathlib import Path


def arguments(given: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="MACE Studio: erase concepts from text-to-image diffusion models.")
    parser.add_argument("--model", help="folder, hub id or single .safetensors file (default: the built-in model)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps (default: auto)")
    parser.add_argument("--dtype", default="auto", help="auto, float32, float16 or bfloat16 (default: auto)")
    parser.add_argument("--low-memory", action="store_true", help="for small graphics cards; slower")
    parser.add_argument("--captions", type=Path, help="general captions: text, or MS-COCO's captions_*.json")
    parser.add_argument("--host", default=os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1"), help="address to serve on")
    parser.add_argument("--port", type=int, help="port to serve on (default: the first free one from 7860)")
    parser.add_argument("--output-dir", type=Path, default=Path("output"), help="where erased models and pictures go")
    parser.add_argument("--mcp", action="store_true", help="serve assistants too, by the Model Context Protocol")
    parser.add_argument("--auth", type=credentials, metavar="USER:PASSWORD", help="ask visitors for this")
    asked = parser.parse_args(given)
    if asked.mcp and not find_spec("mcp"):
        parser.error("--mcp needs more packages; install them with: pip install 'gradio[mcp]==6.31.*'")
    return asked


def credentials(text: str) -> tuple[str, str]:
    user, colon, password = text.partition(":")
    if not (user and colon and password):
        raise argparse.ArgumentTypeError("write it as user:password")
    return user, password


options = arguments(sys.argv[1:] if __name__ == "__main__" else [])
shared = "SPACE_ID" in os.environ
try:
    import spaces  # before torch, which it changes where a GPU is lent call by call
except ImportError:
    spaces = None

# Gradio takes seconds to import; --help and a mistyped flag are answered before.
from mace_studio.runtime import examples, quota, tasks  # noqa: E402
from mace_studio.runtime.studio import Studio  # noqa: E402
from mace_studio.ui import page, server, visitors  # noqa: E402

how = (options.model, options.device, options.dtype, options.output_dir, options.low_memory, options.captions)
perform = spaces.GPU(tasks.perform, duration=quota.seconds) if spaces else tasks.perform
studio = Studio(*how, perform, fixed=shared, visitor=visitors.folder)
demo = page.build(studio)

if __name__ == "__main__":
    if shared:
        studio.prepare()
        examples.start(options.output_dir)
    listens = {"server_port": options.port, "auth": options.auth, "mcp_server": options.mcp or None}
    server.launch(demo, options.host, shared, **listens)
