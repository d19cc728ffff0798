"""Pages that quote a figure quote the one in the data file, with what made it."""

import tomllib
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

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


def test_card_has_the_figures_in_the_form_of_the_hub():
    card = ModelCard((ROOT / "siammae/weights/siammae-ti8/README.md").read_text())
    measured = [(result.metric_name, result.metric_value) for result in card.data.eval_results]
    scores = [float(cells[0]) for cells in TABLES[0]["rows"].values()]
    assert [value for _, value in measured] == scores
    assert all(name.startswith("J&F, ") for name, _ in measured)
    assert card.data.license == "apache-2.0"


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120
