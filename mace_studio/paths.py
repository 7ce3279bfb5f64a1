"""Where the files lie that come with the package: beside it in a checkout, inside it when installed from a wheel."""

from __future__ import annotations

import re
from pathlib import Path

_PACKAGE = Path(__file__).parent
_HOME = _PACKAGE if (_PACKAGE / "assets").is_dir() else _PACKAGE.parent

ASSETS = _HOME / "assets"
PRESETS = _HOME / "presets"
BUILT_IN = ASSETS / "miniature" / "model"


def slug(title: str) -> str:
    """A file name that still reads like the title, in any script."""
    return re.sub(r"\W+", "-", title.lower()).strip("-_")[:48] or "untitled"
