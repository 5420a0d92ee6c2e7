"""The README says what the results say."""

from pathlib import Path

import pytest

tables = pytest.importorskip("benchmarks.tables")
ROOT = Path(__file__).parents[2]


def test_readme_tables_are_those_of_the_results() -> None:
    text = (ROOT / "README.md").read_text()
    assert text.count("<!-- table ") == 4
    assert tables.filled(text) == text


def test_every_table_has_rows() -> None:
    for name, table in tables.TABLES.items():
        head, rows = table()
        assert rows, name
        assert all(len(r) == len(head) for r in rows), name
