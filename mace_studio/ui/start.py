"""The studio and its page from the flags, and serving them: the same for `app.py` and `mace-studio serve`."""

from __future__ import annotations

import argparse
import os

try:
    import spaces  # before torch, which it changes where a GPU is lent call by call
except ImportError:
    spaces = None

import gradio as gr

from mace_studio.runtime import examples, perform, quota
from mace_studio.runtime.studio import Studio
from mace_studio.ui import page, server, sessions

PERFORM = spaces.GPU(perform.perform, duration=quota.seconds) if spaces else perform.perform


def shared() -> bool:
    """Whether this runs as a Space, which many users share."""
    return "SPACE_ID" in os.environ


def build(options: argparse.Namespace) -> tuple[Studio, gr.Blocks]:
    """A studio whose model loads when the page is first opened, and its page.

    Args:
        options: of `parser.page_parser`.
    """
    studio = Studio(
        options.model,
        device=options.device,
        dtype=options.dtype,
        output=options.out,
        low_memory=options.low_memory,
        captions=options.captions,
        vae=options.vae,
        text_encoder=options.text_encoder,
        cluster=options.cluster,
        worker_gpus=options.worker_gpus,
        perform=PERFORM,
        fixed=shared(),
        user=sessions.folder,
        machine=sessions.machine,
    )
    return studio, page.build(studio)


def serve(studio: Studio, demo: gr.Blocks, options: argparse.Namespace) -> None:
    """Serve the page until the process ends; the arguments are of `build`."""
    if shared():
        studio.prepare()
        examples.start(options.out)
    mcp = options.mcp or None  # None leaves it to the variable GRADIO_MCP_SERVER
    server.launch(demo, options.host, shared(), server_port=options.port, auth=options.auth, mcp_server=mcp)
