"""Matrix products and convolutions in the full precision of their dtype.

On GPUs and TPUs JAX rounds the factors of float32 products to TensorFloat-32 or bfloat16 unless told otherwise: about three
digits are left. Training by estimates can live with that. What is solved for, tested, weighed or reported cannot: a fixed
point stops improving far above its tolerance, and a log-determinant is off by more than the draws differ.

So encodings, decodings and exact densities (the methods of `jaxflows.flows.Flow`), all linear solves, norms and certificates,
and everything that `jaxflows.complete`, `jaxflows.infer` and `jaxflows.fit_posterior` compute run in full precision, whatever
JAX is set to. What JAX is set to (``jax.default_matmul_precision``) decides for the methods of a bijector, and so for
``Flow.estimate_log_prob``, the traces in the gradient of a training step, and the inference network.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import jax

# names of `at_precision` that training takes, the finest first
PRECISIONS = ("float32", "tensorfloat32", "bfloat16")

_Arguments = ParamSpec("_Arguments")
_Value = TypeVar("_Value")


def at_precision(precision: str | None, function: Callable[_Arguments, _Value]) -> Callable[_Arguments, _Value]:
    """``function``, whatever it traces being traced at a precision of products that JAX knows by name.

    A derivative keeps the precision of what it is the derivative of, except for hand-written rules, which JAX may trace long
    after: they need this too.

    Args:
        precision: as ``jax.default_matmul_precision`` takes it; None for what JAX is set to.
        function: any.
    """
    if precision is None:
        return function

    @functools.wraps(function)
    def run(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Value:
        with jax.default_matmul_precision(precision):
            return function(*args, **kwargs)

    return run


def full_precision(function: Callable[_Arguments, _Value]) -> Callable[_Arguments, _Value]:
    """``function`` with no factor of a product rounded."""
    return at_precision("highest", function)
