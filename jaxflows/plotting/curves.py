"""Curves of iterations: the bound of a posterior's fit, the residual of a solver."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from jaxflows.conditional.fit_posterior import FitTrace
from jaxflows.plotting.style import INK, LINES, house_style

_SIZE = (5.2, 3.2)


def trace_figure(trace: FitTrace, *, labels: Sequence[str] = ()) -> Figure:
    """The bound of every row over the steps of `jaxflows.fit_posterior`, with a band of one standard error.

    Args:
        trace: what `jaxflows.fit_posterior` returned beside the fit.
        labels: of the rows; no legend when left out. A row whose bound had not stopped rising ends in an open circle.
    """
    steps, bound, error = np.asarray(trace.steps), np.atleast_2d(trace.bound), np.atleast_2d(trace.bound_std_error)
    if bound.shape != error.shape or len(steps) != len(bound):
        raise ValueError(f"expected a bound and an error at {len(steps)} steps; got {bound.shape} and {error.shape}")
    with house_style():
        figure = Figure(figsize=_SIZE, layout="constrained")
        axes = figure.add_subplot()
        for row in range(bound.shape[1]):
            colour = LINES[row % len(LINES)]
            label = labels[row] if labels else None
            axes.plot(steps, bound[:, row], color=colour, linewidth=1.3, label=label)
            axes.fill_between(
                steps, bound[:, row] - error[:, row], bound[:, row] + error[:, row], color=colour, alpha=0.2, linewidth=0
            )
            if not np.asarray(trace.converged)[row]:
                axes.plot(steps[-1:], bound[-1:, row], "o", color=colour, markerfacecolor="white", clip_on=False)
        axes.set_xlabel("gradient step")
        axes.set_ylabel("bound on log p(observed) (nats)")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if labels:
            axes.legend()
        return figure


def convergence_figure(
    residuals: Mapping[str, Any],
    *,
    tolerance: float | None = None,
    unit: str = "block evaluations",
    per_step: Mapping[str, float] | None = None,
) -> Figure:
    """Constraint residual against work, one colour a solver: the median problem, and the band from best to worst.

    Args:
        residuals: solver's name to residuals after each iteration, (steps,) for one problem or (problems, steps).
        tolerance: drawn as a dashed line.
        unit: of work, on the horizontal axis.
        per_step: solver's name to units of work an iteration; 1 when None.
    """
    if not residuals:
        raise ValueError("expected the residuals of at least one solver; got none")
    with house_style():
        figure = Figure(figsize=_SIZE, layout="constrained")
        axes = figure.add_subplot()
        for index, (name, values) in enumerate(residuals.items()):
            curves = np.atleast_2d(np.asarray(values, np.float64))
            work = np.arange(curves.shape[1]) * (1.0 if per_step is None else per_step[name])
            colour = LINES[index % len(LINES)]
            axes.plot(work, np.nanmedian(curves, axis=0), color=colour, linewidth=1.3, label=name)
            if len(curves) > 1:
                axes.fill_between(
                    work, np.nanmin(curves, axis=0), np.nanmax(curves, axis=0), color=colour, alpha=0.18, linewidth=0
                )
        if tolerance is not None:
            axes.axhline(tolerance, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
            axes.annotate(
                f"tolerance {tolerance:g}", (1, tolerance), xycoords=("axes fraction", "data"), xytext=(0, 3),
                textcoords="offset points", ha="right", size=8, color=INK,
            )  # fmt: skip
        axes.set_yscale("log")
        axes.set_xlabel(unit)
        axes.set_ylabel("constraint residual")
        axes.legend()
        return figure
