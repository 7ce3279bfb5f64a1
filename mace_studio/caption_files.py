"""Files of general captions: which one goes with a model, and what stands in it. No torch."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from mace_studio.errors import FileError
from mace_studio.paths import ASSETS

HALF = re.compile("[\ud800-\udfff]")  # of a character, as JSON can write it; no tokenizer takes it
GENERAL_CAPTIONS = ASSETS / "captions" / "general.txt"


def captions_of(source: str) -> Path:
    """The captions that go with a model: the `captions.txt` of its folder, or everyday scenes.

    Args:
        source: folder, file or hub id of the model.
    """
    own = Path(source) / "captions.txt"
    return own if os.path.isfile(own) else GENERAL_CAPTIONS


def check(path: Path) -> None:
    """Raise a FileError unless a path is that of a file; what is in it is not read."""
    if not os.path.isfile(path):  # to open a pipe would wait for its writer
        raise FileError(f"There is no file of captions “{path}”.")


def read_captions(path: Path) -> list[str]:
    """The captions in a text file, one a line, or in an annotation file of MS-COCO, `captions_*.json`.

    Args:
        path: of the file, UTF-8. Captions with broken characters are left out.

    Raises:
        FileError: it is neither, or holds none.
    """
    check(path)
    try:
        written = path.read_text(encoding="utf-8-sig")
        lines = written.splitlines()
        if path.suffix.lower() == ".json":
            lines = [annotation["caption"] for annotation in json.loads(written)["annotations"]]
        found = [line.strip() for line in lines if line.strip() and not HALF.search(line)]
    except (OSError, AttributeError, LookupError, TypeError, ValueError, RecursionError) as error:
        raise FileError(
            f"{path} is no file of captions: neither text in UTF-8, one a line, nor MS-COCO's JSON."
        ) from error
    if not found:
        raise FileError(f"{path} holds no captions; give a file with one a line.")
    return found
