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

_Arguments = ParamSpec("_Arguments")
_Value = TypeVar("_Value")


def full_precision(function: Callable[_Arguments, _Value]) -> Callable[_Arguments, _Value]:
    """``function``, whatever it traces being traced under ``jax.default_matmul_precision("highest")``.

    A derivative keeps the precision of what it is the derivative of, except for hand-written rules, which JAX may trace long
    after: they need this too.
    """

    @functools.wraps(function)
    def run(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Value:
        with jax.default_matmul_precision("highest"):
            return function(*args, **kwargs)

    return run
