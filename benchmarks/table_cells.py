"""Rows of a results file as a Markdown table: the table, and what its cells say."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from benchmarks.results_file import Row

# from here on a number with a point is written as a power of ten
MOST = 1e8

Column = tuple[str, Callable[[Row], str]]


def table(rows: Sequence[Row], columns: Sequence[Column], source: str, folder: str = "", script: str | None = None) -> str:
    """Rows as a Markdown table with the file they come from below it, or a line saying how to make that file.

    Args:
        rows, columns: of the table.
        source: name of the results file.
        folder: of it, within the results.
        script: that writes it, where it has another name.
    """
    file = f"benchmarks/results/{folder}{source}.json"
    if not rows:
        return f"*Not measured yet: `python -m benchmarks.{script or source}` writes `{file}`.*"
    lines = ["| " + " | ".join(head for head, _ in columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(cell(row) for _, cell in columns) + " |" for row in rows]
    return "\n".join([*lines, "", f"<sub>From `{file}`.</sub>"])


def number(key: str, form: str = ".3g", factor: float = 1.0) -> Callable[[Row], str]:
    """A cell with the row's number in a format; a dash where there is none, 'inf' and 'nan' as they are.

    Of a number with a point and too many digits before it two digits are told: a sampler ran away.
    """

    def cell(row: Row) -> str:
        value = row.get(key)
        if value is None or value == "":
            return "-"
        if isinstance(value, str):
            return value
        ran_away = abs(factor * value) >= MOST and form.endswith("f") and not form.endswith(".0f")
        return format(factor * value, ".1e" if ran_away else form)

    return cell


def text(key: str) -> Callable[[Row], str]:
    """A cell with the row's text, its underscores read as spaces."""
    return lambda row: str(row.get(key, "")).replace("_", " ").replace("%", " %")


def share(key: str) -> Callable[[Row], str]:
    """A cell with a fraction as a percentage, never rounded up to 100."""

    def cell(row: Row) -> str:
        value = row.get(key)
        if not isinstance(value, int | float):
            return "-"
        percent = f"{100 * value:.1f} %"
        return "< 100 %" if percent == "100.0 %" and value < 1 else percent.replace(".0 %", " %")

    return cell


def missing(row: Row) -> str:
    """What a row of digits lacks: a share, or the name of a mask."""
    value = row.get("missing", "")
    kind, _, side = str(value).partition(":")
    if kind == "centre":
        return f"centre {side}x{side}"
    return f"{100 * float(side if kind == 'missing' else value):.0f} %"
