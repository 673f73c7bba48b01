"""The one reader and writer of benchmark results, ``{"environment": {...}, "rows": [{...}]}`` in ``results/NAME.json``.

Figures of another machine go to a folder of their own: ``JAXFLOWS_RESULTS=benchmarks/results/gpu python -m benchmarks.NAME``.
"""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import platform
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxflows.persistence.atomic_write import atomic_write

RESULTS = Path(os.environ.get("JAXFLOWS_RESULTS", Path(__file__).parent / "results"))
PACKAGES = ("jax", "jaxlib", "numpy", "optax", "jaxopt", "flax", "torch", "normflows", "zuko", "flowjax", "distrax")
THREAD_VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "XLA_FLAGS")

Row = dict[str, Any]


def environment(*, seeds: Sequence[int], command: str | None = None) -> dict[str, Any]:
    """Versions, device, cores, command and seeds of this process.

    Args:
        seeds: every seed the benchmark used.
        command: what reproduces it; this process's own command line when None.
    """
    return {
        "versions": {"python": platform.python_version(), **_versions()},
        "device": jax.devices()[0].device_kind,
        "platform": f"{jax.default_backend()} on {platform.system()} {platform.machine()}",
        "cores": _cores(),
        "threads": {name: os.environ[name] for name in THREAD_VARIABLES if name in os.environ},
        "command": _this_command() if command is None else command,
        "seeds": [int(seed) for seed in seeds],
    }


def read_rows(name: str, directory: Path = RESULTS) -> list[Row]:
    """The rows of ``NAME.json``, or of its parts ``NAME_*.json``; none when there are no such files."""
    whole = directory / f"{name}.json"
    files = [whole] if whole.exists() else sorted(directory.glob(f"{name}_*.json"))
    return [row for file in files for row in json.loads(file.read_text())["rows"]]


def write_results(
    name: str,
    rows: Sequence[Row],
    *,
    seeds: Sequence[int],
    command: str | None = None,
    directory: str | os.PathLike[str] = RESULTS,
    quiet: bool = False,
) -> Path:
    """Print the rows as a table and write them with their environment to ``directory/NAME.json``, atomically.

    Args:
        name: the benchmark's name; its file is ``NAME.json``.
        rows: one dictionary a measurement, of strings, booleans and numbers (JAX and NumPy scalars too). A number that
            is not finite is written as the string 'inf', '-inf' or 'nan', which keeps the file standard JSON.
        seeds: every seed the benchmark used.
        command: what reproduces it; this process's own command line when None.
        directory: where to write; made when missing.
        quiet: print nothing.

    Returns:
        The path written.
    """
    plain = [{key: _plain(value) for key, value in row.items()} for row in rows]
    if not quiet:
        print(table(plain), flush=True)
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    content = {"environment": environment(seeds=seeds, command=command), "rows": plain}
    path = directory / f"{name}.json"
    atomic_write(path, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())
    if not quiet:
        print(f"written: {path}", flush=True)
    return path


def table(rows: Sequence[Row]) -> str:
    """The rows as aligned text, one column a key, in the order the keys first appear."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [columns, *([_cell(row.get(column, "")) for column in columns] for row in rows)]
    widths = [max(len(line[position]) for line in cells) for position in range(len(columns))]
    lines = ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in cells]
    return "\n".join(lines)


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _cores() -> int:
    # cores this process may use, where the system can say (a pinned run has fewer than the machine)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _this_command() -> str:
    module = getattr(sys.modules["__main__"], "__spec__", None)
    program = ["-m", module.name] if module is not None else sys.argv[:1]
    return shlex.join(["python", *program, *sys.argv[1:]])


def _plain(value: Any) -> Any:
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        value = np.asarray(value).item()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
