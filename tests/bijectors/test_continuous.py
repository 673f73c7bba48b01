"""Continuous flows: known equations, diffrax's own answers, the trace's estimate, and the sweep over legs."""

from __future__ import annotations

import functools
import importlib
import math
import sys

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from jaxflows import flows
from jaxflows.bijectors.continuous import Velocity, concatsquash, continuous, gauss_lobatto, ordinary_flow
from jaxflows.log_det.estimators import exact, power_series, russian_roulette
from jaxflows.observation import linear, mask
from jaxflows.persistence import load, save
from jaxflows.solvers.boundary_sweep import boundary_sweep
from jaxflows.training.fit import fit


def flow_of_field(apply, *, legs=2, steps=2, solver="tsit5", probes=1, constant=math.inf):
    velocity = Velocity(lambda key, shape: {}, apply, lambda params: jnp.asarray(constant))
    return ordinary_flow('{"bijector": "test"}', velocity, legs, steps, solver, probes, "rademacher")


def parameters(bijector, shape, scale=1.0, seed=0):
    """Numpy parameters with no leaf left at zero; ``scale`` is the norm of every matrix."""
    rng = np.random.default_rng(seed)

    def fill(leaf):
        values = rng.standard_normal(leaf.shape)
        return scale * values / np.linalg.norm(values, 2) if values.ndim == 2 else 0.5 * values

    shapes = jax.eval_shape(lambda key: bijector.init(key, shape), jax.random.key(0))
    return jax.tree.map(lambda leaf: jnp.asarray(fill(leaf)), shapes)


@pytest.mark.parametrize(
    ("field", "image", "log_det"),
    [
        (lambda params, t, z: math.log(2.0) * z, lambda u: 2.0 * u, 3 * math.log(2.0)),
        (lambda params, t, z: jnp.full_like(z, 1.5), lambda u: u + 1.5, 0.0),
        (lambda params, t, z: z * jnp.asarray([0.3, -0.6, 0.9]), lambda u: u * np.exp([0.3, -0.6, 0.9]), 0.6),
        (lambda params, t, z: 2.0 * t * z, lambda u: math.e * u, 3.0),
    ],
    ids=["doubling", "drift", "diagonal", "in_time"],
)
def test_equations_with_a_known_solution(field, image, log_det):
    # TFP bijectors/ffjord_test.py, atol 1e-4 and 1e-5 there
    layer = flow_of_field(field, legs=8, probes=2)
    u = jnp.asarray([0.5, -2.0, 1.0])
    v, seen = layer.forward({}, u)
    np.testing.assert_allclose(v, image(u), atol=1e-5)
    np.testing.assert_allclose(seen, log_det, atol=1e-5)
    back, inverse_log_det = layer.inverse({}, v)
    np.testing.assert_allclose(back, u, atol=2e-6)
    np.testing.assert_allclose(inverse_log_det, -log_det, atol=1e-5)
    # signs see the trace of a diagonal matrix exactly
    _, estimate = layer.estimate(jax.random.key(0), power_series(), {}, u)
    np.testing.assert_allclose(estimate.value, log_det, atol=1e-5)
    np.testing.assert_allclose(estimate.std_error, 0.0, atol=1e-6)


@pytest.mark.parametrize("solver", ["bosh3", "tsit5", "dopri8"])
def test_the_steps_are_those_of_diffrax(solver):
    layer = continuous(hidden=(6,), legs=3, steps=2, solver=solver)
    velocity = concatsquash((6,), "tanh")
    with jax.enable_x64(True):
        params, u = parameters(layer, (4,)), jnp.asarray(np.random.default_rng(1).standard_normal(4))
        seen = jax.jit(layer.transform)(params, u)
        method = {"bosh3": diffrax.Bosh3, "tsit5": diffrax.Tsit5, "dopri8": diffrax.Dopri8}[solver]()
        term = diffrax.ODETerm(lambda t, z, args: velocity.apply(args, t, z))
        meant = diffrax.diffeqsolve(term, method, 0.0, 1.0, 1.0 / 6.0, u, params, max_steps=7).ys[0]
    np.testing.assert_allclose(seen, meant, rtol=0, atol=1e-13)
    assert np.max(np.abs(seen - u)) > 0.1


def test_a_free_form_field_with_a_random_net_has_the_log_det_of_the_true_solution():
    # zuko tests/test_transforms.py:test_multivariate_transforms, a 5-16-5 sigmoid net, 1e-4 there
    rng = np.random.default_rng(0)
    first, second = rng.standard_normal((5, 16)) / math.sqrt(5), rng.standard_normal((16, 5)) / 4.0

    def field(params, t, z):
        return jax.nn.sigmoid(z @ first) @ second

    def solve(u):
        term, method = diffrax.ODETerm(lambda t, z, args: field(args, t, z)), diffrax.Dopri8()
        control, adjoint = diffrax.PIDController(rtol=1e-11, atol=1e-11), diffrax.ForwardMode()
        found = diffrax.diffeqsolve(term, method, 0.0, 1.0, None, u, stepsize_controller=control, adjoint=adjoint)
        return found.ys[0]

    with jax.enable_x64(True):
        u = jnp.asarray(rng.standard_normal(5))
        v, log_det = jax.jit(flow_of_field(field, legs=4).forward)({}, u)
        truth = jnp.linalg.slogdet(jax.jacfwd(solve)(u))[1]
        np.testing.assert_allclose(v, solve(u), atol=1e-7)
    np.testing.assert_allclose(log_det, truth, atol=1e-7)
    assert abs(float(truth)) > 0.05


def test_gauss_lobatto_is_exact_to_its_degree_and_no_further():
    for steps in (2, 3, 4, 7):
        nodes, weights = gauss_lobatto(steps)
        moments = np.asarray([weights @ nodes**degree for degree in range(2 * steps + 1)])
        errors = np.abs(moments * (1 + np.arange(2 * steps + 1)) - 1.0)
        assert np.max(errors[:-1]) < 1e-13
        assert errors[-1] > 1e-8
        assert (nodes[0], nodes[-1]) == (0.0, 1.0)


def test_the_discretisation_s_part_of_the_estimate_falls_as_the_third_power_of_the_step():
    # in one dimension a sign squared is one: the estimate has no other error
    gaps = []
    with jax.enable_x64(True):
        u = jnp.asarray([0.7])
        for legs in (2, 4):
            layer = continuous(hidden=(8,), legs=legs, probes=2)
            params = parameters(layer, (1,), scale=2.0)
            _, log_det = jax.jit(layer.forward)(params, u)
            _, estimate = jax.jit(lambda key, layer=layer, params=params: layer.estimate(key, power_series(), params, u))(
                jax.random.key(0)
            )
            assert float(estimate.std_error) < 1e-12
            gaps.append(abs(float(estimate.value - log_det)))
    assert 1e-9 < gaps[1] < gaps[0] / 6.0
    assert gaps[0] < 1e-3


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def draws(layer, estimator, count, params, u):
    """``count`` independent estimates, with error bars and gradients in the parameters and the event."""

    def one(key):
        def value(inputs):
            _, log_det = layer.estimate(key, estimator, *inputs)
            return log_det.value, log_det

        gradient, log_det = jax.grad(value, has_aux=True)((params, u))
        return log_det, ravel_pytree(gradient)[0]

    return jax.vmap(one)(jax.random.split(jax.random.key(1), count))


@pytest.mark.long
def test_the_estimate_and_its_gradient_are_unbiased_and_its_error_bar_is_honest():
    layer, count = continuous(hidden=(6,), legs=3, probes=3, probe="gaussian"), 2000
    with jax.enable_x64(True):
        params, u = parameters(layer, (3,), scale=1.5), jnp.asarray([0.3, -0.8, 1.1])
        seen, gradients = jax.tree.map(np.asarray, draws(layer, russian_roulette(), count, params, u))
        truth, slope = jax.jit(jax.value_and_grad(lambda inputs: layer.forward(*inputs)[1]))((params, u))
        slope = np.asarray(ravel_pytree(slope)[0])
    assert abs(float(truth)) > 0.01
    for samples, meant in ((seen.value[:, None], np.asarray([truth])), (gradients, slope)):
        error = np.std(samples, axis=0, ddof=1) / math.sqrt(count)
        # the discretisation adds a little, measured apart
        assert np.all(np.abs(np.mean(samples, axis=0) - meant) < 5 * error + 1e-4)
    assert np.std(seen.value) > 1e-2
    # each draw's error bar has few degrees of freedom; their mean square has many
    claimed = seen.std_error**2
    error = math.hypot(np.std(claimed) / math.sqrt(count), np.var(seen.value) * math.sqrt(2.0 / count))
    assert abs(np.mean(claimed) - np.var(seen.value, ddof=1)) < 5 * error
    np.testing.assert_array_equal(seen.truncation_bound, 0.0)


def test_one_probe_has_no_error_bar_and_exact_has_no_error():
    layer = continuous(hidden=(6,), legs=2)
    params, u = parameters(layer, (3,)), jnp.asarray([0.3, -0.8, 1.1])

    def all_three(params, u):
        key = jax.random.key(0)
        return layer.estimate(key, power_series(), params, u), layer.estimate(key, exact(), params, u), layer.forward(params, u)

    (_, one), (v, known), (image, log_det) = jax.jit(all_three)(params, u)
    assert float(one.std_error) == np.inf
    assert abs(float(one.value - log_det)) > 1e-3
    np.testing.assert_allclose(v, image, atol=1e-6)
    np.testing.assert_allclose(known.value, log_det, atol=1e-6)
    assert float(known.std_error) == 0.0


def test_fresh_probes_at_every_node_make_the_error_fall_with_the_number_of_legs():
    u, variances = jnp.asarray([0.3, -0.8, 1.1]), []
    for legs in (1, 8):
        layer = continuous(hidden=(6,), legs=legs)
        params, keys = parameters(layer, (3,), scale=1.5), jax.random.split(jax.random.key(2), 500)
        run = jax.jit(
            jax.vmap(lambda key, params, layer=layer: layer.estimate(key, power_series(), params, u)[1].value, (0, None))
        )
        variances.append(float(np.var(run(keys, params))))
    assert variances[1] < variances[0] / 5.0


@pytest.mark.parametrize("kind", ["mask", "linear"])
def test_the_boundary_sweep_solves_the_constraint(kind):
    flow = flows.continuous(event_shape=(6,), hidden=12, legs=4)
    params = parameters(flow.bijector, (6,), scale=2.0)
    seen = mask(jnp.arange(6) % 3 == 0)
    if kind == "linear":
        seen = linear(np.random.default_rng(5).standard_normal((2, 6)), (6,)).observation
    y, x_hidden = (jnp.asarray(np.random.default_rng(s).standard_normal(6), jnp.float32) for s in (6, 7))

    def solve(params):
        return boundary_sweep()(flow, params, seen, seen.observed_part(y), x_hidden, None)

    solution, info = jax.jit(solve)(params)
    assert bool(info.converged)
    assert float(jnp.max(jnp.abs(seen.hidden_part(flow.encode(params, solution.y) - x_hidden)))) <= 1e-4
    np.testing.assert_allclose(seen.observed_part(solution.y), seen.observed_part(y), atol=1e-6)
    assert float(jnp.max(jnp.abs(solution.x - solution.y))) > 0.1
    # one leg forward a sweep: the way back uses what the way there computed
    assert flow.bijector.sweep_blocks == flow.bijector.blocks == 4 * 2 * 3


def test_the_sweep_contracts_when_a_long_expansion_is_cut_into_legs():
    # one leg has |Phi - 1| = exp(1.5) - 1 = 3.5, eight have 0.21 each
    seen, converged, constants = mask(jnp.asarray([True, False])), [], []
    for legs in (1, 8):
        layer = flow_of_field(lambda params, t, z: 1.5 * z, legs=legs, solver="bosh3", constant=1.5)
        flow = flows.flow_of((2,), layer)
        solver = boundary_sweep(history=0, max_sweeps=200)
        run = jax.jit(lambda y, x, solver=solver, flow=flow: solver(flow, {}, seen, y, x, None)[1])
        converged.append(bool(run(jnp.asarray([0.7, 0.0]), jnp.asarray([0.0, -1.3])).converged))
        constants.append(float(layer.lipschitz({})))
    assert converged == [False, True]
    np.testing.assert_allclose(constants, np.expm1([1.5, 1.5 / 8]), rtol=0.02)


def test_the_certified_constant_bounds_every_leg():
    layer = continuous(hidden=(6,), legs=3, solver="bosh3")
    params, points = parameters(layer, (4,), scale=1.2), 2.0 * np.random.default_rng(2).standard_normal((20, 4))

    def residuals(u):
        def ends(z):
            v, (_, path) = layer.trace(params, z)
            return jnp.concatenate([path, v[None]])

        through = jnp.concatenate([jnp.eye(4)[None], jax.jacfwd(ends)(u)])
        legs = jax.vmap(lambda before, after: after @ jnp.linalg.inv(before))(through[:-1], through[1:])
        return legs - jnp.eye(4)

    found = jax.jit(jax.vmap(residuals))(jnp.asarray(points, jnp.float32))
    largest = np.max(np.linalg.norm(found, ord=2, axis=(2, 3)))
    assert 0.02 < largest <= float(layer.lipschitz(params)) < 0.6


def test_an_equation_too_stiff_for_its_steps_is_reported():
    layer = flow_of_field(lambda params, t, z: -200.0 * jnp.sin(3.0 * z), legs=1, solver="bosh3")
    _, info = jax.jit(layer.invert)({}, jnp.asarray([0.4, -0.9]))
    assert not bool(info.converged)


def test_the_inverse_is_that_of_the_steps_not_of_the_equation():
    # steps so few that the backward solve alone misses by far
    layer = continuous(hidden=(6,), legs=1)
    with jax.enable_x64(True):
        params, u = parameters(layer, (3,), scale=3.0), jnp.asarray([0.3, -0.8, 1.1])
        fine = continuous(hidden=(6,), legs=64, solver="tsit5")
        v = jax.jit(layer.transform)(params, u)
        back, info = jax.jit(layer.invert)(params, v)
        assert np.max(np.abs(jax.jit(fine.invert)(params, v)[0] - u)) > 1e-4
        np.testing.assert_allclose(back, u, rtol=0, atol=1e-11)
        assert float(info.residual) <= 1e-11


def test_the_cost_stated_is_the_number_of_network_evaluations():
    calls = []

    def field(params, t, z):
        jax.debug.callback(lambda: calls.append(1))
        return jnp.sin(z)

    layer, u = flow_of_field(field, legs=2, steps=3), jnp.asarray([0.3, -0.8])
    v = layer.transform({}, u)
    jax.effects_barrier()
    assert len(calls) == layer.blocks == 2 * 3 * 6
    calls.clear()
    _, info = layer.invert({}, v)
    jax.effects_barrier()
    assert len(calls) == int(info.evaluations)


def test_the_gradient_of_a_jvp_matches_finite_differences():
    layer = continuous(hidden=(5,), legs=2)
    with jax.enable_x64(True):
        flat, unravel = ravel_pytree(parameters(layer, (3,)))
        u, direction = jnp.asarray([0.3, -0.8, 1.1]), jnp.asarray([1.0, 0.5, -0.7])

        def form(flat):
            return jnp.sum(jax.jvp(lambda z: layer.transform(unravel(flat), z), (u,), (direction,))[1] ** 2)

        way = jnp.sin(1.0 + jnp.arange(flat.size))
        slope = jax.jit(jax.grad(form))(flat) @ way
        run = jax.jit(form)
        difference = (run(flat + 1e-5 * way) - run(flat - 1e-5 * way)) / 2e-5
    np.testing.assert_allclose(slope, difference, rtol=1e-7)
    assert abs(float(slope)) > 1e-3


def test_single_precision_stays_single_in_64_bit_mode():
    layer = continuous(hidden=(5,), legs=2)
    with jax.enable_x64(True):
        params = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), parameters(layer, (3,)))
        u = jnp.ones(3, jnp.float32)
        run = jax.jit(lambda key, p, u: (layer.invert(p, u)[0], layer.estimate(key, power_series(), p, u)))
        back, (v, log_det) = run(jax.random.key(0), params, u)
        assert back.dtype == v.dtype == log_det.value.dtype == jnp.float32


def test_the_program_does_not_grow_with_the_number_of_legs():
    def equations(legs):
        layer = continuous(hidden=(4,), legs=legs)
        params = jax.eval_shape(lambda key: layer.init(key, (3,)), jax.random.key(0))
        program = jax.make_jaxpr(lambda p, u: (layer.forward(p, u), layer.invert(p, u), layer.trace(p, u)))(
            params, jnp.zeros(3)
        )
        return str(program).count(" = ")

    assert equations(2) == equations(64) > 100


def test_training_lowers_the_loss():
    rng = np.random.default_rng(0)
    data = np.tanh(3.0 * rng.standard_normal((256, 2))).astype(np.float32)
    flow = flows.continuous(event_shape=(2,), hidden=8, legs=2)
    params, report = fit(
        jax.random.key(0), flow, data, epochs=15, batch_size=64, learning_rate=2e-2, validation=0.0, ema_decay=0.9,
        progress=False,
    )  # fmt: skip
    assert np.mean(report.losses[-10:]) < np.mean(report.losses[:5]) - 0.1
    assert report.lipschitz == float(flow.bijector.lipschitz(params))


def test_a_fresh_flow_is_near_the_identity_and_comes_back_from_a_file(tmp_path):
    flow = flows.continuous(event_shape=(2, 3), hidden=(8, 8), legs=2)
    params = flow.init(jax.random.key(0))
    y = jax.random.normal(jax.random.key(1), (2, 3))
    x = flow.encode(params, y)
    assert 1e-4 < float(jnp.max(jnp.abs(x - y))) < 0.2
    save(tmp_path / "model", flow, params)
    loaded, loaded_params, _ = load(tmp_path / "model")
    assert loaded.bijector.spec == flow.bijector.spec
    np.testing.assert_array_equal(loaded.encode(loaded_params, y), x)


def test_without_diffrax_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffrax", None)
    monkeypatch.delitem(sys.modules, "jaxflows.bijectors.continuous")
    with pytest.raises(ImportError, match=r"pip install 'jaxflows\[continuous\]'"):
        importlib.import_module("jaxflows.bijectors.continuous")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden": ()}, "hidden widths, at least one and all positive; got \\(\\)"),
        ({"legs": 0}, "legs >= 1 and probes >= 1; got 0 and 1"),
        ({"probes": 0}, "legs >= 1 and probes >= 1; got 8 and 0"),
        ({"steps": 1}, "expected steps >= 2; got 1"),
        ({"solver": "euler"}, "expected a solver of \\['bosh3', 'dopri8', 'tsit5'\\]; got 'euler'"),
        ({"activation": "relu"}, "expected an activation of .*; got 'relu'"),
        ({"probe": "cauchy"}, "expected a probe of .*; got 'cauchy'"),
    ],
)
def test_bad_options_are_refused_in_words(options, message):
    with pytest.raises(ValueError, match=message):
        continuous(**{"hidden": (4,), **options})


def test_an_event_of_another_size_is_refused():
    layer = continuous(hidden=(4,))
    with pytest.raises(ValueError, match="expected an event of 3 entries, as the parameters; got \\(4,\\)"):
        layer.transform(layer.init(jax.random.key(0), (3,)), jnp.zeros(4))
