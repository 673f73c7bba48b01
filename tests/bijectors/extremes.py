"""Raw parameters at the edge of what floating point holds, and what every invertible layer owes there."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# name -> (generator, shape) -> raw values
RAW = {
    "zero": lambda rng, shape: np.zeros(shape),
    "tiny": lambda rng, shape: 1e-8 * rng.standard_normal(shape),
    "plus": lambda rng, shape: np.full(shape, 1e4),
    "minus": lambda rng, shape: np.full(shape, -1e4),
    "signs": lambda rng, shape: 1e4 * np.sign(rng.standard_normal(shape)),
}


def raw_params(bijector: Any, shape: tuple[int, ...], kind: str, dtype: str) -> Any:
    """Parameters of the bijector with every leaf filled by ``RAW[kind]``."""
    rng = np.random.default_rng(0)
    template = jax.eval_shape(lambda key: bijector.init(key, shape), jax.random.key(0))
    return jax.tree.map(lambda leaf: jnp.asarray(RAW[kind](rng, leaf.shape), dtype), template)


@functools.partial(jax.jit, static_argnums=0)
def all_of(bijector: Any, params: Any, u: jax.Array) -> Any:
    """``(forward, jacobian, invert of the image)`` of a layer on one flat event."""
    forward = bijector.forward(params, u)
    return forward, jax.jacfwd(functools.partial(bijector.transform, params))(u), bijector.invert(params, forward[0])


@functools.partial(jax.jit, static_argnums=0)
def _everything(bijector: Any, params: Any, batch: jax.Array) -> Any:
    def one(u: jax.Array) -> Any:
        v, log_det = bijector.forward(params, u)
        back, info = bijector.invert(params, v)
        gradients = jax.grad(lambda p, t: bijector.inverse(p, t)[1], argnums=(0, 1))(params, v)
        return v, log_det, back, info, bijector.transform(params, back), gradients

    return jax.vmap(one)(batch)


def check_extreme(bijector: Any, shape: tuple[int, ...], kind: str, dtype: str) -> None:
    """Finite values and gradients, and a round trip or a report that says there is none."""
    with jax.enable_x64(dtype == "float64"):
        params = raw_params(bijector, shape, kind, dtype)
        batch = jnp.asarray(np.random.default_rng(1).standard_normal((16, *shape)), dtype)
        v, log_det, back, info, again, gradients = _everything(bijector, params, batch)
        for leaf in jax.tree.leaves((v, log_det, back, gradients)):
            assert np.all(np.isfinite(leaf))
        defect = np.max(np.abs(again - v).reshape(16, -1), axis=1)
        tol = 1e-5 if dtype == "float32" else 1e-11
        # the report is the truth, up to the rounding between two programs
        rounding = 1e3 * jnp.finfo(dtype).eps * np.max(np.abs(v))
        assert np.all(defect[np.asarray(info.converged)] <= tol + rounding)
        np.testing.assert_array_equal(info.converged, info.residual <= tol)
        if kind in ("zero", "tiny"):
            assert np.all(info.converged)
            np.testing.assert_allclose(back, batch, rtol=0, atol=tol)
