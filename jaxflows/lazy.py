"""Names of a package imported when they are first used, so that importing the package itself costs next to nothing."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any


def lazy_names(
    package: str, places: Mapping[str, str], public: Iterable[str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` of a package (PEP 562).

    Args:
        package: its ``__name__``.
        places: name -> ``"module"``, for the module itself, or ``"module:attribute"``; modules by their full names.
        public: what ``dir`` lists.

    Returns:
        ``__getattr__``, which imports a name once and leaves it in the package, and ``__dir__``.

    Example:
        >>> __getattr__, __dir__ = lazy_names("shapes", {"circle": "shapes.round:circle"}, ["circle"])
        >>> __dir__()
        ['circle']
    """

    def get(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, _, attribute = places[name].partition(":")
        value: Any = importlib.import_module(module)
        if attribute:
            value = getattr(value, attribute)
        setattr(sys.modules[package], name, value)
        return value

    def names() -> list[str]:
        return list(public)

    return get, names
