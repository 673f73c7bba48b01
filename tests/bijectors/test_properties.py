"""Every bijector against the generic properties: round trips, log-determinants, jit, vmap, gradients, dtypes."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.bijectors.cases import CASES, cast, event, parameters

ROUND_TRIP = {"float32": 1e-5, "float64": 1e-10}
LOG_DET = {"float32": 1e-4, "float64": 1e-10}
NAMES = sorted(CASES)
DTYPES = ("float32", "float64")
EPSILON = 1e-4

every_case = pytest.mark.parametrize("name", NAMES)
every_dtype = pytest.mark.parametrize("dtype", DTYPES)


# what is left out repeats, at much cost: a conv block on another shape, compositions of layers whose gradients are checked in
# other compositions (an inverted chain's forward is a chain's inverse), a Runge-Kutta method of more stages
NO_GRADIENT = {"residual_conv-442", "residual_image", "inverted_chain", "scan_chain-1", "continuous-1"}


def _values(name: str, params: Any, u: jax.Array, v: jax.Array) -> dict[str, Any]:
    bijector = CASES[name].bijector
    image, log_det = bijector.forward(params, u)
    u_again, inverse_log_det = bijector.inverse(params, v)
    back, info = bijector.invert(params, v)
    return {
        "v": image, "log_det": log_det, "u": back, "info": info, "u_again": u_again, "inverse_log_det": inverse_log_det,
    }  # fmt: skip


def _values_and_jacobian(name: str, params: Any, u: jax.Array, v: jax.Array) -> dict[str, Any]:
    def transform(flat: jax.Array) -> tuple[jax.Array, jax.Array]:
        image = CASES[name].bijector.transform(params, flat.reshape(u.shape))
        return image.reshape(-1), image

    jacobian, image = jax.jacfwd(transform, has_aux=True)(u.reshape(-1))
    return _values(name, params, u, v) | {"jacobian": jacobian, "transformed": image}


@functools.cache
def program(name: str, dtype: str) -> Any:
    """``(params, u, v)``: what all the tests below look at, compiled once; float64 on one event, float32 on two by vmap."""
    if dtype == "float64":
        return jax.jit(functools.partial(_values_and_jacobian, name))
    return jax.jit(jax.vmap(functools.partial(_values, name), in_axes=(None, 0, 0)))


@functools.cache
def values(name: str, dtype: str) -> dict[str, Any]:
    """The program at an event u and its image v, and the image of v's inverse."""
    with jax.enable_x64(dtype == "float64"):
        run, params, u = program(name, dtype), cast(parameters(name), dtype), cast(events(name, dtype), dtype)
        case = CASES[name]
        rows = () if dtype == "float64" else (len(u),)
        v = run(params, u, jnp.zeros((*rows, *case.bijector.output_shape(case.shape)), dtype))["v"]
        seen = run(params, u, v)
        return jax.tree.map(np.asarray, seen | {"v_again": run(params, seen["u"], v)["v"]})


def events(name: str, dtype: str) -> np.ndarray:
    """What `values` was given."""
    return event(name) if dtype == "float64" else np.stack([event(name), event(name, 1)])


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


# that of float32 is the same to rounding: the test of vmap
@every_case
def test_forward_log_det_is_that_of_the_jacobian(name):
    seen, tol = values(name, "float64"), LOG_DET["float64"]
    np.testing.assert_allclose(seen["v"], seen["transformed"], rtol=0, atol=tol)
    np.testing.assert_allclose(seen["log_det"], np.linalg.slogdet(seen["jacobian"])[1], rtol=tol, atol=tol)


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


def _scalars(xp: Any, pairs: Any) -> list[Any]:
    """Two scalars in which every output has a say: one of forward's (v, log_det), one of inverse's (u, log_det)."""
    return [
        xp.vdot(np.cos(np.arange(there.size)).reshape(there.shape), there) + 0.7 * log_det
        for there, log_det in pairs
    ]  # fmt: skip


def _gradient(name: str) -> Any:
    """``(params, u, v, weights)``: the gradient of the weighted sum of the scalars in the first three."""
    bijector = CASES[name].bijector

    def total(params: Any, u: jax.Array, v: jax.Array, weights: jax.Array) -> jax.Array:
        return weights @ jnp.stack(_scalars(jnp, (bijector.forward(params, u), bijector.inverse(params, v))))

    return jax.jit(jax.grad(total, argnums=(0, 1, 2)))


def _direction(point: Any) -> Any:
    leaves, tree = jax.tree.flatten(point)
    ends = np.cumsum([leaf.size for leaf in leaves])
    flat = np.split(np.sin(1.0 + np.arange(ends[-1])), ends[:-1])
    return tree.unflatten([part.reshape(leaf.shape) for part, leaf in zip(flat, leaves, strict=True)])


@pytest.mark.parametrize("name", sorted(set(NAMES) - NO_GRADIENT))
def test_gradients_in_parameters_and_inputs_match_finite_differences(name):
    point = parameters(name), event(name), values(name, "float64")["v"]
    whole, still = _direction(point), jax.tree.map(np.zeros_like, point)
    # two directions: the parameters alone, and the event and the latent alone
    directions = (whole[0], *still[1:]), (still[0], *whole[1:])
    with jax.enable_x64(True):
        gradient, run = _gradient(name), program(name, "float64")

        def scalars(direction: Any, step: float) -> np.ndarray:
            seen = run(*jax.tree.map(lambda leaf, move: leaf + step * move, point, direction))
            return np.asarray(_scalars(np, ((seen["v"], seen["log_det"]), (seen["u_again"], seen["inverse_log_det"]))))

        difference = np.stack([scalars(d, EPSILON) - scalars(d, -EPSILON) for d in directions]) / (2 * EPSILON)
        parts = [jax.tree.leaves(gradient(*point, weights)) for weights in np.eye(2)]
    claimed = [[sum(map(np.vdot, part, jax.tree.leaves(d))) for part in parts] for d in directions]
    size = max(1.0, np.max(np.abs(difference)))
    assert np.max(np.abs(difference)) > 1e-3 or not jax.tree.leaves(parameters(name))
    np.testing.assert_allclose(claimed, difference, rtol=0, atol=1e-5 * size)


@every_case
def test_jit_changes_nothing(name):
    bijector, params = CASES[name].bijector, cast(parameters(name), "float32")
    eager = bijector.transform(params, jnp.asarray(event(name), jnp.float32))
    jitted = values(name, "float32")["v"][0]
    assert eager.dtype == jnp.float32
    np.testing.assert_allclose(eager, jitted, rtol=0, atol=1e-5 * max(1.0, np.max(np.abs(jitted))))
