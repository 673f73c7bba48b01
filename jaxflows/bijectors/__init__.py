"""Invertible layers, one module a family; base.py holds their contract and registry.py lists them."""

from __future__ import annotations

import importlib
from types import ModuleType

_MODULES = ("actnorm", "base", "chain", "invert", "logit", "registry", "residual", "squeeze")


def __getattr__(name: str) -> ModuleType:
    """Import a module of this package when it is first named."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module(f"{__name__}.{name}")
