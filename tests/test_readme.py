"""README.md and docs/: the example runs, the figures are those of the results files, links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from benchmarks.readme_tables import MARKED, ROOT, main, pages, render
from benchmarks.results_file import read_rows
from benchmarks.table_cells import number

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
FIGURE = re.compile(r"\d\s?(ms|seconds|s|minutes|nats|times|x|%)(?![\w-])")
CODE = re.compile(r"```.*?```|`[^`]*`|^    .*?$", re.DOTALL | re.MULTILINE)
PAGES = [page.relative_to(ROOT) for page in pages()]


def anchor(heading):
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_the_readme_example_completes_rows_from_scratch(tmp_path, monkeypatch):
    code = re.search(r"<!-- example -->\n```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[1]
    assert len([line for line in code.splitlines() if line.strip()]) <= 25
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(code, "README.md", "exec"), names)
    result, observed, truth = names["result"], names["observed"], names["truth"]
    for samples, row, seen in zip(result.samples, truth, observed, strict=True):
        assert (samples[:, seen] == row[seen]).all()
    assert result.info.done.all()
    assert (result.info.residual < 1e-4).all()
    hidden = ~observed
    error = np.sqrt(np.mean((result.mean - truth)[hidden] ** 2))
    assert error < 0.7 * np.std(truth[hidden])
    assert Path("completed.png").stat().st_size > 10_000
    assert Path("waves.safetensors").exists()


@pytest.mark.parametrize("ending", ["jaxflows complete", "pytest"])
def test_each_set_up_is_one_command(ending):
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len([line for line in lines if line.startswith("python3 -m venv .venv && ") and line.endswith(ending)]) == 1


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_tables_are_those_of_the_results_files(page):
    text = (ROOT / page).read_text()
    assert render(text) == text, "run python -m benchmarks.readme_tables"


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_no_measured_figure_stands_outside_the_tables(page):
    prose = CODE.sub("", MARKED.sub("", (ROOT / page).read_text()))
    assert [found[0] for found in FIGURE.finditer(prose)] == []


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_lead_somewhere(page):
    for target in LINK.findall((ROOT / page).read_text()):
        if target.startswith("http"):
            continue
        path, _, fragment = target.partition("#")
        place = (ROOT / page).parent / path if path else ROOT / page
        assert place.exists(), target
        if fragment:
            headings = re.findall(r"^#+ (.*)$", place.read_text(), re.MULTILINE)
            assert fragment in map(anchor, headings), target


def test_a_missing_results_file_is_named_and_an_unknown_table_refused(tmp_path):
    page = "<!-- results: completion -->\nold\n<!-- end -->"
    assert "python -m benchmarks.mnist_completion" in render(page, tmp_path)
    with pytest.raises(ValueError, match="nonsense"):
        render("<!-- results: nonsense -->\n<!-- end -->", tmp_path)


def test_parts_of_a_results_file_are_read_together_and_numbers_copied(tmp_path):
    row = '{"missing": "missing:0.5", "rmse_mean": %s, "ess_fraction": 0.99999}'
    for part, value in (("a", 0.12344), ("b", '"nan"')):
        (tmp_path / f"mnist_completion_{part}.json").write_text('{"rows": [' + row % value + "]}")
    assert len(read_rows("mnist_completion", tmp_path)) == 2
    written = render("<!-- results: completion -->\n<!-- end -->", tmp_path)
    assert "| 50 % | 0.1234 |" in written
    assert "| 50 % | nan |" in written
    assert "< 100 %" in written
    assert render(written, tmp_path) == written


@pytest.mark.parametrize(
    ("value", "form", "cell"),
    [
        (0.12344, ".4f", "0.1234"),
        (1.7e15, ".4f", "1.7e+15"),
        (1.7e15, ".2g", "1.7e+15"),
        (2e8, ".0f", "200000000"),
        (None, ".4f", "-"),
    ],
)
def test_a_number_that_ran_away_is_told_as_a_power_of_ten(value, form, cell):
    assert number("x", form)({"x": value}) == cell


def test_the_check_of_the_command_changes_nothing(capsys):
    before = [page.read_text() for page in pages()]
    assert main(["--check"]) == 0
    assert [page.read_text() for page in pages()] == before
    assert capsys.readouterr().out == ""
