"""Completed vectors as curves over the entries: table rows, time series."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from jaxflows.plotting.style import INK, LINES

if TYPE_CHECKING:
    from jaxflows.plotting.completions import Panel

# inches
_WIDTH, _HEIGHT, _HEAD, _LEGEND = 4.8, 1.25, 1.0, 0.32


def draw_vectors(panels: list[Panel], shown: int) -> Figure:
    """A plot a row: observed entries, the truth where known, samples, and mean with a band of two deviations."""
    lines = max(len(panel.originals) for panel in panels)
    width, height = _WIDTH * len(panels), _HEAD + _HEIGHT * lines
    layout = ConstrainedLayoutEngine(rect=(0, 0, 1, 1 - _LEGEND / height))
    figure = Figure(figsize=(width, height), layout=layout)
    axes = figure.subplots(lines, len(panels), sharex=True, sharey=True, squeeze=False)
    handles = {}
    for column, panel in enumerate(panels):
        axes[0, column].set_title(panel.title, weight="bold", loc="left", color=INK)
        entries = np.arange(panel.originals[0].size)
        for row in range(lines):
            place = axes[row, column]
            if row >= len(panel.originals):
                place.set_axis_off()
                continue
            truth, seen = panel.originals[row].ravel(), panel.observed[row].ravel()
            mean, std = panel.completion.mean[row].ravel(), panel.completion.std[row].ravel()
            missing = ~seen
            for sample in panel.completion.samples[row, :shown]:
                (handles["samples"],) = place.plot(entries, sample.ravel(), color=LINES[5], linewidth=0.7, alpha=0.8)
            handles["mean ± 2 std"] = place.errorbar(
                entries[missing], mean[missing], 2 * std[missing], fmt="_", color=LINES[0], markersize=5, elinewidth=1.4
            )
            (handles["observed"],) = place.plot(entries[seen], truth[seen], "o", color=INK, markersize=2.6)
            known = missing & np.isfinite(truth)
            if known.any():
                (handles["truth"],) = place.plot(
                    entries[known], truth[known], "o", markerfacecolor="none", color=LINES[1], markersize=3.6
                )
            place.margins(x=0.02)
            if column == 0:
                place.set_ylabel("value")
        axes[min(lines, len(panel.originals)) - 1, column].set_xlabel("entry")
        axes[min(lines, len(panel.originals)) - 1, column].tick_params(labelbottom=True)
    figure.legend(handles.values(), handles.keys(), loc="upper center", ncols=len(handles))
    return figure
