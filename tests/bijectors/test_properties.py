"""Every bijector against the generic properties: round trips, log-determinants, jit, vmap, gradients, dtypes."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflows.bijectors.registry import FAMILIES
from tests.bijectors.cases import CASES, cast, event, parameters
from tests.long_cases import cases

ROUND_TRIP = {"float32": 1e-5, "float64": 1e-10}
LOG_DET = 1e-10
NAMES = sorted(CASES)
DTYPES = ("float32", "float64")
EPSILON = 1e-4
WEIGHTS = np.eye(2)

# dearest to compile, and like others that are cheap
LONG = ("continuous-0", "residual_densenet_conv-0", "residual_image")


def each(names: Iterable[str]) -> pytest.MarkDecorator:
    """One test a case."""
    return pytest.mark.parametrize("name", cases(names, LONG))


every_case = each(NAMES)
every_dtype = pytest.mark.parametrize("dtype", DTYPES)


EXPLICIT = sorted(name for name, case in CASES.items() if case.bijector.explicit)

# the derivatives that are compared with differences: of the first layer of each family, of every explicit one, and of the
# compositions that put other lines before JAX to differentiate; the rest differ by an activation or the event's dimensions
GRADIENTS = {f"{family}-0" for family in FAMILIES}
GRADIENTS |= {"implicit", "invert-1"} | set(EXPLICIT)


def _two_events(name: str, params: Any, u: jax.Array, v: jax.Array) -> dict[str, Any]:
    """Both directions on (2, *event), by vmap."""
    bijector = CASES[name].bijector

    def one(u: jax.Array, v: jax.Array) -> dict[str, Any]:
        image, log_det = bijector.forward(params, u)
        back, info = bijector.invert(params, v)
        seen = {"v": image, "log_det": log_det, "u": back, "info": info}
        if bijector.explicit:
            # where the inverse is solved for, a second one would double the program, and float64 sees it
            seen["u_again"], seen["inverse_log_det"] = bijector.inverse(params, v)
        return seen

    return jax.vmap(one)(u, v)


def _outputs(name: str, params: Any, u: jax.Array, v: jax.Array) -> dict[str, jax.Array]:
    """Both directions on one event, the inverse by the function that gives its log-determinant too."""
    bijector = CASES[name].bijector
    image, log_det = bijector.forward(params, u)
    back, inverse_log_det = bijector.inverse(params, v)
    return {"v": image, "log_det": log_det, "u": back, "inverse_log_det": inverse_log_det}


def _scalars(xp: Any, seen: dict[str, Any]) -> list[Any]:
    """Two scalars in which every output has a say: one of forward's (v, log_det), one of inverse's (u, inverse_log_det)."""
    return [
        xp.vdot(np.cos(np.arange(seen[there].size)).reshape(seen[there].shape), seen[there]) + 0.7 * seen[log_det]
        for there, log_det in (("v", "log_det"), ("u", "inverse_log_det"))
    ]  # fmt: skip


def _one_event(name: str, params: Any, u: jax.Array, v: jax.Array, weights: jax.Array) -> dict[str, Any]:
    """`_outputs`, the Jacobian of v in u, and the gradient of the weighted sum of `_scalars` in (params, u, v)."""

    def transform(u: jax.Array) -> tuple[jax.Array, jax.Array]:
        image = CASES[name].bijector.transform(params, u)
        return image, image

    def total(*point: Any) -> tuple[jax.Array, dict[str, Any]]:
        seen = _outputs(name, *point)
        return weights @ jnp.stack(_scalars(jnp, seen)), seen

    jacobian, transformed = jax.jacfwd(transform, has_aux=True)(u)
    if name in GRADIENTS:
        gradient, seen = jax.grad(total, argnums=(0, 1, 2), has_aux=True)(params, u, v)
        seen["gradient"] = gradient
    else:
        seen = _outputs(name, params, u, v)
    return seen | {"jacobian": jacobian.reshape(u.size, u.size), "transformed": transformed}


@functools.cache
def program(name: str, dtype: str) -> Any:
    """What all the tests below look at, compiled once: `_one_event` in float64, `_two_events` in float32."""
    return jax.jit(functools.partial(_one_event if dtype == "float64" else _two_events, name))


@functools.cache
def values(name: str, dtype: str) -> dict[str, Any]:
    """The program at an event u and its image v, and the image of v's inverse."""
    with jax.enable_x64(dtype == "float64"):
        run, params, u = program(name, dtype), cast(parameters(name), dtype), cast(events(name, dtype), dtype)
        case = CASES[name]
        rows, more = ((), (WEIGHTS[0],)) if dtype == "float64" else ((len(u),), ())
        v = run(params, u, jnp.zeros((*rows, *case.bijector.output_shape(case.shape)), dtype), *more)["v"]
        seen = run(params, u, v, *more)
        return jax.tree.map(np.asarray, seen | {"v_again": run(params, seen["u"], v, *more)["v"]})


def events(name: str, dtype: str) -> np.ndarray:
    """What `values` was given."""
    return event(name) if dtype == "float64" else np.stack([event(name), event(name, 1)])


@every_dtype
@every_case
def test_round_trips_both_ways(name, dtype):
    seen, tol = values(name, dtype), ROUND_TRIP[dtype]
    u = events(name, dtype)
    np.testing.assert_allclose(seen["u"], u, rtol=0, atol=tol * max(1.0, np.max(np.abs(u))))
    np.testing.assert_allclose(seen["v_again"], seen["v"], rtol=0, atol=tol * max(1.0, np.max(np.abs(seen["v"]))))


@each(EXPLICIT)
def test_invert_is_inverse(name):
    seen = values(name, "float32")
    # the same map twice in one program, but for the rounding of what the compiler fuses
    atol = 8 * np.finfo(np.float32).eps * max(1.0, np.max(np.abs(seen["u"])))
    np.testing.assert_allclose(seen["u_again"], seen["u"], rtol=0, atol=atol)


@every_case
def test_the_report_of_an_inversion_says_that_it_converged(name):
    info = values(name, "float32")["info"]
    assert np.all(info.converged)
    assert np.all(info.residual <= 1e-5)


@every_case
def test_forward_log_det_is_that_of_the_jacobian(name):
    seen, tol = values(name, "float64"), LOG_DET
    np.testing.assert_allclose(seen["v"], seen["transformed"], rtol=0, atol=tol)
    np.testing.assert_allclose(seen["log_det"], np.linalg.slogdet(seen["jacobian"])[1], rtol=tol, atol=tol)


@every_case
def test_inverse_log_det_is_minus_the_forward_one(name):
    seen = values(name, "float64")
    np.testing.assert_allclose(seen["inverse_log_det"], -seen["log_det"], rtol=LOG_DET, atol=LOG_DET)


@every_case
def test_the_shape_is_the_stated_one(name):
    case = CASES[name]
    assert values(name, "float64")["v"].shape == case.bijector.output_shape(case.shape)


# `invert` and `inverse` give one u, and the log-determinants of float32 are those of float64 to rounding
@every_case
def test_vmap_in_float32_is_the_single_event_in_float64(name):
    batched, single = values(name, "float32"), values(name, "float64")
    for field in ("v", "u", "log_det", *(("inverse_log_det",) if name in EXPLICIT else ())):
        scale = max(1.0, np.max(np.abs(single[field])))
        np.testing.assert_allclose(batched[field][0], single[field], rtol=0, atol=3e-5 * scale, err_msg=field)


@every_dtype
@every_case
def test_the_dtype_is_kept(name, dtype):
    seen = values(name, dtype)
    for field in ("v", "u", "log_det"):
        assert seen[field].dtype == dtype, field
    if dtype == "float64" or name in EXPLICIT:
        assert seen["inverse_log_det"].dtype == dtype
    if dtype == "float32":
        assert seen["info"].residual.dtype == dtype


def _direction(point: Any) -> Any:
    leaves, tree = jax.tree.flatten(point)
    ends = np.cumsum([leaf.size for leaf in leaves])
    flat = np.split(np.sin(1.0 + np.arange(ends[-1])), ends[:-1])
    return tree.unflatten([part.reshape(leaf.shape) for part, leaf in zip(flat, leaves, strict=True)])


@each(sorted(GRADIENTS))
def test_gradients_in_parameters_and_inputs_match_finite_differences(name):
    seen = values(name, "float64")
    point = parameters(name), event(name), seen["v"]
    whole, still = _direction(point), jax.tree.map(np.zeros_like, point)
    # two directions: the parameters alone, and the event and the latent alone
    directions = (whole[0], *still[1:]), (still[0], *whole[1:])
    with jax.enable_x64(True):
        run = program(name, "float64")

        def scalars(direction: Any, step: float) -> np.ndarray:
            moved = jax.tree.map(lambda leaf, move: leaf + step * move, point, direction)
            return np.asarray(_scalars(np, jax.tree.map(np.asarray, run(*moved, WEIGHTS[0]))))

        difference = np.stack([scalars(d, EPSILON) - scalars(d, -EPSILON) for d in directions]) / (2 * EPSILON)
        parts = [jax.tree.leaves(seen["gradient"]), jax.tree.leaves(run(*point, WEIGHTS[1])["gradient"])]
    claimed = [[sum(map(np.vdot, part, jax.tree.leaves(d))) for part in parts] for d in directions]
    size = max(1.0, np.max(np.abs(difference)))
    assert np.max(np.abs(difference)) > 1e-3
    np.testing.assert_allclose(claimed, difference, rtol=0, atol=1e-5 * size)


# the layers of a family go through the same lines, and a composition's layers each have a family
@each([f"{family}-0" for family in FAMILIES])
def test_jit_changes_nothing(name):
    bijector, params = CASES[name].bijector, cast(parameters(name), "float32")
    eager = bijector.transform(params, jnp.asarray(event(name), jnp.float32))
    jitted = values(name, "float32")["v"][0]
    assert eager.dtype == jnp.float32
    np.testing.assert_allclose(eager, jitted, rtol=0, atol=1e-5 * max(1.0, np.max(np.abs(jitted))))
