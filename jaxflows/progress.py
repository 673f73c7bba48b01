"""The one progress bar of the package: rate, time elapsed and time left, on standard error."""

from __future__ import annotations

import sys
from typing import Any


def progress_bar(total: int | None, *, description: str, unit: str = "step", show: bool = True) -> Any:
    """A `tqdm` bar, to be used in a ``with`` statement; call its ``update(n)`` and ``set_postfix_str(text)``.

    On a terminal it is redrawn ten times a second; in a file or a pipe a line is written every 30 seconds at most, so
    that a log stays readable.

    Args:
        total: units of work, None when unknown.
        description: what is being done, shown first.
        unit: name of one unit.
        show: False gives a bar that prints nothing.
    """
    import tqdm

    interactive = sys.stderr.isatty()
    return tqdm.tqdm(
        total=total, desc=description, unit=unit, disable=not show, dynamic_ncols=interactive,
        mininterval=0.1 if interactive else 30.0, maxinterval=1.0 if interactive else 60.0,
    )  # fmt: skip
