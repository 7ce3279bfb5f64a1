"""What the pages in docs/ say of the tests is so."""

import re
from pathlib import Path

from tests.families import FAMILIES

ROOT = Path(__file__).parents[2]


def test_every_cell_of_the_table_of_models_names_a_test_of_its_family():
    page = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    table = page[page.index("| family ") :].partition("\n\n")[0]
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    source = (ROOT / "tests" / "unit" / "test_families.py").read_text(encoding="utf-8")
    assert len(rows) == len(FAMILIES)
    for row, family in zip(rows, FAMILIES, strict=True):
        for use, cell in zip(head[1:], row[1:], strict=True):
            names = re.findall(r"`(test_\w+)\[(\w+)\]`", cell)
            assert f"test_{use}" in dict(names), (row[0], use)
            for name, of in names:
                assert of == family and f"def {name}(" in source
