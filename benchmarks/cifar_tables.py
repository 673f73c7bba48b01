"""The tables of CIFAR-10's centre."""

from __future__ import annotations

from pathlib import Path

from benchmarks.results_file import read_rows
from benchmarks.table_cells import number, share, table, text


def cifar_centre(results: Path) -> str:
    """The centre of CIFAR-10 test images, a line a system."""
    rows = [row for row in read_rows("cifar_centre", results) if row["kind"] != "paired"]
    columns = [
        ("system", text("system")), ("RMSE, mean over images", number("rmse_mean", ".4f")),
        ("deviation", number("rmse_std", ".4f")), ("before the first step", number("rmse_first_iteration", ".4f")),
        ("deviation", number("rmse_first_std", ".4f")), ("RMSE of the mean", number("rmse_of_mean", ".4f")),
        ("accepted", share("acceptance")), ("evaluations an image", number("evaluations", ".3g")),
        ("seconds an image", number("seconds", ".3g")), ("images", number("images", ".0f")),
    ]  # fmt: skip
    return table(rows, columns, "cifar_centre")


def cifar_paired(results: Path) -> str:
    """Ours against others on the same CIFAR-10 images."""
    rows = [row for row in read_rows("cifar_centre", results) if row["kind"] == "paired"]
    columns = [
        ("ours", text("system")), ("against", text("against")), ("difference of RMSE", number("difference", "+.4f")),
        ("its standard error", number("difference_std_error", ".4f")), ("p", number("p_value", ".2g")),
        ("difference of the mean's RMSE", number("difference_of_mean", "+.4f")),
        ("its standard error", number("difference_of_mean_std_error", ".4f")), ("p", number("p_value_of_mean", ".2g")),
        ("images", number("images", ".0f")),
    ]  # fmt: skip
    return table(rows, columns, "cifar_centre")
