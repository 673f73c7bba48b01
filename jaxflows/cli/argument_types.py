"""What the options accept, checked while the arguments are read: without JAX and without touching the data."""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from jaxflows.cli.errors import CommandError

PICTURES = (".png", ".pdf", ".svg", ".jpg", ".jpeg")


class PosteriorChoice(NamedTuple):
    """A posterior as named on the command line.

    Attributes:
        text: as given.
        family: 'gauss_newton', 'prior', 'mean_field', 'householder', 'full_rank' or 'amortised'.
        reflections: of 'householder'.
    """

    text: str
    family: str
    reflections: int


def posterior(text: str) -> PosteriorChoice:
    """``gauss_newton``, ``prior``, ``mean_field``, ``full_rank``, ``householder``, ``householder:N`` or ``amortised``."""
    family, colon, number = text.partition(":")
    known = ("gauss_newton", "mean_field", "full_rank", "householder", "prior", "amortised")
    if family not in known or (colon and (family != "householder" or not number.isdecimal())):
        raise argparse.ArgumentTypeError(
            f"expected gauss_newton, mean_field, full_rank, householder:N (N reflections), prior or amortised; got {text!r}"
        )
    return PosteriorChoice(text, family, int(number) if colon else 20)


class MeasurementChoice(NamedTuple):
    """A measurement as named on the command line.

    Attributes:
        text: as given.
        kind: 'pool', 'gaussian', 'grey', 'blur', 'dct', 'fourier', or 'mask' for a named mask.
        number: after the colon; 0 where there is none.
    """

    text: str
    kind: str
    number: float


MEASUREMENTS = ("pool:K", "gaussian:M", "grey", "blur:S", "dct:M", "fourier:SHARE")


def measurement(text: str) -> MeasurementChoice:
    """One of `MEASUREMENTS`, or a mask by name, whose observed entries are measured."""
    from jaxflows.data import MASK_NAMES, named_mask

    kind, colon, number = text.partition(":")
    numbers = {"pool": count(2), "gaussian": count(1), "blur": positive, "dct": count(1), "fourier": _share}
    masks = [name for name in MASK_NAMES if name != "none"]
    if text == "grey":
        return MeasurementChoice(text, "grey", 0.0)
    if kind in numbers and colon:
        return MeasurementChoice(text, kind, numbers[kind](number))
    if text == kind and kind in masks:
        return MeasurementChoice(text, "mask", 0.0)
    if colon and kind in {name.partition(":")[0] for name in masks if ":" in name}:
        try:
            named_mask(text, (4096,))
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None
        return MeasurementChoice(text, "mask", 0.0)
    raise argparse.ArgumentTypeError(f"expected one of {', '.join((*MEASUREMENTS, *masks))}; got {text!r}")


def _share(text: str) -> float:
    return _number(text, lambda value: 0 < value <= 1, "a number in (0, 1]")


def method(text: str) -> str:
    """A method of `jaxflows.infer`."""
    from jaxflows.inverse.method_table import METHODS

    if text not in METHODS:
        raise argparse.ArgumentTypeError(f"expected one of {', '.join(METHODS)}; got {text!r}")
    return text


def count(least: int) -> Callable[[str], int]:
    """A whole number of at least ``least``."""

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            raise argparse.ArgumentTypeError(f"expected a whole number >= {least}; got {text!r}")
        return value

    return read


def positive(text: str) -> float:
    """A finite number above zero."""
    return _number(text, lambda value: value > 0, "a number > 0")


def non_negative(text: str) -> float:
    """A finite number, zero or above."""
    return _number(text, lambda value: value >= 0, "a number >= 0")


def fraction(text: str) -> float:
    """A number in [0, 1)."""
    return _number(text, lambda value: 0 <= value < 1, "a number in [0, 1)")


def _number(text: str, fits: Callable[[float], bool], wanted: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and fits(value)):
        raise argparse.ArgumentTypeError(f"expected {wanted}; got {text!r}")
    return value


def memory(text: str) -> str:
    """A size in bytes with its unit: ``8GiB`` or ``500MB``."""
    from jaxflows.memory import UNITS, memory_bytes

    try:
        memory_bytes(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a size as 8GiB, in one of {', '.join(UNITS)}; got {text!r}") from None
    return text


def row_range(text: str) -> slice:
    """``0:16`` (the end left out), ``16:`` or ``:16``, or one row ``3``."""
    begin, colon, end = text.partition(":")
    if not all(part.isdecimal() for part in (begin, end) if part) or not (begin or end):
        raise argparse.ArgumentTypeError(f"expected rows as BEGIN:END or one row's number; got {text!r}")
    first = int(begin) if begin else 0
    if not colon:
        return slice(first, first + 1)
    return slice(first, int(end) if end else None)


def widths(text: str) -> tuple[int, ...]:
    """One hidden width or several with commas: ``128`` or ``128,64``."""
    return tuple(count(1)(part) for part in text.split(","))


def picture(text: str) -> Path:
    """A file that matplotlib can write."""
    path = Path(text)
    if path.suffix.lower() not in PICTURES:
        raise argparse.ArgumentTypeError(f"expected a picture named {', '.join('*' + p for p in PICTURES)}; got {text!r}")
    return path


def named(suffix: str) -> Callable[[str], Path]:
    """A file with this suffix."""

    def read(text: str) -> Path:
        path = Path(text)
        if path.suffix.lower() != suffix:
            raise argparse.ArgumentTypeError(f"expected a file named *{suffix}; got {text!r}")
        return path

    return read


def check_writable(option: str, path: Path) -> None:
    """Raise CommandError unless a file can be made where ``path`` is to be; asked before the work starts."""
    if path.is_dir():
        raise CommandError(f"{option} {path}: expected a file; it is a folder")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise CommandError(f"{option} {path}: cannot be written ({error.strerror or error})") from None
