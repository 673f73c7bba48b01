"""Observations are orthogonal projectors; operators that are none are refused."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflows.observation import linear, mask

SHAPE = (4, 3)
MATRIX = np.random.default_rng(0).standard_normal((5, 12))


def _observations():
    pool = linear(lambda y: y.reshape(2, 2, 3).mean(1), SHAPE)
    return {
        "mask": mask(jnp.asarray(np.random.default_rng(1).random(SHAPE) < 0.4)),
        "matrix": linear(MATRIX, SHAPE).observation,
        "function": pool.observation,
        "complement": linear(MATRIX, SHAPE).observation.complement(),
    }


def _matrix(function):
    columns = jax.vmap(lambda e: function(e.reshape(SHAPE)).reshape(-1))(jnp.eye(12))
    return np.asarray(columns).T


@pytest.mark.parametrize("name", sorted(_observations()))
def test_is_an_orthogonal_projector_with_orthogonal_coordinates(name):
    observation = _observations()[name]
    p, rotation = _matrix(observation.observed_part), _matrix(observation.to_coordinates)
    np.testing.assert_allclose(p @ p, p, atol=1e-5)
    np.testing.assert_allclose(p, p.T, atol=1e-6)
    np.testing.assert_allclose(_matrix(observation.hidden_part), np.eye(12) - p, atol=1e-6)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(12), atol=1e-5)
    np.testing.assert_allclose(_matrix(observation.from_coordinates), rotation.T, atol=1e-6)
    seen = np.diag(np.asarray(observation.observed).reshape(-1).astype(float))
    np.testing.assert_allclose(rotation.T @ seen @ rotation, p, atol=1e-5)


def test_restore_copies_masked_entries_bit_for_bit_and_ignores_hidden_nan():
    observed = jnp.array([True, False, True])
    given = jnp.array([0.1, jnp.nan, -0.0])
    y = mask(observed).restore(jnp.array([5.0, 6.0, 7.0]), given)
    assert np.asarray(y).tobytes() == np.array([0.1, 6.0, -0.0], np.float32).tobytes()
    np.testing.assert_array_equal(mask(observed).observed_part(given), np.float32([0.1, 0.0, 0.0]))


def test_the_pseudo_inverse_is_that_of_the_matrix():
    measurement = linear(MATRIX, SHAPE)
    b = jnp.arange(5.0)
    y = measurement.pseudo_inverse(b)
    np.testing.assert_allclose(y.reshape(-1), np.linalg.pinv(MATRIX) @ b, atol=1e-5)
    np.testing.assert_allclose(measurement.measure(y), b, atol=1e-5)
    np.testing.assert_allclose(measurement.observation.hidden_part(y), 0.0, atol=1e-5)


def test_a_batch_of_masks_is_one_program():
    masks = jnp.asarray(np.random.default_rng(2).random((3, 6)) < 0.5)
    traces = []

    @jax.jit
    def project(masks, v):
        traces.append(1)
        return jax.vmap(lambda m: mask(m).observed_part(v))(masks)

    np.testing.assert_array_equal(project(masks, jnp.ones(6)), masks.astype(float))
    np.testing.assert_array_equal(project(~masks, jnp.ones(6)), (~masks).astype(float))
    assert len(traces) == 1


def _deficient():
    return np.concatenate([MATRIX[:3], MATRIX[:1] + MATRIX[1:2]])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: mask(jnp.ones(3)), "expected a boolean mask, True where observed; got dtype float32"),
        (lambda: linear(_deficient()), "expected an operator of full row rank 4; got rank 3"),
        (lambda: linear(np.ones((4, 3))), "expected at most 3 measurements of an event of size 3; got 4"),
        (lambda: linear(np.full((1, 3), np.nan)), "expected finite operator entries; got NaN or infinity"),
        (lambda: linear(np.ones(3)), r"expected a matrix \(measurements, event size\); got shape \(3,\)"),
        (lambda: linear(MATRIX, (5,)), r"expected a matrix with 5 columns for events \(5,\); got 12"),
        (lambda: linear(lambda y: y[:2]), "expected event_shape together with an operator given as a function"),
        (lambda: linear(lambda y: y[:2] ** 2, (3,)), "expected a linear operator"),
        (lambda: linear(lambda y: y[:2] + 1.0, (3,)), "expected a linear operator"),
        (
            lambda: linear(lambda y: y[:2], (3,), transpose=lambda b: jnp.zeros(3)),
            r"expected transpose to be the adjoint of the operator on events \(3,\)",
        ),
    ],
)
def test_what_is_no_observation_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_right_adjoint_is_accepted():
    given = linear(lambda y: MATRIX @ y, (12,), transpose=lambda b: MATRIX.T @ b)
    seen, meant = (m.observation.observed_part(jnp.ones(12)) for m in (given, linear(MATRIX)))
    np.testing.assert_allclose(seen, meant, atol=1e-5)
