"""Concepts as text: rows of the table, pasted lines and CSV files."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from typing import Any

from mace_studio.errors import RecipeError
from mace_studio.recipe import KINDS, MAX_CONCEPTS, Concept

COLUMNS = ("phrase", "mapping", "kind", "synonyms")
ARROW = re.compile(r"\s*(?:->|=>|→|\t)\s*")
PART = re.compile(r'\s*(?:"((?:[^"]|"")*)"\s*(?=,|\Z)|([^,]*))(?:,|\Z)')
HEADINGS = {
    "phrase": "phrase",
    "concept": "phrase",
    "mapping": "mapping",
    "maps to": "mapping",
    "map to": "mapping",
    "kind": "kind",
    "type": "kind",
    "synonyms": "synonyms",
}

Row = list[str]


def rows_from(concepts: Iterable[Concept]) -> list[Row]:
    """What the table shows of some concepts."""
    return [[c.phrase, c.mapping, c.kind, synonyms_text(c.synonyms)] for c in concepts]


def concepts_from(rows: Any) -> list[Concept]:
    """The concepts in the table, one a row.

    Raises:
        RecipeError: this is not a table of four texts a row; only a program can send such a thing.
    """
    if not isinstance(rows, list):
        return []
    for i, row in enumerate(rows):
        if not (isinstance(row, list) and len(row) == len(COLUMNS) and all(isinstance(cell, str) for cell in row)):
            raise RecipeError(f"concepts[{i}]", f"A row has {len(COLUMNS)} texts: {', '.join(COLUMNS)}.")
    return [Concept(phrase, mapping, kind, synonyms_from(text)) for phrase, mapping, kind, text in rows]


def appended(rows: list[Row], concepts: Sequence[Concept]) -> list[Row]:
    """The table with more concepts below it; rows in which nothing is typed make way.

    Raises:
        RecipeError: the table would be too long.
    """
    kept = [row for row in rows or [] if any(row[i].strip() for i in (0, 1, 3))]
    if len(kept) + len(concepts) > MAX_CONCEPTS:
        raise RecipeError("concepts", f"{len(kept) + len(concepts)} concepts are too many; at most {MAX_CONCEPTS} fit.")
    return [*kept, *rows_from(concepts)]


def pasted(text: str, kind: str) -> list[Concept]:
    """Concepts of lines such as `Van Gogh -> an artist`; a line without an arrow has no mapping yet."""
    lines = [ARROW.split(line.strip(), maxsplit=1) for line in text.splitlines() if line.strip()]
    return [Concept(line[0], line[1] if len(line) > 1 else "", kind) for line in lines]


def from_csv(data: bytes) -> list[Concept]:
    """Concepts of a CSV file with the columns phrase, mapping, kind, synonyms.

    The first line may name the columns, in any order. Cells are parted by commas, semicolons or tabs, and synonyms
    within a cell by commas, semicolons or bars.

    Raises:
        RecipeError: not such a file; the message names the line.
    """
    text = decoded(data)
    first = text.lstrip().partition("\n")[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=first.count), strict=True)
    try:
        lines = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader if any(map(str.strip, cells))]
    except csv.Error as error:
        raise RecipeError("", f"Line {reader.line_num} of the CSV file cannot be read: {error}.") from error
    if not lines:
        raise RecipeError("", "The CSV file is empty; give it the columns phrase, mapping, kind and synonyms.")
    columns: list[str | None] = list(COLUMNS)
    headings = [HEADINGS.get(cell.lower()) for cell in lines[0][1]]
    if "phrase" in headings:
        columns, lines = headings, lines[1:]
    return [_concept(number, cells, columns) for number, cells in lines]


def _concept(number: int, cells: list[str], columns: list[str | None]) -> Concept:
    if len(cells) > len(columns):
        raise RecipeError("", f"Line {number} of the CSV file has {len(cells)} cells; at most {len(columns)} fit.")
    line = dict(zip(columns, cells, strict=False))
    kind = line.get("kind", "").lower() or KINDS[0]
    if kind not in KINDS:
        raise RecipeError("", f"Line {number} of the CSV file: “{kind}” is not a kind; use one of {', '.join(KINDS)}.")
    synonyms = tuple(s.strip() for s in re.split("[,;|]", line.get("synonyms", "")) if s.strip())
    return Concept(line.get("phrase", ""), line.get("mapping", ""), kind, synonyms)


def decoded(data: bytes) -> str:
    """The text of an uploaded file.

    Raises:
        RecipeError: it is not UTF-8.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RecipeError("", "This file is not text in UTF-8; save it as UTF-8 and try again.") from error


def synonyms_text(synonyms: Sequence[str]) -> str:
    """Synonyms in one line; what would not read back is put in quotes."""
    return ", ".join(_quoted(s) if s != s.strip() or "," in s or s[:1] in ("", '"') else s for s in synonyms)


def synonyms_from(text: str) -> tuple[str, ...]:
    """Synonyms of a line such as `feline, "one, with a comma"`."""
    found: list[str] = []
    for match in PART.finditer(text):
        quoted, plain = match.groups()
        if quoted is not None:
            found.append(quoted.replace('""', '"'))
        elif plain.strip():
            found.append(plain.strip())
    return tuple(found)


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'
