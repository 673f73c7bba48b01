"""Invertible layers, one module a family; base.py holds their contract and registry.py lists them."""

from __future__ import annotations

import importlib
from types import ModuleType


def __getattr__(name: str) -> ModuleType:
    """Import a module of this package when it is first named."""
    registry = importlib.import_module(f"{__name__}.registry")
    if name not in {"base", "registry", *registry.FAMILIES.values()}:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module(f"{__name__}.{name}")
