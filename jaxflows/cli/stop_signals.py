"""Ctrl-C and a polite kill end the work in good order."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


@contextmanager
def termination_interrupts() -> Iterator[None]:
    """Within it SIGTERM raises KeyboardInterrupt as SIGINT does. Threads other than the main one get no signals."""
    with _handled(_interrupt):
        yield


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Within it both signals are ignored: for the seconds in which finished rows are written."""
    with _handled(signal.SIG_IGN):
        yield


@contextmanager
def _handled(handler: signal._HANDLER) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
