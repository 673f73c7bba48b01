"""Invertible layers, one module a family; base.py holds their contract and registry.py lists them."""

from __future__ import annotations

from jaxflows.bijectors.registry import FAMILIES
from jaxflows.lazy import lazy_names

_MODULES = sorted({"base", "registry", *FAMILIES.values()})

__getattr__, __dir__ = lazy_names(__name__, {name: f"{__name__}.{name}" for name in _MODULES}, _MODULES)
