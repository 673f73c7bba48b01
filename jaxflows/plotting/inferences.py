"""One picture of inferred images: what was measured, what a method made of it, and the truth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

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
    truth, observations, whole = _checked(truth, observations, hidden)
    samples = _samples_of(truth, samples, "samples")
    bad = np.zeros(samples.shape[:2], bool) if flagged is None else np.asarray(flagged)
    rows = slice(0, max_rows)
    made = _kept(samples[rows], bad[rows])
    shown = min(num_samples, samples.shape[1])
    paint = _Paint(truth[rows], [made])
    lines = [_Line("observation", paint.seen(observations[rows], whole[rows]))]
    lines += [_Line(f"sample {i + 1}", paint.rgb(samples[rows, i]), bad[rows, i]) for i in range(shown)]
    lines += [
        _Line("mean", paint.rgb(np.nanmean(made, axis=1))),
        _Line("std", paint.std(made)),
        _Line("truth", paint.rgb(truth[rows])),
    ]
    with house_style():
        return _draw(lines, paint, _headline(title, len(truth), max_rows), truth.shape[1:3])


def comparison_figure(
    truth: Any, observations: Any, samples: Mapping[str, Any], *, hidden: Any = None, title: str = "", max_rows: int = 10
) -> Figure:
    """What several methods infer of the same events; lines: observation, of each method a sample, mean and deviation, truth.

    Colours are as in `inference_figure`; deviations of all methods share one range. A method that gives one point has one line.

    Args:
        truth: (rows, height, width) or (rows, height, width, 3).
        observations: of the same shape, as A^+ b.
        samples: method by method, (rows, S, ...); S is 1 for points.
        hidden, title, max_rows: as in `inference_figure`.

    Returns:
        A `matplotlib.figure.Figure`; write it with `save_figure`.
    """
    truth, observations, whole = _checked(truth, observations, hidden)
    rows = slice(0, max_rows)
    made = {name: _samples_of(truth, values, name)[rows] for name, values in samples.items()}
    paint = _Paint(truth[rows], [values for values in made.values() if values.shape[1] > 1])
    lines = [_Line("observation", paint.seen(observations[rows], whole[rows]))]
    for name, values in made.items():
        if values.shape[1] == 1:
            lines.append(_Line(name, paint.rgb(values[:, 0])))
        else:
            lines += [_Line(name, paint.rgb(values[:, 0])), _Line("   mean", paint.rgb(values.mean(axis=1)))]
            lines.append(_Line("   std", paint.std(values)))
    lines.append(_Line("truth", paint.rgb(truth[rows])))
    with house_style():
        return _draw(lines, paint, _headline(title, len(truth), max_rows), truth.shape[1:3])


class _Line(NamedTuple):
    """Pictures side by side: their name, RGB (rows, height, width, 3), and which of them are flagged, none when None."""

    name: str
    pictures: np.ndarray
    flagged: np.ndarray | None = None


class _Paint:
    """Events as RGB: one range for all images, that of the truth, and one for all deviations."""

    def __init__(self, truth: np.ndarray, sampled: list[np.ndarray]) -> None:
        low, high = float(truth.min()), float(truth.max())
        self._grey = Normalize(low, high if high > low else low + 1.0, clip=True)
        self.deviation = Normalize(0.0, max((float(_std(values).max()) for values in sampled), default=0.0) or 1.0)

    def rgb(self, values: np.ndarray) -> np.ndarray:
        scaled = np.asarray(self._grey(values))
        return scaled if scaled.ndim == 4 else np.asarray(colormaps["gray"](scaled))[..., :3]

    def seen(self, observations: np.ndarray, hidden: np.ndarray) -> np.ndarray:
        return np.where(hidden[..., None], HIDDEN, self.rgb(observations))

    def std(self, samples: np.ndarray) -> np.ndarray:
        return np.asarray(colormaps[DEVIATION_COLOURS](self.deviation(_std(samples))))[..., :3]


def _std(samples: np.ndarray) -> np.ndarray:
    """(rows, height, width) of samples (rows, S, height, width) or (rows, S, height, width, 3), channels averaged."""
    deviation = np.nanstd(samples, axis=1)
    return deviation.reshape(*deviation.shape[:3], -1).mean(axis=-1)


def _checked(truth: Any, observations: Any, hidden: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Truth and observations as floats, and which pixels are hidden in every channel, (rows, height, width)."""
    truth, observations = (np.asarray(values, np.float64) for values in (truth, observations))
    if truth.ndim not in (3, 4) or truth.shape[3:] not in ((), (3,)) or not len(truth):
        raise ValueError(f"expected images (rows, height, width) or (rows, height, width, 3); got {truth.shape}")
    if observations.shape != truth.shape:
        raise ValueError(f"expected observations {truth.shape}, as the truth; got {observations.shape}")
    whole = np.zeros(truth.shape, bool) if hidden is None else np.asarray(hidden)
    return truth, observations, np.asarray(whole.reshape(*truth.shape[:3], -1).all(axis=-1))


def _samples_of(truth: np.ndarray, samples: Any, name: str) -> np.ndarray:
    samples = np.asarray(samples, np.float64)
    if samples.ndim < 2 or (len(samples), *samples.shape[2:]) != truth.shape:
        raise ValueError(
            f"expected {name} ({len(truth)}, S, {', '.join(map(str, truth.shape[1:]))}), as the truth; got {samples.shape}"
        )
    return samples


def _kept(samples: np.ndarray, flagged: np.ndarray) -> np.ndarray:
    """NaN for flagged samples; a row all of whose samples are flagged shows them all the same."""
    kept = np.where(flagged.reshape(*flagged.shape, *(1,) * (samples.ndim - 2)), np.nan, samples)
    return np.where(np.isnan(kept).all(axis=1, keepdims=True), samples, kept)


def _headline(title: str, rows: int, most: int) -> str:
    return f"{title} (first {most} of {rows} rows)".strip() if rows > most else title


def _draw(lines: list[_Line], paint: _Paint, title: str, shape: tuple[int, ...]) -> Figure:
    (height, width), rows = shape, len(lines[0].pictures)
    cell = _CELL * width / max(height, width), _CELL * height / max(height, width)
    size = _EDGE + _NAMES + rows * (cell[0] + _GAP), _HEAD + len(lines) * (cell[1] + _GAP) + _FOOT
    # the title and the bar of colours need their room above and below few events
    size = max(size[0], 3.2, _EDGE + 0.075 * len(title)), size[1]
    figure = Figure(figsize=size)
    figure.text(_EDGE / size[0], 1 - 0.1 / size[1], title, weight="bold", va="top", color=INK)
    for number, (name, pictures, flagged) in enumerate(lines):
        bottom = size[1] - _HEAD - cell[1] - number * (cell[1] + _GAP)
        figure.text(_EDGE / size[0], (bottom + cell[1] / 2) / size[1], name, va="center", size=8, color=INK)
        for row, picture in enumerate(pictures):
            left = _EDGE + _NAMES + row * (cell[0] + _GAP)
            axes = figure.add_axes((left / size[0], bottom / size[1], cell[0] / size[0], cell[1] / size[1]))
            axes.set_axis_off()
            axes.imshow(picture, interpolation="nearest", aspect="auto")
            if flagged is not None and flagged[row]:
                frame = Rectangle((0, 0), 1, 1, transform=axes.transAxes, fill=False, edgecolor=FLAGGED, linewidth=2.5)
                axes.add_patch(frame)
    bar = figure.add_axes(((_EDGE + _NAMES + 0.95) / size[0], 0.26 / size[1], 1.0 / size[0], 0.08 / size[1]))
    most = paint.deviation.vmax or 1.0
    colours = figure.colorbar(ScalarMappable(paint.deviation, DEVIATION_COLOURS), cax=bar, orientation="horizontal")
    colours.set_ticks([0.0, float(most)], labels=["0", f"{most:.2g}"])
    colours.ax.tick_params(labelsize=7.5, length=2, width=0.6)
    name = "standard deviation"
    bar.text(-0.08, 0.5, name, transform=bar.transAxes, ha="right", va="center", size=7.5, color=INK)
    if any(line.flagged is not None and line.flagged.any() for line in lines):
        text = "red frame: without weight"
        figure.text(_EDGE / size[0], 0.05 / size[1], text, va="bottom", size=7.5, color=FLAGGED)
    return figure
