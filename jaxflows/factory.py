"""Factories whose equal options give the identical object."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def factory(build: Callable[P, R]) -> Callable[P, R]:
    """Remember what ``build`` made for each set of options, however they were spelled.

    Defaults left out and defaults given, keywords in any order, lists and tuples: all name the same object. What a factory
    makes is static under ``jit``, so the identical object is what saves a re-trace.
    """
    signature = inspect.signature(build)
    remembered = functools.cache(build)

    @functools.wraps(build)
    def make(*args: P.args, **kwargs: P.kwargs) -> R:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        options = {name: _hashable(value) for name, value in bound.arguments.items()}
        return remembered(**options)

    return make


def _hashable(value: Any) -> Any:
    return tuple(_hashable(entry) for entry in value) if isinstance(value, list) else value
