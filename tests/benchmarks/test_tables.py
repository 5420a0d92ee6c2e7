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


def test_the_papers_model_is_named_where_its_figures_stand() -> None:
    """Both roundings, from results on the same clips, and what stands in for SPyNet."""
    rows = {r[0]: r[1:] for r in tables.match()[1]}
    code = rows["the REVMark paper's model, motion by block search, rounding of its code"]
    printed = rows["the same, rounding by eq. (1) as printed"]
    found = tables.load("fidelity_unfitted")
    for name, shown in (("revmark", code), ("revmark:rounding=paper", printed)):
        own = [r["figures"] for r in found["rows"] if r["simulator"] == name]
        assert len(own) == 4
        for cell, key, near in ((shown[0], "survival_error", 6e-4), (shown[2], "skill", 6e-3)):
            assert float(cell) == pytest.approx(sum(f[key] for f in own) / 4, abs=near), (name, key)
    assert float(printed[0]) < float(code[0])
    assert float(printed[2]) > float(code[2])
    for page in ("README.md", "docs/fidelity.rst", "docs/leaderboard.rst", "docs/revmark.rst"):
        text = (ROOT / page).read_text()
        assert "SPyNet" in text, page
        assert "block search" in text, page
