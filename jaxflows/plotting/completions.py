"""One picture of completed rows: what was, what was seen, and what the posterior says of the rest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from jaxflows.conditional.completion import Completion
from jaxflows.plotting.style import DEVIATION_COLOURS, FLAGGED, HIDDEN, INK, house_style
from jaxflows.plotting.vectors import draw_vectors

# inches: side of a picture of an event, and the spaces around it
_CELL, _GAP, _HEAD, _FOOT, _BETWEEN, _EDGE = 0.62, 0.05, 0.54, 0.55, 0.35, 0.12
_PANELS_ABREAST = 2


class Panel(NamedTuple):
    """The rows of one mask.

    Attributes:
        title: what is missing.
        originals: (rows, *event); NaN where the truth is not known.
        observed: boolean, (rows, *event).
        completion: of these rows.
    """

    title: str
    originals: np.ndarray
    observed: np.ndarray
    completion: Completion

    @property
    def shows_truth(self) -> bool:
        """Whether any row is known in full."""
        flat = np.isfinite(self.originals).reshape(len(self.originals), -1)
        return bool(flat.all(axis=1).any())


def completion_figure(
    originals: Any,
    observed: Any,
    completion: Completion,
    *,
    groups: Any = None,
    titles: Sequence[str] = (),
    image_shape: tuple[int, ...] | None = None,
    num_samples: int = 4,
    max_rows: int = 8,
) -> Figure:
    """Rows of events; columns: original, observed, samples, mean and standard deviation of the samples.

    Images share one colour range, that of the observed entries and the originals; the deviation has its own. Hidden
    pixels are blue, and a sample whose constraint was not solved has a red frame. Vectors are drawn as curves.

    Args:
        originals: (rows, *event), the truth, NaN where it is not known; without any complete row its column is left out.
        observed: boolean, (rows, *event).
        completion: from `jaxflows.complete`.
        groups: (rows,) integers, one panel a value; one panel when None.
        titles: of the panels.
        image_shape: (height, width) or (height, width, 3) of an event; vectors when None and events are vectors.
        num_samples: samples drawn, at most.
        max_rows: rows drawn a panel, at most; the title says how many there are.

    Returns:
        A `matplotlib.figure.Figure`; write it with `save_figure`.
    """
    originals, observed = np.asarray(originals, np.float64), np.asarray(observed)
    if originals.shape != observed.shape or completion.mean.shape != originals.shape or not len(originals):
        raise ValueError(
            f"expected originals, observed and completion of the same rows, at least one; "
            f"got {originals.shape}, {observed.shape} and {completion.mean.shape}"
        )
    shape = originals.shape[1:] if image_shape is None and originals.ndim > 2 else image_shape
    if shape is not None and not (len(shape) == 2 or shape[2:] in ((1,), (3,))):
        raise ValueError(f"expected images of shape (height, width) or (height, width, 1 or 3); got {shape}")
    labels = np.zeros(len(originals), int) if groups is None else np.asarray(groups)
    panels = []
    for label in np.unique(labels):
        every = np.flatnonzero(labels == label)
        chosen = every[:max_rows]
        title = titles[label] if titles else ""
        if len(every) > len(chosen):
            title = f"{title} (first {len(chosen)} of {len(every)} rows)".strip()
        panels.append(Panel(title, originals[chosen], observed[chosen], completion.chosen(chosen)))
    shown = min(num_samples, completion.samples.shape[1])
    with house_style():
        return draw_vectors(panels, shown) if shape is None else _draw_images(panels, shape, shown)


def _draw_images(panels: list[Panel], shape: tuple[int, ...], shown: int) -> Figure:
    truth = any(panel.shows_truth for panel in panels)
    heads = [*(["original"] if truth else []), "observed", *[f"sample {i + 1}" for i in range(shown)], "mean", "std"]
    cell = np.array([_CELL * shape[1] / max(shape[:2]), _CELL * shape[0] / max(shape[:2])])
    columns = min(_PANELS_ABREAST, len(panels))
    lines = -(-len(panels) // columns)
    panel_width = len(heads) * (cell[0] + _GAP) - _GAP
    heights = [_HEAD + max(len(p.originals) for p in panels[i * columns :][:columns]) * (cell[1] + _GAP) for i in range(lines)]
    width = 2 * _EDGE + columns * panel_width + (columns - 1) * _BETWEEN
    height = sum(heights) + _FOOT
    figure = Figure(figsize=(width, height))
    grey, deviation = _ranges(panels)
    for index, panel in enumerate(panels):
        line, column = divmod(index, columns)
        left = _EDGE + column * (panel_width + _BETWEEN)
        top = height - sum(heights[:line])
        figure.text(left / width, (top - 0.12) / height, panel.title, weight="bold", va="top", color=INK)
        for position, head in enumerate(heads):
            middle = left + position * (cell[0] + _GAP) + cell[0] / 2
            figure.text(middle / width, (top - _HEAD + 0.05) / height, head, ha="center", va="bottom", size=7.5, color=INK)
        for row in range(len(panel.originals)):
            pictures = _pictures(panel, row, shape, shown, truth, grey, deviation)
            flagged = [not np.isfinite(w) for w in panel.completion.log_weights[row, :shown]]
            first = heads.index("observed") + 1
            for position, picture in enumerate(pictures):
                x = left + position * (cell[0] + _GAP)
                y = top - _HEAD - cell[1] - row * (cell[1] + _GAP)
                axes = figure.add_axes((x / width, y / height, cell[0] / width, cell[1] / height))
                axes.set_axis_off()
                if picture is None:
                    continue
                axes.imshow(picture, interpolation="nearest", aspect="auto")
                if first <= position < first + shown and flagged[position - first]:
                    frame = Rectangle((0, 0), 1, 1, transform=axes.transAxes, fill=False, edgecolor=FLAGGED, linewidth=2.5)
                    axes.add_patch(frame)
    _legend(figure, panels, deviation)
    return figure


def _ranges(panels: list[Panel]) -> tuple[Normalize, Normalize]:
    known = np.concatenate([p.originals[np.isfinite(p.originals)] for p in panels])
    if not known.size:
        known = np.concatenate([p.completion.mean.ravel() for p in panels])
    low, high = float(known.min()), float(known.max())
    most = max(float(np.nanmax(p.completion.std)) for p in panels)
    return Normalize(low, high if high > low else low + 1.0, clip=True), Normalize(0.0, most if most > 0 else 1.0, clip=True)


def _pictures(
    panel: Panel, row: int, shape: tuple[int, ...], shown: int, truth: bool, grey: Normalize, deviation: Normalize
) -> list[np.ndarray | None]:
    """RGB pictures of one row in the order of the columns; None leaves a place empty."""

    def rgb(values: np.ndarray) -> np.ndarray:
        scaled = np.asarray(grey(values.reshape(shape)))
        if shape[2:] == (3,):
            return scaled
        coloured: np.ndarray = colormaps["gray"](scaled.reshape(shape[:2]))[..., :3]
        return coloured

    original = panel.originals[row]
    # an image's entry counts as hidden when any of its channels is
    hidden = ~panel.observed[row].reshape(*shape[:2], -1).all(axis=-1)
    seen = np.where(hidden[..., None], HIDDEN, rgb(np.where(panel.observed[row], original, grey.vmin or 0.0)))
    std = panel.completion.std[row].reshape(*shape[:2], -1).mean(axis=-1)
    pictures: list[np.ndarray | None] = []
    if truth:
        pictures.append(rgb(original) if np.isfinite(original).all() else None)
    pictures.append(seen)
    pictures += [rgb(sample) for sample in panel.completion.samples[row, :shown]]
    pictures += [rgb(panel.completion.mean[row]), colormaps[DEVIATION_COLOURS](np.asarray(deviation(std)))[..., :3]]
    return pictures


def _legend(figure: Figure, panels: list[Panel], deviation: Normalize) -> None:
    width, height = figure.get_size_inches()
    bar = figure.add_axes(((width - _EDGE - 1.75) / width, 0.28 / height, 1.6 / width, 0.09 / height))
    colours = figure.colorbar(ScalarMappable(deviation, DEVIATION_COLOURS), cax=bar, orientation="horizontal")
    colours.set_ticks([0.0, float(deviation.vmax or 1.0)], labels=["0", f"{deviation.vmax:.2g}"])
    colours.ax.tick_params(labelsize=7.5, length=2, width=0.6)
    bar.text(-0.06, 0.5, "standard deviation", transform=bar.transAxes, ha="right", va="center", size=7.5, color=INK)
    marks = [(HIDDEN, True, "missing")]
    if any(not np.isfinite(p.completion.log_weights).all() for p in panels):
        marks.append((FLAGGED, False, "constraint not solved"))
    x = _EDGE
    for colour, filled, text in marks:
        square = Rectangle(
            (x / width, 0.26 / height), 0.13 / width, 0.13 / height, facecolor=colour if filled else "none",
            edgecolor=colour, linewidth=1.5, transform=figure.transFigure,
        )  # fmt: skip
        figure.add_artist(square)
        figure.text((x + 0.2) / width, 0.32 / height, text, va="center", size=7.5, color=INK)
        x += 0.85
