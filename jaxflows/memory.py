"""A ceiling on the memory of a compiled program, kept by cutting its batch into micro-batches.

What a program needs is known once it is compiled, before it runs. The need is taken to grow with the rows at once.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

UNITS = {
    "B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40,
}  # fmt: skip

# sizes guessed by interpolation before the rest is found by halving
_GUESSES = 3


def memory_bytes(limit: int | str) -> int:
    """A number of bytes, or a text such as "8 GiB" or "500 MB", in bytes.

    Raises:
        ValueError: anything else, or less than one byte.
    """
    if isinstance(limit, str):
        read = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*([A-Za-z]+)\s*", limit)
        if read is None or read[2] not in UNITS:
            raise ValueError(f"expected a memory_limit as '8 GiB', in one of {', '.join(UNITS)}; got {limit!r}")
        count = int(float(read[1]) * UNITS[read[2]])
    else:
        count = int(limit)
    if count < 1:
        raise ValueError(f"expected a memory_limit of at least one byte; got {limit!r}")
    return count


def peak_bytes(program: Any) -> int:
    """Memory that one device needs to run a compiled program: arguments, results and everything between."""
    sizes = program.memory_analysis()
    return int(sizes.argument_size_in_bytes + sizes.output_size_in_bytes + sizes.temp_size_in_bytes - sizes.alias_size_in_bytes)


class MemoryLimitError(ValueError):
    """A memory limit that a single row at a time exceeds; the message says what it needs."""


class Fitting(NamedTuple):
    """A program that keeps the ceiling.

    Attributes:
        program: compiled.
        parts: micro-batches that its batch is cut into.
        bytes: memory that it needs on one device; None where nothing was asked.
    """

    program: Any
    parts: int
    bytes: int | None


def fitting_program(compiled: Callable[[int], Any], rows: int, limit: int, what: str) -> Fitting:
    """The program of fewest micro-batches that keeps the ceiling.

    Args:
        compiled: ``parts -> compiled program``, called once for each size that is tried: one that fits whole at once, and
            about four that do not.
        rows: in the batch of one device.
        limit: bytes.
        what: the program, in an error.

    Raises:
        MemoryLimitError: a single row at a time needs more.
    """
    needs: dict[int, int] = {}
    best: Fitting | None = None

    def fits(size: int) -> bool:
        nonlocal best
        parts = -(-rows // size)
        program = compiled(parts)
        needs[size] = peak_bytes(program)
        if needs[size] <= limit:
            best = Fitting(program, parts, needs[size])
        return needs[size] <= limit

    # rows at once, of all equal cuts; the last is the whole batch
    sizes = sorted({-(-rows // parts) for parts in range(1, rows + 1)})
    low, high = 0, len(sizes) - 1
    if not fits(sizes[high]) and (high == 0 or not fits(sizes[low])):
        raise MemoryLimitError(
            f"expected a memory_limit of at least {in_words(min(needs.values()))} for {what}, one row at a time; got "
            f"{in_words(limit)}"
        )
    guesses = 0
    while best is not None and best.parts > 1 and high - low > 1:
        small, large = sizes[low], sizes[high]
        slope = (needs[large] - needs[small]) / (large - small)
        within = sum(needs[small] + slope * (size - small) <= limit for size in sizes) - 1
        middle = min(max(within, low + 1), high - 1) if guesses < _GUESSES else (low + high) // 2
        guesses += 1
        low, high = (middle, high) if fits(sizes[middle]) else (low, middle)
    assert best is not None
    return best


def in_words(count: int) -> str:
    """Bytes, and what they are in the unit that suits them."""
    unit = max((name for name in UNITS if name.endswith("iB") and count >= UNITS[name]), key=UNITS.__getitem__, default="B")
    return f"{count} bytes" if unit == "B" else f"{count} bytes ({count / UNITS[unit]:.3g} {unit})"
