"""Serve the page: `python app.py`, the same as `mace-studio serve`, and what a Space runs."""

import sys

from mace_studio import surroundings
from mace_studio.parser import page_parser

surroundings.make_console_forgiving()
options = page_parser().parse_args(sys.argv[1:] if __name__ == "__main__" else [])
with surroundings.errors_in_sentences():
    surroundings.prepare_network(options.host)

    # Gradio takes seconds to import; --help and a mistyped flag are answered before.
    from mace_studio.ui import start

    studio, demo = start.build(options)
    if __name__ == "__main__":
        start.serve(studio, demo, options)
