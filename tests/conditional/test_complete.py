"""`complete` as a user meets it: what comes back, for every edge of its input."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from benchmarks.known_flows import conditional_of, gaussian_of, linear_flow
from jaxflows import flows
from jaxflows.conditional import posteriors
from jaxflows.conditional.complete import complete
from jaxflows.conditional.fit_posterior import fit_posterior
from jaxflows.conditional.sample import draw_samples
from jaxflows.observation import linear, mask

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def affine():
    return linear_flow(4, seed=0)


@pytest.fixture(scope="module")
def rows():
    return np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)


OBSERVED = np.array([[True, False, True, False], [True, True, True, True], [False, True, True, True]])


@pytest.fixture(scope="module")
def completed(affine, rows):
    return complete(KEY, *affine, np.where(OBSERVED, rows, np.nan), OBSERVED, num_samples=200, progress=False)


def test_observed_entries_come_back_bit_for_bit(completed, rows):
    for values in (completed.samples, completed.mean[:, None], completed.anchor[:, None]):
        for row, seen, value in zip(rows, OBSERVED, values, strict=True):
            assert np.array_equal(value[:, seen], np.broadcast_to(row[seen], value[:, seen].shape))
    assert np.all(completed.std[OBSERVED] == 0)
    assert np.isfinite(completed.samples).all()


def test_moments_are_those_of_the_schur_complement(affine, completed, rows):
    mean, covariance = gaussian_of(*affine)
    for row in (0, 2):
        centre, spread = conditional_of(mean, covariance, OBSERVED[row], rows[row])
        error = np.sqrt(np.diag(spread) / 200)
        hidden = ~OBSERVED[row]
        assert np.all(np.abs(completed.mean[row][hidden] - centre) < 5 * error)
        assert np.all(np.abs(completed.std[row][hidden] - np.sqrt(np.diag(spread))) < 5 * error)
        np.testing.assert_allclose(completed.anchor[row][hidden], centre, atol=1e-5)
        assert completed.info.ess[row] > 199
        assert completed.info.converged[row] == 1
        assert completed.info.residual[row] <= 1e-4
        assert completed.info.evaluations[row] > 0


def test_a_row_with_everything_observed_is_returned_with_no_work(completed, rows):
    assert np.array_equal(completed.samples[1], np.broadcast_to(rows[1], (200, 4)))
    assert completed.info.evaluations[1] == 0
    assert completed.info.converged[1] == 1
    assert any("1 of 3 rows have everything observed" in note for note in completed.notes)


def test_nothing_observed_gives_samples_of_the_flow(affine):
    result = complete(
        KEY, *affine, np.full((1, 4), np.nan, np.float32), np.zeros((1, 4), bool), num_samples=400, progress=False
    )
    mean, covariance = gaussian_of(*affine)
    assert np.all(np.abs(result.mean[0] - mean) < 5 * np.sqrt(np.diag(covariance) / 400))
    assert any("nothing observed" in note for note in result.notes)
    np.testing.assert_allclose(result.info.bound, 0.0, atol=1e-3)


def test_same_key_same_samples_and_rows_do_not_depend_on_their_neighbours(affine, rows, completed):
    again = complete(KEY, *affine, rows, OBSERVED, num_samples=200, progress=False)
    assert np.array_equal(again.samples, completed.samples)
    alone = complete(KEY, *affine, rows[:1], OBSERVED[:1], num_samples=200, progress=False)
    np.testing.assert_allclose(alone.samples[0], completed.samples[0], atol=1e-5)


def test_resampled_draws_follow_the_weights(completed):
    picked = completed.resampled(KEY, 50)
    assert picked.shape == (3, 50, 4)
    assert np.isin(picked[0, :, 1], completed.samples[0, :, 1]).all()


def test_empty_batch_and_one_row(affine):
    none = complete(KEY, *affine, np.zeros((0, 4), np.float32), np.zeros((0, 4), bool), progress=False)
    assert none.samples.shape == (0, 16, 4)
    assert none.info.done.shape == (0,)


def test_half_precision_rows_are_computed_in_float32(affine, rows, completed):
    half = complete(KEY, *affine, rows.astype(np.float16), OBSERVED, num_samples=200, progress=False)
    assert half.samples.dtype == np.float32
    assert np.array_equal(half.samples[0][:, 0], np.full(200, rows.astype(np.float16)[0, 0], np.float32))
    np.testing.assert_allclose(half.mean, completed.mean, atol=1e-2)


def test_rows_in_double_precision_are_computed_in_single_without_a_warning(affine, completed, rows):
    double = np.where(OBSERVED, rows, np.nan).astype(np.float64)
    result = complete(KEY, *affine, double, OBSERVED, num_samples=200, progress=False)
    assert result.samples.dtype == np.float64
    np.testing.assert_array_equal(result.samples, completed.samples)
    measured = linear(np.ones((1, 4)) / 2)
    drawn = [
        complete(KEY, *affine, rows[:, :1].astype(t), measured, num_samples=2, progress=False) for t in (np.float32, float)
    ]
    np.testing.assert_array_equal(drawn[1].samples, drawn[0].samples)


BAD = {
    "integers": ({"rows": np.ones((3, 4), np.uint8)}, r"expected floating-point rows .*got dtype uint8"),
    "row shape": ({"rows": np.ones((3, 5), np.float32)}, r"expected rows of shape \(rows, 4\); got \(3, 5\)"),
    "mask dtype": ({"observed": np.ones((3, 4))}, "expected a boolean mask, True where observed; got dtype float64"),
    "mask shape": ({"observed": np.ones((3, 2), bool)}, r"expected a mask of shape \(3, 4\) or \(4,\); got \(3, 2\)"),
    "nan": ({"rows": np.array([[0, 0, np.nan, 0]] * 3, np.float32)}, r"got nan in row 0 at position \(2,\)"),
    "infinity": (
        {"rows": np.array([[0, 0, 0, 0], [0, 0, np.inf, 0], [0] * 4], np.float32)},
        r"inf in row 1 at position \(2,\)",
    ),
    "samples": ({"num_samples": 0}, "expected num_samples >= 1; got 0"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named_before_any_work(affine, rows, case):
    changes, message = BAD[case]
    arguments = {"rows": rows, "observed": OBSERVED, "num_samples": 2} | changes
    with pytest.raises(ValueError, match=message):
        complete(KEY, *affine, arguments["rows"], arguments["observed"], num_samples=arguments["num_samples"], progress=False)


def test_core_runs_under_jit_vmap_and_grad(affine, rows):
    flow, params = affine

    @jax.jit
    def bound(params, observed, values):
        draw = lambda m, y: draw_samples(KEY, flow, params, mask(m), y, num_samples=4).report.bound  # noqa: E731
        return jnp.sum(jax.vmap(draw)(observed, values))

    for name, leaf in jax.tree_util.tree_flatten_with_path(jax.grad(bound)(params, OBSERVED[::2], rows[::2]))[0]:
        assert np.isfinite(leaf).all(), name


def test_fit_reaches_a_better_bound_from_the_prior():
    flow = flows.residual(event_shape=(3,), blocks=2, hidden=8)
    params = flow.init(jax.random.key(5))
    family = posteriors.mean_field(start="prior")
    observations = jax.vmap(mask)(jnp.array([[True, False, False], [False, True, False]]))
    y = jnp.array([[1.5, 0.0, 0.0], [0.0, -1.0, 0.0]])
    options = {"posterior": family, "steps": 60, "optimizer": optax.adam(5e-2), "progress": False, "tolerance": 0.0}
    fitted, trace = fit_posterior(KEY, flow, params, observations, y, **options)
    assert trace.bound.shape == (4, 2)
    rise = trace.bound[-1] - trace.bound[0]
    assert np.all(rise > -2 * trace.bound_std_error[-1])
    assert rise.sum() > 0
    assert np.all(trace.unconverged == 0)
    assert fitted.theta["mu"].shape == (2, 2)
    # what a row's fit gives depends on its key and not on the rows beside it nor on their order
    turned, back = fit_posterior(
        jax.random.split(KEY, 2)[::-1], flow, params, jax.tree.map(lambda leaf: leaf[::-1], observations), y[::-1], **options
    )
    jax.tree.map(lambda ours, theirs: np.testing.assert_allclose(ours[::-1], theirs, rtol=1e-5), turned.theta, fitted.theta)
    np.testing.assert_allclose(back.bound[:, ::-1], trace.bound, rtol=1e-5)
    with pytest.raises(ValueError, match="expected y_observed and observations of shape"):
        fit_posterior(KEY, flow, params, observations, y[:, :2], progress=False)
