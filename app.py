"""Serve the page: `python app.py`, the same as `mace-studio serve`, and what a Space runs."""

import sys

from mace_studio.parser import page_parser

options = page_parser().parse_args(sys.argv[1:] if __name__ == "__main__" else [])

# Gradio takes seconds to import; --help and a mistyped flag are answered before.
from mace_studio.ui import start  # noqa: E402

studio, demo = start.build(options)

if __name__ == "__main__":
    start.serve(studio, demo, options)
