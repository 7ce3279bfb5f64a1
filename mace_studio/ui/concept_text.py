"""Concepts as text: rows of the table, pasted lines and CSV files."""

from __future__ import annotations

import csv
import html
import io
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from mace_studio import text_files
from mace_studio.errors import FileError, RecipeError
from mace_studio.phrases import folded
from mace_studio.recipe import KINDS, MAX_CONCEPTS, Concept
from mace_studio.settings import CHARACTERS, counted
from mace_studio.ui.kinds import guess

GUESS = "guess"  # in place of a kind
# What a comma may mean -> one word for it.
COMMAS = {
    "One concept that maps to the other": "mapping",
    "Several concepts": "concepts",
    "One phrase with a comma in it": "phrase",
}
COLUMNS = ("phrase", "mapping", "kind", "synonyms")
ARROW = re.compile(r"[-–—=]{1,9}>|[→⇒⟶➔]|\t")
BULLET = re.compile(r"\s{0,40}[-–—*+•‣◦▪·]\s")
NUMBER = re.compile(r"\s{0,40}\d{1,5}[.)]\s")
QUOTES = ('""', "''", "“”", "„“", "‘’", "«»", "``")
LONGEST = 2**20  # characters of a pasted list or a file of one
PREVIEWED = 50  # concepts that a preview shows
LONGEST_CELL = 20_000
PART = re.compile(r'\s*(?:"((?:[^"]|"")*)"\s*(?=,|\Z)|([^,]*))(?:,|\Z)')
QUOTED_CELL = re.compile(r'"((?:[^"]|"")*)"\s*(?=[,;\t]|\Z)')
HEADINGS = {
    "phrase": "phrase",
    "concept": "phrase",
    "mapping": "mapping",
    "maps to": "mapping",
    "map to": "mapping",
    "target": "mapping",
    "kind": "kind",
    "type": "kind",
    "synonym": "synonyms",
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


def fresh_rows(rows: list[Row], concepts: Sequence[Concept]) -> list[Row]:
    """What the table shows of more concepts, for which rows in which nothing is typed make way.

    Raises:
        RecipeError: the table would be too long.
    """
    kept = [row for row in rows or [] if any(row[i].strip() for i in (0, 1, 3))]
    if len(kept) + len(concepts) > MAX_CONCEPTS:
        raise RecipeError("concepts", f"{len(kept) + len(concepts)} concepts are too many; at most {MAX_CONCEPTS} fit.")
    return rows_from(concepts)


def pasted(text: str, kind: str, comma: str | None = None, kind_of: Callable[[str], str] = guess) -> list[Concept]:
    """Concepts of lines such as `Van Gogh -> an artist`; a line without an arrow has no mapping yet.

    Quotes around a phrase or a mapping are no part of it, nor is `- ` or `1. ` where each line begins so.

    Args:
        text: what was pasted.
        kind: of all of them; `GUESS`: of each what `kind_of` says of its phrase.
        comma: how a line such as `whale, sea` is read, one of the words of `COMMAS`; None where that is not said.
        kind_of: (phrase) -> its kind.

    Raises:
        RecipeError: there is such a line, and `comma` is None; or the text is too long.
    """
    _check_length(text)
    unclear = first_unclear(text)
    if unclear and comma not in COMMAS.values():
        raise RecipeError("", f"Say above how “{unclear}” is to be read.")
    concepts: list[Concept] = []
    for line in _lines(text):
        phrase, *mapping = ARROW.split(line, maxsplit=1)
        parts = [part.strip() for part in line.split(",") if part.strip()]
        if mapping or len(parts) < 2 or comma == "phrase" or _unquoted(line) != line:
            found = [(phrase.strip().strip(", "), "".join(mapping).strip())]
        elif comma == "mapping":
            found = [(parts[0], ", ".join(parts[1:]))]
        else:
            found = [(part, "") for part in parts]
        counted("concepts", len(concepts) + len(found))
        found = [(_unquoted(name), _unquoted(target)) for name, target in found]
        concepts += [Concept(name, target, kind_of(name) if kind == GUESS else kind) for name, target in found]
    return concepts


def first_unclear(text: str) -> str:
    """The first line of a pasted text that has a comma and no arrow, or ""; "" too where it is too long to be read."""
    if len(text) > LONGEST:
        return ""
    lines = (line for line in _lines(text) if _unquoted(line) == line)
    return next((line for line in lines if "," in line.strip(", ") and not ARROW.search(line)), "")


def _lines(text: str) -> list[str]:
    """The lines of a pasted text that have something to read, without bullets or numbers where all of them have one."""
    lines = [line for line in text_files.visible(text).splitlines() if line.strip()]
    for mark, least in ((BULLET, 1), (NUMBER, 2)):  # a single line such as "1. FC Köln" may be a name
        if len(lines) >= least and all(mark.match(line) for line in lines):
            lines = [mark.sub("", line, count=1) for line in lines]
    return [line.strip() for line in lines if line.strip()]


def _unquoted(text: str) -> str:
    """A phrase without the quotes around it; those within one, such as "Weird Al" Yankovic's, stay."""
    inner = text[1:-1]
    around = len(text) > 2 and text[0] + text[-1] in QUOTES and not {text[0], text[-1]} & set(inner)
    return inner.strip() if around else text


def phrases_of_file(data: bytes) -> list[str]:
    """The phrases of an uploaded list: the first cell of every line; a heading `phrase` or `concept` is passed over.

    Raises:
        RecipeError: it is not text in UTF-8, too long, or the first of several columns is not called so.
    """
    text, _ = text_files.table(decoded(data))
    _check_length(text)
    rows = [_first_cell(line.strip()) for line in text.splitlines() if line.strip()]
    if rows and HEADINGS.get(rows[0][0].lower()) == "phrase":
        rows = rows[1:]
    elif rows and rows[0][1].strip(",;\t "):
        raise RecipeError(
            "",
            "The first line of this list has several cells and does not name them. Begin the file with a line whose "
            "first cell is phrase, or write one phrase a line; one with a comma in it stands in double quotes.",
        )
    found = list(dict.fromkeys(phrase for phrase, _ in rows if phrase))
    counted("preserve", len(found))
    return found


def _first_cell(line: str) -> tuple[str, str]:
    """The first cell of a line, and what follows it."""
    if quoted := QUOTED_CELL.match(line):
        return quoted[1].replace('""', '"').strip(), line[quoted.end() :]
    cell, *rest = (part.strip() for part in re.split("[,;\t]", line, maxsplit=1))
    return cell.removeprefix('"').strip() if cell.count('"') == 1 else cell.strip('"'), "".join(rest)


def preview(rows: Sequence[Row], concepts: Sequence[Concept], replaces: bool) -> str:
    """What would be added, as escaped HTML; of many the first."""
    listed = "".join(
        f"<li><b>{html.escape(c.phrase)}</b> → {html.escape(c.mapping) or '<i>no mapping yet</i>'} · {c.kind}</li>"
        for c in concepts[:PREVIEWED]
    )
    listed += f"<li>and {len(concepts) - PREVIEWED:,} more</li>" if len(concepts) > PREVIEWED else ""
    known = set() if replaces else {folded(row[0]) for row in rows or []}
    twice = [c.phrase for c in concepts if folded(c.phrase) in known]
    takes, is_added = ("takes", "is") if len(concepts) == 1 else ("take", "are")
    verb = f"{takes} the place of the table" if replaces else f"{is_added} added to the table"
    count = f"{len(concepts)} concept{'' if len(concepts) == 1 else 's'}"
    warning = f" In the table already: {html.escape(', '.join(twice[:5]))}." if twice else ""
    times = Counter(folded(c.phrase) for c in concepts)
    again = list({folded(c.phrase): c.phrase for c in concepts if times[folded(c.phrase)] > 1}.values())
    warning += f" Listed twice: {html.escape(', '.join(again[:5]))}." if again else ""
    return f'<p class="hint">{count}, which {verb}.{warning}</p><ol class="preview-list">{listed}</ol>'


def from_csv(data: bytes, kind_of: Callable[[str], str] = guess) -> list[Concept]:
    """Concepts of a CSV file with the columns phrase, mapping, kind, synonyms.

    The first line names the columns, in any order; without it the third cell of each line has to be a kind. Cells are
    parted by commas, semicolons or tabs, and synonyms within a cell by commas, semicolons or bars.

    Args:
        data: of the file.
        kind_of: (phrase) -> its kind, where a line says none.

    Raises:
        RecipeError: not such a file; the message names the line.
    """
    text, separator = text_files.table(decoded(data))
    _check_length(text)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        lines = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader if any(map(str.strip, cells))]
    except csv.Error as error:
        raise RecipeError("", f"Line {reader.line_num} of the CSV file cannot be read: {error}.") from error
    if not lines:
        raise RecipeError("", "The CSV file is empty; give it the columns phrase, mapping, kind and synonyms.")
    columns: list[str | None] = list(COLUMNS)
    headings = [HEADINGS.get(cell.lower()) for cell in lines[0][1]]
    if twice := [name for name in COLUMNS if headings.count(name) > 1]:
        raise RecipeError("", f"Two columns of the CSV file are called {twice[0]}; rename or remove one.")
    if "phrase" in headings:
        # A column with a name of its own may be one that is missing; where none is, it is for other readers.
        unread = [cell for cell, name in zip(lines[0][1], headings, strict=True) if cell and not name]
        if unread and (missing := [name for name in COLUMNS if name not in headings]):
            raise RecipeError(
                "",
                f"The column “{unread[0]:.80}” of the CSV file is none that is read: is it the {' or '.join(missing)}? "
                "Then call it so; or else remove it.",
            )
        columns, lines = headings, lines[1:]
    elif len(lines[0][1]) < 3 or lines[0][1][2].lower() not in KINDS:  # it may be a heading of something else
        raise RecipeError(
            "",
            f"Line {lines[0][0]} of the CSV file does not name its columns; begin the file with the line "
            f"{','.join(COLUMNS)} (phrase is needed, the others may be left out).",
        )
    if not lines:
        raise RecipeError("", "The CSV file names its columns and no concept; give each concept a line.")
    counted("concepts", len(lines))
    return [_concept(number, cells, columns, kind_of) for number, cells in lines]


def _concept(number: int, cells: list[str], columns: list[str | None], kind_of: Callable[[str], str]) -> Concept:
    if any(cells[len(columns) :]):
        raise RecipeError("", f"Line {number} of the CSV file has {len(cells)} cells; at most {len(columns)} fit.")
    line = dict(zip(columns, cells, strict=False))
    kind = line.get("kind", "").lower() or kind_of(line.get("phrase", ""))
    if kind not in KINDS:
        raise RecipeError("", f"Line {number} of the CSV file: “{kind}” is not a kind; use one of {', '.join(KINDS)}.")
    synonyms = tuple(s.strip() for s in re.split("[,;|]", line.get("synonyms", "")) if s.strip())
    return Concept(line.get("phrase", ""), line.get("mapping", ""), kind, synonyms)


def decoded(data: bytes) -> str:
    """The text of an uploaded file.

    Raises:
        RecipeError: it is not UTF-8, or too long.
    """
    if len(data) > (most := CHARACTERS["recipe"]):
        raise RecipeError("", f"This file has {len(data):,} bytes; at most {most:,} are read.")
    try:
        return text_files.decoded(data)
    except FileError as error:
        raise RecipeError("", str(error)) from error


def synonyms_text(synonyms: Sequence[str]) -> str:
    """Synonyms in one line; what would not read back is put in quotes."""
    odd = {s for s in synonyms if s != s.strip() or "," in s or s[:1] in ("", '"')}
    return ", ".join('"' + s.replace('"', '""') + '"' if s in odd else s for s in synonyms)


def synonyms_from(text: str) -> tuple[str, ...]:
    """Synonyms of a line such as `feline, "one, with a comma"`.

    Raises:
        RecipeError: the line is too long.
    """
    if len(text) > LONGEST_CELL:
        raise RecipeError("concepts", f"A cell has {len(text):,} characters of synonyms; use at most {LONGEST_CELL:,}.")
    found: list[str] = []
    for match in PART.finditer(text):
        quoted, plain = match.groups()
        if quoted is not None:
            found.append(quoted.replace('""', '"'))
        elif plain.strip():
            found.append(plain.strip())
    return tuple(found)


def _check_length(text: str) -> None:
    if len(text) > LONGEST:
        raise RecipeError("", f"This list has {len(text):,} characters; at most {LONGEST:,} are read at a time.")
