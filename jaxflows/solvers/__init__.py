"""Fixed points and the constraint g(y) = x with y observed and x hidden given: one module a method."""

from __future__ import annotations

from jaxflows.lazy import lazy_names

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

__getattr__, __dir__ = lazy_names(__name__, {name: f"{__name__}.{name}" for name in _MODULES}, _MODULES)
