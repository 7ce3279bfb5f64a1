"""Where the files lie that come with the package: beside it in a checkout, inside it when installed from a wheel."""

from __future__ import annotations

import hashlib
import re
import sys
import unicodedata
from pathlib import Path

_PACKAGE = Path(__file__).parent
_HOME = _PACKAGE if (_PACKAGE / "assets").is_dir() else _PACKAGE.parent

ASSETS = _HOME / "assets"
PRESETS = _HOME / "presets"
GLOSSARY = _HOME / "docs" / "glossary.md"
BUILT_IN = ASSETS / "miniature" / "model"


def slug(title: str) -> str:
    """A file name that still reads like the title, in any script of which the file system takes names."""
    encoding = sys.getfilesystemencoding()
    taken = title.lower().encode(encoding, "replace").decode(encoding)
    return re.sub(r"\W+", "-", taken).strip("-_")[:48] or "untitled"


def unique_slug(text: str) -> str:
    """A file name that reads like the text and is no other text's: digits follow where the slug alone would not tell.

    So it is for “C++” and “C#”, for emoji, for texts that begin alike for long.
    """
    short = slug(text)
    plain = " ".join(unicodedata.normalize("NFC", text).lower().split())
    if short.replace("-", " ") == plain:
        return short
    return f"{short}-{hashlib.sha256(plain.encode('utf-8', 'surrogatepass')).hexdigest()[:6]}"
