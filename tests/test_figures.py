"""Pages that quote a figure quote the one in the data file, with what made it."""

import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TABLES = tomllib.loads((ROOT / "benchmarks/figures.toml").read_text())["table"]
CASES = [(table, page) for table in TABLES for page in table["pages"]]


@pytest.mark.parametrize(("table", "page"), CASES, ids=[f"{page}-{table['columns'][0]}" for table, page in CASES])
def test_page_has_the_rows_of_the_table_and_what_made_them(table, page):
    text = (ROOT / page).read_text().replace("**", "")
    lines = text.splitlines()
    for label, cells in table["rows"].items():
        assert len(cells) == len(table["columns"])
        assert any(line.startswith(f"| {' | '.join([label, *cells])} |") for line in lines), label
    said = " ".join(text.split())
    for part in ("command", "machine", "date"):
        assert table[part] in said, part


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120
