"""Rows inferred from measurements, the table of them, and their file."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxflows.cli.completion_table import aligned
from jaxflows.inverse.infer import Inference
from jaxflows.known_mean import known_mean
from jaxflows.persistence import atomic_write


class Problem(NamedTuple):
    """What is to be inferred, and how.

    Attributes:
        truth: (rows, *event), what was measured.
        numbers: (rows,), row numbers in the data file.
        values: (rows, m), the measurements.
        observations: (rows, *event), A^+ b.
        hidden: boolean, (*event,), entries that a mask hides; all False under other measurements.
        settings: ``measurement``, ``noise``, ``method``, ``steps``, ``samples``, ``seed``, ``model``, its ``fingerprint`` and
            ``source`` (the data file): all that the result depends on besides the arrays.
    """

    truth: np.ndarray
    numbers: np.ndarray
    values: np.ndarray
    observations: np.ndarray
    hidden: np.ndarray
    settings: dict[str, Any]

    def first(self, count: int) -> Problem:
        """The problem of the first rows alone."""
        rows = {name: getattr(self, name)[:count] for name in ("truth", "numbers", "values", "observations")}
        return self._replace(**rows)


def samples_of(found: list[Inference]) -> np.ndarray:
    """Samples of all rows, (rows, S, *event)."""
    return np.stack([np.asarray(one.samples) for one in found])


def flagged(found: list[Inference]) -> np.ndarray:
    """Samples without weight, (rows, S)."""
    return np.stack([~np.isfinite(np.asarray(one.log_weights)) for one in found])


def write_inferred(path: Path, problem: Problem, found: list[Inference]) -> None:
    """Write one ``.npz``, whole or not at all; the same problem gives the same bytes, wall time being left out."""
    arrays: dict[str, Any] = {
        name: np.stack([np.asarray(getattr(one, name)) for one in found]) for name in ("samples", "log_weights", "misfit")
    }
    arrays |= {name: np.asarray([getattr(one, name) for one in found]) for name in ("bound", "evaluations")}
    arrays |= {name: getattr(problem, name) for name in ("truth", "numbers", "values", "observations", "hidden")}
    content = io.BytesIO()
    np.savez(content, settings=np.asarray(json.dumps(problem.settings, sort_keys=True)), **arrays)
    atomic_write(path, content.getvalue())


def inference_table(problem: Problem, found: list[Inference]) -> str:
    """One line of scores: over the entries a mask hides, or over all entries under other measurements and under noise."""
    samples, bad = samples_of(found), flagged(found)
    scored = problem.hidden if problem.hidden.any() and not problem.settings["noise"] else np.ones_like(problem.hidden)
    errors = (samples - problem.truth[:, None])[:, :, scored]
    usable = np.where(bad[..., None], np.nan, errors)
    rmse_mean, rmse_sample = np.sqrt(known_mean(known_mean(usable, 1) ** 2)), np.sqrt(known_mean(usable**2))
    head = ["measurement", "method", "rows", "samples", "RMSE mean", "RMSE sample", "misfit", "evaluations a row", "seconds"]
    misfit = np.concatenate([np.asarray(one.misfit) for one in found])
    line = [
        problem.settings["measurement"], problem.settings["method"], str(len(found)), str(samples.shape[1]),
        f"{rmse_mean:.4f}", f"{rmse_sample:.4f}", f"{np.sqrt(np.mean(misfit**2)):.2g}",
        f"{np.mean([one.evaluations for one in found]):.0f}", f"{sum(one.seconds for one in found):.1f}",
    ]  # fmt: skip
    return aligned([head, line])


def notes_by_row(problem: Problem, found: list[Inference]) -> list[str]:
    """Every note once, with the rows it is of."""
    rows: dict[str, list[str]] = {}
    for number, one in zip(problem.numbers, found, strict=True):
        for note in one.notes:
            rows.setdefault(note, []).append(str(number))
    return [f"row{'s' if len(of) > 1 else ''} {', '.join(of)}: {note}" for note, of in rows.items()]
