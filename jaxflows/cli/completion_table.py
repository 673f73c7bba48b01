"""The table that ``jaxflows complete`` prints: one line a mask."""

from __future__ import annotations

import numpy as np

from jaxflows.cli.completed_rows import Task
from jaxflows.cli.models import Model
from jaxflows.conditional.completion import Completion
from jaxflows.known_mean import known_mean
from jaxflows.metrics import gaussian_conditional

_HEAD = (
    "mask", "rows", "RMSE mean", "RMSE sample", "RMSE Gaussian", "ESS of {samples}", "worst residual", "converged",
    "seconds",
)  # fmt: skip


def completion_table(task: Task, completion: Completion, model: Model) -> str:
    """Scores of the rows that are done, over their missing entries where the truth is known.

    RMSE of the mean of the draws and of the draws themselves (sqrt(2) times larger when the posterior is exact), of the
    conditional mean of the Gaussian of the training data, then the mean effective sample size, the worst constraint
    residual, the share of draws whose constraint was solved, and seconds with compilation. '-' where there is none.
    """
    head = [name.format(samples=task.settings["samples"]) for name in _HEAD]
    lines = [_line(task, completion, model, index, mask) for index, mask in enumerate(task.settings["masks"])]
    return aligned([head, *lines])


def _line(task: Task, completion: Completion, model: Model, index: int, mask: str) -> list[str]:
    chosen = (task.mask_of == index) & completion.info.done
    truth, observed = task.rows[chosen], task.observed[chosen]
    scored = ~observed & np.isfinite(truth)
    mean, samples = completion.mean[chosen], completion.samples[chosen]
    usable = np.isfinite(completion.log_weights[chosen])
    gaussian = "-"
    if model.baseline is not None and scored.any():
        gaussian = number(_rmse(gaussian_conditional(model.baseline(), truth, observed).mean - truth, scored), ".4f")
    info = type(completion.info)(*(values[chosen] for values in completion.info))
    spread = np.broadcast_to(scored[:, None], samples.shape) & usable.reshape(usable.shape + (1,) * (truth.ndim - 1))
    return [
        mask,
        str(int(chosen.sum())),
        number(_rmse(mean - truth, scored), ".4f"),
        number(_rmse(samples - truth[:, None], spread), ".4f"),
        gaussian,
        number(known_mean(info.ess), ".1f"),
        number(np.nanmax(info.residual, initial=-np.inf), ".1e"),
        number(known_mean(info.converged), ".1%"),
        number(float(info.seconds.sum()), ".1f"),
    ]


def _rmse(errors: np.ndarray, scored: np.ndarray) -> float:
    return float(np.sqrt(np.mean(errors[scored] ** 2))) if scored.any() else np.nan


def number(value: float, form: str) -> str:
    """A number in a format, '-' where there is none."""
    return format(value, form) if np.isfinite(value) else "-"


def aligned(cells: list[list[str]]) -> str:
    """Cells as lines of text, the first column to the left and the others to the right."""
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    lines = []
    for line in cells:
        first, *rest = (cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        lines.append("  ".join([line[0].ljust(len(first)), *rest]))
    return "\n".join(lines)
