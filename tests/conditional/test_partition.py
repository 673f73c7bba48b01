"""Partitions of the latent: rotations, exactness on affine flows, and the case that only the tangent partition solves."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.known_flows import gaussian_of, linear_flow, measured_of
from jaxflows import flows
from jaxflows.conditional.complete import complete
from jaxflows.conditional.gauss_newton import gauss_newton_reference
from jaxflows.conditional.hidden import hidden, hidden_columns
from jaxflows.conditional.partition import PARTITIONS, framed, split_latent
from jaxflows.conditional.sample import draw_samples
from jaxflows.observation import linear, mask
from jaxflows.solvers.chord import chord
from tests.solvers.problems import parameters, problem, singular_problem

KEY = jax.random.key(0)
OBSERVED = jnp.array([True, False, True, False, False])
reference = jax.jit(gauss_newton_reference, static_argnums=(0, 4))


@functools.cache
def tangent_basis(slots=3):
    """A random orthonormal basis of three dimensions, in ``slots`` columns."""
    basis = np.linalg.qr(np.random.default_rng(0).standard_normal((5, 3)))[0]
    return jnp.asarray(np.pad(basis, [(0, 0), (0, slots - 3)]), jnp.float32)


@functools.cache
def affine(size, seed):
    return linear_flow(size, seed=seed)


@functools.cache
def bent_flow():
    """Eight residual blocks near their Lipschitz bound, whose biases move their kinks about."""
    flow = flows.residual(event_shape=(5,), blocks=8, hidden=8, activation="tanh", coeff=0.97)
    standardisation, layers = jax.eval_shape(flow.init, KEY)
    rng = np.random.default_rng(0)

    def drawn(name, leaf):
        values = rng.standard_normal(leaf.shape)
        if name == "weight":
            values *= 0.98 / np.linalg.norm(values, ord=2, axis=(-2, -1), keepdims=True)
        return jnp.asarray(values, leaf.dtype)

    nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), standardisation)
    return flow, (nothing, [{name: drawn(name, leaf) for name, leaf in layer.items()} for layer in layers])


@pytest.mark.parametrize("slots", [3, 4])
@pytest.mark.parametrize("partition", ["volume", "tangent", "auto"])
def test_a_rotation_takes_the_free_latent_to_the_hidden_coordinates(partition, slots):
    where = hidden(mask(OBSERVED), slots)
    split = split_latent(partition, where, tangent_basis(slots))
    rotation = np.asarray(split.rotation)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(5), atol=1e-6)
    block = (rotation @ tangent_basis(slots))[np.flatnonzero(~OBSERVED), :3]
    np.testing.assert_allclose(split.scale[:3, :3], block, atol=1e-6)
    np.testing.assert_allclose(split.inverse_scale @ split.scale, np.eye(slots), atol=1e-5)
    np.testing.assert_allclose(split.overlap, np.linalg.svd(block)[1][-1], rtol=0.05, atol=1e-6)


def test_the_tangent_fits_best_and_volume_beats_the_same_coordinates():
    where = hidden(mask(OBSERVED), 3)
    split = {name: split_latent(name, where, tangent_basis()) for name in ("same", "volume", "tangent")}
    np.testing.assert_allclose(split["tangent"].scale, np.eye(3), atol=1e-6)
    volume = {name: abs(np.linalg.det(value.scale)) for name, value in split.items()}
    # greedy pivoting is within a factor of sqrt(k!) 2^(k/2) of the largest volume, and here above the paper's own choice
    assert volume["same"] < volume["volume"] < 1 + 1e-6
    assert set(np.unique(split["volume"].rotation)) == {0.0, 1.0}


def test_where_the_hidden_coordinates_have_the_largest_volume_nothing_is_permuted():
    where = hidden(mask(OBSERVED), 4)
    basis = jnp.zeros((5, 4)).at[jnp.flatnonzero(~OBSERVED, size=3), jnp.arange(3)].set(1.0)
    np.testing.assert_array_equal(split_latent("volume", where, basis).rotation, np.eye(5))
    np.testing.assert_array_equal(split_latent("auto", where, basis).partition, PARTITIONS.index("same"))


def test_an_unknown_partition_is_refused():
    with pytest.raises(ValueError, match=r"expected a partition of \[.*'average', 'auto'\]; got 'other'"):
        complete(KEY, *affine(4, 2), np.zeros((1, 4), np.float32), np.eye(4, dtype=bool)[:1], partition="other")


@pytest.mark.parametrize("partition", PARTITIONS)
def test_weights_of_an_affine_flow_are_its_evidence_in_every_partition_and_its_anchor_the_mean(partition):
    flow, params = affine(5, 1)
    mean, covariance = gaussian_of(flow, params)
    matrix = np.random.default_rng(0).standard_normal((2, 5))
    measured = linear(matrix)
    b = np.array([0.3, -1.1], np.float32)
    options = {"num_samples": 8, "solver": chord(), "partition": partition, "max_hidden": 4}
    draws = jax.jit(lambda y: draw_samples(KEY, flow, params, measured.observation, y, **options))(
        measured.pseudo_inverse(jnp.asarray(b))
    )
    # the density of P_O y in an orthonormal basis of the rows of A
    basis = np.linalg.qr(matrix.T)[0].T
    part, gap = basis @ covariance @ basis.T, basis @ (np.asarray(measured.pseudo_inverse(jnp.asarray(b))) - mean)
    evidence = -0.5 * gap @ np.linalg.solve(part, gap) - 0.5 * np.linalg.slogdet(2 * np.pi * part)[1]
    np.testing.assert_allclose(draws.log_weights, evidence, atol=2e-4)
    np.testing.assert_allclose(np.asarray(draws.samples) @ matrix.T, np.broadcast_to(b, (8, 2)), atol=1e-5)
    np.testing.assert_allclose(draws.anchor, measured_of(mean, covariance, matrix, 0.0, b)[0], atol=1e-5)
    assert draws.partition == PARTITIONS.index(partition)


@functools.cache
def densities(flow):
    return jax.jit(jax.vmap(flow.log_prob, in_axes=(None, 0)))


# where no rotation is, and where one is chosen by what the flow does around the anchor
@pytest.mark.parametrize("partition", ["same", "average"])
def test_partitions_agree_on_the_evidence_of_a_flow_that_moves_entries(partition):
    flow, _, _, _, _ = problem("squeezed", "mask")
    params = parameters("squeezed")
    observed = jnp.ones(flow.event_shape, bool).at[1, 0, 0].set(False)
    y = jnp.linspace(-1.0, 1.0, 8).reshape(flow.event_shape)
    grid = jnp.linspace(-6.0, 6.0, 601)
    log_p = densities(flow)(params, jnp.where(observed, y, grid[:, None, None, None]))
    evidence = np.logaddexp.reduce(log_p) + np.log(grid[1] - grid[0])
    options = {"num_samples": 200, "solver": chord(), "partition": partition, "max_hidden": 1}
    draws = jax.jit(lambda k: draw_samples(k, flow, params, mask(observed), y, **options))(KEY)
    weights = np.exp(np.asarray(draws.log_weights) - evidence)
    assert abs(weights.mean() - 1) < 5 * weights.std() / np.sqrt(200) + 1e-4
    assert draws.solve.converged == 1


def singular_rows():
    """Four quarter-turn blocks, the first entry seen: x = s (-y_2, y_1), so the same latent coordinate tells nothing."""
    flow, params, _, y, _ = singular_problem()
    return flow, params, np.asarray(y)[None], np.array([[True, False]])


def check_singular(result):
    scale = np.cos(np.pi / 8) ** 4
    assert list(result.info.partition) == ["tangent"]
    assert result.info.converged[0] == 1
    hidden_entry = result.samples[0, :, 1]
    assert abs(hidden_entry.mean()) < 5 * scale / np.sqrt(100)
    assert abs(hidden_entry.std() - scale) < 5 * scale / np.sqrt(200)
    assert result.info.ess[0] > 99.9


def test_auto_takes_the_tangent_where_the_same_coordinates_are_singular():
    result = complete(KEY, *singular_rows(), num_samples=100, progress=False)
    check_singular(result)
    np.testing.assert_allclose(result.info.overlap, 1.0, atol=1e-5)


def solves_only_when_rotated(flow, *problem):
    """The rotation is part of the flow that a solver sees."""
    solution, info = chord()(flow, *problem)
    return solution, info._replace(converged=info.converged & ("rotation" in flow.bijector.spec))


@pytest.mark.parametrize("partition", ["auto", "same"])
def test_a_row_that_one_partition_fails_is_tried_with_the_other_or_flagged(partition):
    rows, observed = np.zeros((2, 4), np.float32), np.array([[True, False, True, False], [True] * 4])
    result = complete(
        KEY,
        *affine(4, 2),
        rows,
        observed,
        num_samples=4,
        partition=partition,
        solver=solves_only_when_rotated,
        progress=False,
    )
    solved = partition == "auto"
    assert list(result.info.partition) == ["average" if solved else "same", ""]
    assert list(result.info.converged) == [float(solved), 1.0]
    assert (result.info.ess[0] > 3.99) if solved else (result.info.ess[0] == 0)
    assert np.isfinite(result.samples).all()


def test_the_average_keeps_most_of_the_tangent_spaces():
    flow, params = bent_flow()
    where = hidden(mask(OBSERVED), 4)
    start = reference(flow, params, where, jnp.where(OBSERVED, 0.4, 0.0), "tangent")
    average = reference(flow, params, where, jnp.where(OBSERVED, 0.4, 0.0), "average")
    etas = jax.random.normal(KEY, (400, 4)) * where.used

    def kept(rotation, eta):
        """The share of the tangent space at a point of the posterior that the free latent keeps."""
        _, columns = hidden_columns(flow, params, where, start.anchor + where.expand(start.spread @ eta))
        basis = jnp.linalg.qr(columns[:, :3])[0]
        return jnp.sum(((rotation @ basis) * ~OBSERVED[:, None]) ** 2) / 3

    share = jax.jit(jax.vmap(kept, in_axes=(None, 0)))
    gain = np.asarray(share(average.rotation, etas)) - np.asarray(share(start.rotation, etas))
    assert gain.mean() > 5 * gain.std() / np.sqrt(400)
    np.testing.assert_allclose(average.rotation @ average.rotation.T, np.eye(5), atol=1e-5)
    # at the anchor itself the tangent is the best there is
    assert average.overlap < start.overlap == pytest.approx(1.0, abs=1e-3)
    assert average.info.evaluations > start.info.evaluations


def test_the_frame_changes_no_density():
    rotation = np.linalg.qr(np.random.default_rng(0).standard_normal((5, 5)))[0]
    flow, params = affine(5, 1)
    turned, turned_params = framed(flow, params, jnp.asarray(rotation, jnp.float32))
    assert turned is not flow
    y = jnp.arange(5.0)

    @jax.jit
    def seen(params, turned_params):
        back, _ = turned.decode(turned_params, turned.encode(turned_params, y))
        return turned.log_prob(turned_params, y), flow.log_prob(params, y), back

    log_prob, expected, back = seen(params, turned_params)
    np.testing.assert_allclose(log_prob, expected, rtol=1e-5)
    np.testing.assert_allclose(back, y, atol=1e-4)
    assert framed(flow, params, None) == (flow, params)


def test_linear_measurements_of_a_batch():
    flow, params = affine(4, 2)
    mean, covariance = gaussian_of(flow, params)
    matrix = np.random.default_rng(3).standard_normal((2, 4))
    b = np.array([[0.2, -0.4], [1.0, 0.5]], np.float32)
    result = complete(KEY, flow, params, b, linear(matrix), num_samples=200, progress=False)
    gain = covariance @ matrix.T @ np.linalg.inv(matrix @ covariance @ matrix.T)
    spread = np.sqrt(np.diag(covariance - gain @ matrix @ covariance))
    for row in range(2):
        centre = mean + gain @ (b[row] - matrix @ mean)
        np.testing.assert_allclose(result.samples[row] @ matrix.T, np.broadcast_to(b[row], (200, 2)), atol=1e-5)
        np.testing.assert_allclose(result.anchor[row], centre, atol=1e-5)
        assert np.all(np.abs(result.mean[row] - centre) < 5 * spread / np.sqrt(200))
    assert np.all(result.info.ess > 199)
    # measurements in double precision are computed in single
    double = complete(KEY, flow, params, b.astype(float), linear(matrix), num_samples=200, progress=False)
    np.testing.assert_array_equal(double.samples, result.samples)
    whole = complete(KEY, flow, params, np.eye(4, dtype=np.float32)[:1], linear(np.eye(4)), num_samples=2, progress=False)
    np.testing.assert_allclose(whole.samples, np.broadcast_to(np.eye(4)[:1], (1, 2, 4)), atol=1e-6)
    assert "everything observed" in whole.notes[0]


BAD = {
    "length": (np.zeros((1, 3), np.float32), r"expected measurements of shape \(rows, 2\); got \(1, 3\)"),
    "nan": (np.array([[0.0, np.nan]], np.float32), r"expected finite measurements; got nan in row 0 at position \(1,\)"),
    "integers": (np.zeros((1, 2), int), "expected floating-point rows"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_measurements_are_named(case):
    rows, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        complete(KEY, *affine(4, 2), rows, linear(np.eye(4)[:2]), progress=False)
    with pytest.raises(ValueError, match=r"expected a measurement of events of shape \(4,\); got one of \(5,\)"):
        complete(KEY, *affine(4, 2), np.zeros((1, 2), np.float32), linear(np.eye(5)[:2]), progress=False)
