"""What the pages in docs/ say of the tests is so."""

import re
from pathlib import Path

import pytest

from tests.families import FAMILIES

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("place", "file", "prefix"), [(0, "test_families", "test_"), (1, "test_family_exports", "test_export_")]
)
def test_every_cell_of_the_tables_of_models_names_a_test_of_its_family(place, file, prefix):
    table = PAGE.split("| family ")[1 + place].partition("\n\n")[0]
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in f"family {table}".splitlines()]
    source = (ROOT / "tests" / "unit" / f"{file}.py").read_text(encoding="utf-8")
    assert len(rows) == len(FAMILIES)
    for row, family in zip(rows, FAMILIES, strict=True):
        for use, cell in zip(head[1:], row[1:], strict=True):
            names = re.findall(r"`(test_\w+)\[(\w+)\]`", cell)
            expected = f"{prefix}{use}" + ("_is_refused" if cell.startswith("refused") else "")
            assert expected in dict(names), (row[0], use)
            for name, of in names:
                assert of == family and f"def {name}(" in source
