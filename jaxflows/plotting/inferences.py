"""One picture of inferred images: what was measured, what a method made of it, and the truth."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from jaxflows.plotting.style import DEVIATION_COLOURS, FLAGGED, HIDDEN, INK, house_style

# inches: side of a picture of an event, and the spaces around it
_CELL, _GAP, _HEAD, _FOOT, _NAMES, _EDGE = 0.72, 0.05, 0.36, 0.42, 0.85, 0.12


def inference_figure(
    truth: Any,
    observations: Any,
    samples: Any,
    *,
    hidden: Any = None,
    flagged: Any = None,
    title: str = "",
    num_samples: int = 4,
    max_rows: int = 10,
) -> Figure:
    """Events side by side; lines: observation, samples, their mean and standard deviation, truth.

    Images share one colour range, that of the truth; the deviation has its own. Pixels hidden in every channel are blue in the
    observation, a flagged sample has a red frame and is left out of the mean and the deviation.

    Args:
        truth: (rows, height, width) or (rows, height, width, 3).
        observations: of the same shape, as A^+ b; what it holds where ``hidden`` is not looked at.
        samples: (rows, S, ...).
        hidden: boolean, of the truth's shape; nothing when None.
        flagged: boolean, (rows, S): samples that a method gave no weight; none when None.
        title: above the picture.
        num_samples: samples drawn, at most.
        max_rows: events drawn, at most; the title says how many there are.

    Returns:
        A `matplotlib.figure.Figure`; write it with `save_figure`.
    """
    truth, observations, samples = (np.asarray(values, np.float64) for values in (truth, observations, samples))
    shape = truth.shape[1:]
    if len(shape) not in (2, 3) or shape[2:] not in ((), (3,)) or not len(truth):
        raise ValueError(f"expected images (rows, height, width) or (rows, height, width, 3); got {truth.shape}")
    if observations.shape != truth.shape or samples.ndim < 2 or (len(samples), *samples.shape[2:]) != truth.shape:
        raise ValueError(
            f"expected observations {truth.shape} and samples ({len(truth)}, S, *{shape}), as the truth; "
            f"got {observations.shape} and {samples.shape}"
        )
    whole = np.zeros(truth.shape, bool) if hidden is None else np.asarray(hidden)
    blue = np.asarray(whole.reshape(*truth.shape[:3], -1).all(axis=-1))
    bad = np.zeros(samples.shape[:2], bool) if flagged is None else np.asarray(flagged)
    if len(truth) > max_rows:
        title = f"{title} (first {max_rows} of {len(truth)} rows)".strip()
    chosen = slice(0, max_rows)
    with house_style():
        return _draw(truth[chosen], observations[chosen], samples[chosen], blue[chosen], bad[chosen], title, num_samples)


def _draw(
    truth: np.ndarray, observations: np.ndarray, samples: np.ndarray, blue: np.ndarray, bad: np.ndarray, title: str, shown: int
) -> Figure:
    rows, height, width = truth.shape[:3]
    shown = min(shown, samples.shape[1])
    low, high = float(truth.min()), float(truth.max())
    grey = Normalize(low, high if high > low else low + 1.0, clip=True)
    kept = np.where(bad.reshape(*bad.shape, *(1,) * (samples.ndim - 2)), np.nan, samples)
    # a row all of whose samples are flagged shows them all the same
    kept = np.where(np.isnan(kept).all(axis=1, keepdims=True), samples, kept)
    std = np.nanstd(kept, axis=1).reshape(rows, height, width, -1).mean(axis=-1)
    deviation = Normalize(0.0, float(std.max()) or 1.0)

    def rgb(values: np.ndarray) -> np.ndarray:
        scaled = np.asarray(grey(values))
        return scaled if scaled.ndim == 4 else np.asarray(colormaps["gray"](scaled))[..., :3]

    seen = np.where(blue[..., None], HIDDEN, rgb(observations))
    lines = [("observation", seen), *[(f"sample {i + 1}", rgb(samples[:, i])) for i in range(shown)]]
    lines += [("mean", rgb(np.nanmean(kept, axis=1))), ("std", colormaps[DEVIATION_COLOURS](deviation(std))[..., :3])]
    lines.append(("truth", rgb(truth)))
    cell = _CELL * width / max(height, width), _CELL * height / max(height, width)
    size = _EDGE + _NAMES + rows * (cell[0] + _GAP), _HEAD + len(lines) * (cell[1] + _GAP) + _FOOT
    # the title and the bar of colours need their room above and below few events
    size = max(size[0], 3.2, _EDGE + 0.075 * len(title)), size[1]
    figure = Figure(figsize=size)
    figure.text(_EDGE / size[0], 1 - 0.1 / size[1], title, weight="bold", va="top", color=INK)
    for number, (name, pictures) in enumerate(lines):
        bottom = size[1] - _HEAD - cell[1] - number * (cell[1] + _GAP)
        figure.text(_EDGE / size[0], (bottom + cell[1] / 2) / size[1], name, va="center", size=8, color=INK)
        for row, picture in enumerate(pictures):
            left = _EDGE + _NAMES + row * (cell[0] + _GAP)
            axes = figure.add_axes((left / size[0], bottom / size[1], cell[0] / size[0], cell[1] / size[1]))
            axes.set_axis_off()
            axes.imshow(picture, interpolation="nearest", aspect="auto")
            if 1 <= number <= shown and bad[row, number - 1]:
                frame = Rectangle((0, 0), 1, 1, transform=axes.transAxes, fill=False, edgecolor=FLAGGED, linewidth=2.5)
                axes.add_patch(frame)
    bar = figure.add_axes(((_EDGE + _NAMES + 0.95) / size[0], 0.26 / size[1], 1.0 / size[0], 0.08 / size[1]))
    colours = figure.colorbar(ScalarMappable(deviation, DEVIATION_COLOURS), cax=bar, orientation="horizontal")
    colours.set_ticks([0.0, float(deviation.vmax or 1.0)], labels=["0", f"{deviation.vmax:.2g}"])
    colours.ax.tick_params(labelsize=7.5, length=2, width=0.6)
    name = "standard deviation"
    bar.text(-0.08, 0.5, name, transform=bar.transAxes, ha="right", va="center", size=7.5, color=INK)
    if bad[:, :shown].any():
        text = "red frame: without weight"
        figure.text(_EDGE / size[0], 0.05 / size[1], text, va="bottom", size=7.5, color=FLAGGED)
    return figure
