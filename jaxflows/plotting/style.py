"""Colours and sizes shared by all pictures, and writing them so that equal figures give equal bytes."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from jaxflows.persistence.atomic_write import atomic_write

# hidden pixels: a blue that no grey level is
HIDDEN = (0.38, 0.54, 0.80)
FLAGGED = (0.84, 0.15, 0.16)
INK = (0.15, 0.15, 0.15)
# Okabe and Ito's palette, told apart by colour-blind readers
LINES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DEVIATION_COLOURS = "magma"
DOTS_PER_INCH = 200

_STYLE: Any = {
    "font.size": 9.0,
    "axes.titlesize": 9.0,
    "axes.labelsize": 9.0,
    "axes.edgecolor": INK,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.fontsize": 8.0,
    "svg.hashsalt": "jaxflows",
}
_NO_DATE: dict[str, dict[str, Any]] = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}


def house_style() -> Any:
    """A context within which figures are built and written in the style of this package."""
    return mpl.rc_context(rc=_STYLE)


def save_figure(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write a figure, whole or not at all, in the format of its suffix and without the date.

    Args:
        figure: from any function of this package.
        path: ``.png``, ``.pdf``, ``.svg`` or ``.jpg``; its folder must exist.

    Raises:
        OSError: the folder is missing, full or not writable.
    """
    form = Path(path).suffix.lower().removeprefix(".") or "png"
    content = io.BytesIO()
    with house_style():
        figure.savefig(content, format=form, dpi=DOTS_PER_INCH, metadata=_NO_DATE.get(form))
    atomic_write(path, content.getvalue())
