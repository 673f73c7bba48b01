"""Every bijector against the generic properties: round trips, log-determinants, jit, vmap, gradients, dtypes."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from tests.bijectors.cases import CASES, cast, event, parameters

ROUND_TRIP = {"float32": 1e-5, "float64": 1e-10}
LOG_DET = {"float32": 1e-4, "float64": 1e-10}
NAMES = sorted(CASES)
DTYPES = ("float32", "float64")
EPSILON = 1e-4

every_case = pytest.mark.parametrize("name", NAMES)
every_dtype = pytest.mark.parametrize("dtype", DTYPES)


def _values(name: str, params: Any, u: jax.Array) -> dict[str, Any]:
    bijector = CASES[name].bijector
    v, log_det = bijector.forward(params, u)
    back, info = bijector.invert(params, v)
    u_again, inverse_log_det = bijector.inverse(params, v)
    flat = jax.jacfwd(lambda t: bijector.transform(params, t.reshape(u.shape)).reshape(-1))
    return {
        "v": v, "log_det": log_det, "u": back, "u_again": u_again, "v_again": bijector.transform(params, back),
        "inverse_log_det": inverse_log_det, "info": info, "slogdet": jnp.linalg.slogdet(flat(u.reshape(-1)))[1],
    }  # fmt: skip


@functools.cache
def values(name: str, dtype: str) -> dict[str, Any]:
    """What all the tests below look at, in one program: float64 on one event, float32 on two by vmap."""
    with jax.enable_x64(dtype == "float64"):
        program = functools.partial(_values, name)
        if dtype == "float32":
            program = jax.vmap(program, in_axes=(None, 0))
        seen = _compile(program)(cast(parameters(name), dtype), cast(events(name, dtype), dtype))
        return jax.tree.map(np.asarray, seen)


def events(name: str, dtype: str) -> np.ndarray:
    """What `values` was given."""
    return event(name) if dtype == "float64" else np.stack([event(name), event(name, 1)])


def _compile(function: Any) -> Any:
    # the programs are many, large and run once: optimising them costs more than it saves
    options = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    return jax.jit(function, compiler_options=options)


@every_dtype
@every_case
def test_round_trips_both_ways(name, dtype):
    seen, tol = values(name, dtype), ROUND_TRIP[dtype]
    u = events(name, dtype)
    np.testing.assert_allclose(seen["u"], u, rtol=0, atol=tol * max(1.0, np.max(np.abs(u))))
    # the same map twice in one program, but for the rounding of what the compiler fuses
    np.testing.assert_allclose(seen["u_again"], seen["u"], rtol=0, atol=8 * np.finfo(dtype).eps * max(1.0, np.max(np.abs(u))))
    np.testing.assert_allclose(seen["v_again"], seen["v"], rtol=0, atol=tol * max(1.0, np.max(np.abs(seen["v"]))))
    assert np.all(seen["info"].converged)
    assert np.all(seen["info"].residual <= (1e-5 if dtype == "float32" else 1e-11))


@every_dtype
@every_case
def test_forward_log_det_is_that_of_the_jacobian(name, dtype):
    seen = values(name, dtype)
    np.testing.assert_allclose(seen["log_det"], seen["slogdet"], rtol=LOG_DET[dtype], atol=LOG_DET[dtype])


@every_dtype
@every_case
def test_inverse_log_det_is_minus_the_forward_one(name, dtype):
    seen = values(name, dtype)
    np.testing.assert_allclose(seen["inverse_log_det"], -seen["log_det"], rtol=LOG_DET[dtype], atol=LOG_DET[dtype])


@every_case
def test_the_shape_is_the_stated_one(name):
    case = CASES[name]
    assert values(name, "float64")["v"].shape == case.bijector.output_shape(case.shape)


@every_case
def test_vmap_in_float32_is_the_single_event_in_float64(name):
    batched, single = values(name, "float32"), values(name, "float64")
    for field in ("v", "u", "log_det", "inverse_log_det"):
        scale = max(1.0, np.max(np.abs(single[field])))
        np.testing.assert_allclose(batched[field][0], single[field], rtol=0, atol=3e-5 * scale, err_msg=field)


@every_dtype
@every_case
def test_the_dtype_is_kept(name, dtype):
    seen = values(name, dtype)
    for field in ("v", "u", "log_det", "inverse_log_det"):
        assert seen[field].dtype == dtype, field
    assert seen["info"].residual.dtype == dtype


def _scalars(name: str, params: Any, u: jax.Array, v: jax.Array) -> jax.Array:
    """Two scalars in which every output has a say: one of forward, one of inverse."""
    bijector = CASES[name].bijector
    totals = []
    for there, log_det in (bijector.forward(params, u), bijector.inverse(params, v)):
        weights = jnp.cos(jnp.arange(there.size, dtype=there.dtype)).reshape(there.shape)
        totals.append(jnp.vdot(weights, there) + 0.7 * log_det)
    return jnp.stack(totals)


def _directional(name: str, params: Any, u: jax.Array, v: jax.Array) -> tuple[jax.Array, jax.Array]:
    flat, unravel = ravel_pytree((params, u, v))
    count = flat.size - u.size - v.size
    direction = jnp.sin(1.0 + jnp.arange(flat.size, dtype=flat.dtype))
    # two directions: the parameters alone, and the event and the latent alone
    is_param = jnp.arange(flat.size) < count
    directions = jnp.stack([jnp.where(is_param, direction, 0.0), jnp.where(is_param, 0.0, direction)])

    def scalars(t: jax.Array) -> jax.Array:
        return _scalars(name, *unravel(t))

    gradient = jax.jacrev(scalars)(flat)
    moved = jax.lax.map(scalars, flat + EPSILON * jnp.concatenate([directions, -directions]))
    return gradient @ directions.T, ((moved[:2] - moved[2:]) / (2 * EPSILON)).T


@every_case
def test_gradients_in_parameters_and_inputs_match_finite_differences(name):
    with jax.enable_x64(True):
        v = jnp.asarray(values(name, "float64")["v"])
        program = _compile(functools.partial(_directional, name))
        gradient, difference = program(cast(parameters(name), "float64"), jnp.asarray(event(name)), v)
    size = max(1.0, np.max(np.abs(difference)))
    assert np.max(np.abs(difference)) > 1e-3 or not jax.tree.leaves(parameters(name))
    np.testing.assert_allclose(gradient, difference, rtol=0, atol=1e-5 * size)


@every_case
def test_jit_changes_nothing(name):
    bijector, params = CASES[name].bijector, cast(parameters(name), "float32")
    eager = bijector.transform(params, jnp.asarray(event(name), jnp.float32))
    jitted = values(name, "float32")["v"][0]
    assert eager.dtype == jnp.float32
    np.testing.assert_allclose(eager, jitted, rtol=0, atol=1e-5 * max(1.0, np.max(np.abs(jitted))))
