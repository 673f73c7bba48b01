"""Rows of a long benchmark, each kept as soon as it is measured: a later start, also after a kill, goes on from there."""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from benchmarks.results_file import RESULTS, table, write_results
from jaxflows.persistence.atomic_write import atomic_write

Row = dict[str, Any]
# what measures a row; None where there is none to measure
Task = Callable[[], Row | None]


def add_options(parser: argparse.ArgumentParser, name: str) -> None:
    """The options that `measure_and_write` reads."""
    parser.add_argument("--quick", action="store_true", help="small sizes; writes to --run-dir in place of results/")
    parser.add_argument("--output-dir", type=Path, help=f"folder of {name}.json (default: benchmarks/results)")
    parser.add_argument("--run-dir", type=Path, default=Path("runs") / name, help="folder in which rows are kept as they come")
    parser.add_argument(
        "--max-seconds", type=float, default=math.inf, metavar="S", help="begin no row after this; the same command goes on"
    )
    parser.add_argument("--again", action="store_true", help="measure anew what --run-dir has kept")


def output_dir(options: argparse.Namespace) -> Path:
    """Where the results file goes."""
    chosen: Path | None = options.output_dir
    return (options.run_dir if options.quick else RESULTS) if chosen is None else chosen


def measure_and_write(
    name: str,
    tasks: Mapping[str, Task],
    options: argparse.Namespace,
    *,
    seeds: Sequence[int],
    arrange: Callable[[Mapping[str, Row | None]], list[Row]] | None = None,
) -> None:
    """Measure the tasks in order and write ``NAME.json`` after every row, until all are done or the time is out.

    Matrix products are in full precision, which is not a GPU's default: a posterior is compared with an exact one.

    Args:
        name: of the results file.
        tasks: by the names under which their rows are kept.
        options: of `add_options`.
        seeds: every seed used.
        arrange: ``rows by task -> rows of the file``; those there are, in the order of the tasks, when None.
    """
    kept = options.run_dir / f"{'quick_' if options.quick else ''}rows_of_{name}.json"
    kept.parent.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    with jax.default_matmul_precision("highest"):
        for measured in rows_so_far(tasks, kept, max_seconds=options.max_seconds, again=options.again):
            rows = arrange(measured) if arrange else [row for row in measured.values() if row is not None]
            if rows:
                write_results(name, rows, seeds=seeds, directory=output_dir(options), quiet=True)
    print(table(rows))
    print(f"written: {output_dir(options) / name}.json" if rows else "nothing measured, nothing written", flush=True)


def rows_so_far(
    tasks: Mapping[str, Task], kept: Path, *, max_seconds: float = math.inf, again: bool = False
) -> Iterator[dict[str, Row | None]]:
    """What there is of the tasks' rows, in their order: first what was kept, then once more after every row measured.

    Args:
        tasks: by name.
        kept: the file that keeps rows by name, those of other tasks too; its folder must exist.
        max_seconds: no row is begun later.
        again: measure also what was kept.
    """
    stored: dict[str, Row | None] = json.loads(kept.read_text()) if kept.exists() else {}
    measured = {} if again else {name: stored[name] for name in tasks if name in stored}
    if measured:
        print(f"{kept}: {len(measured)} of {len(tasks)} rows; --again measures them anew", flush=True)
    yield measured
    began = time.monotonic()
    left = [name for name in tasks if name not in measured]
    for number, name in enumerate(left):
        seconds = time.monotonic() - began
        if seconds >= max_seconds:
            print(f"out of time: {len(left) - number} of {len(tasks)} rows are left; the same command goes on", flush=True)
            return
        print(f"[{seconds:.0f} s] {name}", flush=True)
        row = tasks[name]()
        stored[name] = None if row is None else {**row, "device": jax.devices()[0].device_kind}
        measured[name] = stored[name]
        atomic_write(kept, json.dumps(stored).encode())
        print(json.dumps(stored[name]), flush=True)
        yield {task: measured[task] for task in tasks if task in measured}
