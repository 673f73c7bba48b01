"""Fixed points and the constraint g(y) = x with y observed and x hidden given: one module a method."""

from __future__ import annotations

import importlib
from types import ModuleType

_MODULES = (
    "alternating",
    "anderson",
    "boundary_sweep",
    "broyden",
    "chord",
    "equation",
    "fixed_point",
    "implicit_root",
    "krylov",
    "monotone_root",
    "newton_krylov",
    "robust",
    "stack_inversion",
)


def __getattr__(name: str) -> ModuleType:
    """Import a module of this package when it is first named."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module(f"{__name__}.{name}")
