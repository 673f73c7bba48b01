"""The tables of learning from rows with holes; `benchmarks.readme_tables` writes them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from benchmarks.results_file import Row, read_rows
from benchmarks.table_cells import missing, number, share, table, text


def completion_speed(results: Path) -> str:
    """PL-MCMC's completions, and what ours take to be as good."""
    columns = [
        ("missing", missing), ("system", text("system")), ("as good as both", text("reached")), ("RMSE", number("rmse", ".4f")),
        ("CRPS", number("crps", ".4f")), ("samples a row", number("samples", ".0f")), ("steps", number("steps", ".0f")),
        ("accepted", share("acceptance")), ("R-hat", number("r_hat", ".3g")), ("effective samples", number("ess", ".0f")),
        ("evaluations", number("evaluations", ".3g")), ("times ours", number("more_evaluations", ".0f")),
        ("seconds", number("seconds", ".3g")), ("times ours", number("more_seconds", ".0f")),
    ]  # fmt: skip
    return table(read_rows("completion_speed", results), columns, "completion_speed")


def incomplete(results: Path) -> str:
    """Training on incomplete MNIST, a line a system and score, a column a rate."""
    rows = read_rows("mnist_incomplete", results)
    rates = sorted({row["missing"] for row in rows})
    scores = (
        ("accuracy_incomplete", "accuracy, classifier of incomplete digits", ".4f"),
        ("accuracy_complete_classifier", "accuracy, classifier of complete digits", ".4f"),
        ("fid_sample", "Frechet distance of a sample", ".3g"), ("rmse_mean", "RMSE of the mean", ".4f"),
        ("rmse_sample", "RMSE of a sample", ".4f"), ("coverage_90", "coverage of 0.9 intervals", ".3f"),
        ("train_seconds", "seconds of training", ".0f"),
    )  # fmt: skip
    lines = []
    for key, label, form in scores:
        for system, scaled in dict.fromkeys((row["system"], row.get("scaled", False)) for row in rows if key in row):
            here = [r for r in rows if (r["system"], r.get("scaled", False)) == (system, scaled) and key in r]
            values = {f"{r['missing']}": format(r[key], form) for r in here}
            lines.append({"score": label, "system": system + (", scaled" if scaled else ""), **values})
    columns = [("score", text("score")), ("system", text("system"))]
    columns += [(missing({"missing": rate}) + " missing", _or_dash(str(rate))) for rate in rates]
    return table(lines, columns, "mnist_incomplete")


def _or_dash(key: str) -> Callable[[Row], str]:
    return lambda row: row.get(key, "-")


def extractor(results: Path) -> str:
    """The classifiers behind the Frechet distance, a line a seed."""
    columns = [
        ("seed", number("seed", ".0f")), ("epochs", number("epochs", ".0f")),
        ("accuracy on clean test digits", share("accuracy")),
        ("distance of clean test digits", number("fid_test", ".3f")),
        ("of the Gaussian's mean, half missing", number("fid_gaussian_half", ".2f")),
        ("shipped", lambda row: "yes" if row["shipped"] else "no"),
    ]  # fmt: skip
    return table(read_rows("train_fid_extractor", results), columns, "train_fid_extractor")


def scaling(results: Path) -> str:
    """Joint training over devices."""
    rows = [row for row in read_rows("scaling", results) if row["part"] == "devices"]
    columns = [
        ("devices", number("devices", ".0f")), ("rows a second", number("rows_per_second", ".1f")),
        ("over one device", number("efficiency", ".2f")), ("bytes said a step", number("collective_bytes", ",.0f")),
        ("collectives in loops", number("collectives_in_loops", ".0f")),
        ("memory of a device, MB", number("peak_bytes", ".1f", 1e-6)), ("loss of the last step", number("loss", ".5f")),
    ]  # fmt: skip
    return table(rows, columns, "scaling")


def step_memory(results: Path) -> str:
    """Memory of a joint step against batch and depth."""
    rows = [row for row in read_rows("scaling", results) if row["part"] == "memory"]
    columns = [
        ("batch", number("batch", ".0f")), ("blocks", number("depth", ".0f")),
        ("memory, MB", number("peak_bytes", ".1f", 1e-6)),
    ]  # fmt: skip
    return table(rows, columns, "scaling")


def training_step(source: str, folder: str = "") -> Callable[[Path], str]:
    """One step of joint training, on the machine whose results are in a folder."""
    columns = [
        ("size", text("size")), ("convolutions", number("convolutions", ".0f")), ("channels", number("channels", ".0f")),
        ("dense blocks", number("dense_blocks", ".0f")), ("batch", number("batch", ".0f")), ("device", text("device")),
        ("seconds a step", number("step_seconds", ".3f")), ("solving", share("solve_share")),
        ("gradient", share("gradient_share")), ("update", share("update_share")),
        ("evaluations a solve", number("evaluations", ".0f")), ("memory, MB", number("peak_bytes", ".0f", 1e-6)),
    ]  # fmt: skip
    return lambda results: table(read_rows(source, results / folder), columns, source, folder=folder)
