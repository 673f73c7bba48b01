"""`complete` as a user meets it: what comes back, for every edge of its input."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.known_flows import conditional_of, gaussian_of, linear_flow
from jaxflows import flows, posteriors
from jaxflows.conditional.complete import complete
from jaxflows.conditional.sample import draw_samples
from jaxflows.observation import mask
from jaxflows.solvers.boundary_sweep import boundary_sweep
from jaxflows.solvers.chord import chord

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def affine():
    return linear_flow(4, seed=0)


@pytest.fixture(scope="module")
def rows():
    return np.random.default_rng(0).standard_normal((4, 4)).astype(np.float32)


# two hidden, none, one, and all
OBSERVED = np.array([[1, 0, 1, 0], [1, 1, 1, 1], [0, 1, 1, 1], [0, 0, 0, 0]], bool)


@pytest.fixture(scope="module")
def completed(affine, rows):
    return complete(KEY, *affine, np.where(OBSERVED, rows, np.nan), OBSERVED, num_samples=200, progress=False)


def test_observed_entries_come_back_bit_for_bit(completed, rows):
    for values in (completed.samples, completed.mean[:, None], completed.anchor[:, None]):
        for row, seen, value in zip(rows, OBSERVED, values, strict=True):
            assert np.array_equal(value[:, seen], np.broadcast_to(row[seen], value[:, seen].shape))
    assert np.all(completed.std[OBSERVED] == 0)
    assert np.isfinite(completed.samples).all()


@pytest.fixture(scope="module")
def interrupted(affine, rows):
    """A call, its options, its whole result, and the result as an interrupt after the first of three rows would leave it."""
    flow, params = affine
    arguments, options = (KEY, flow, params, rows[:3], OBSERVED[0]), {"num_samples": 4, "weighted": False}
    whole = complete(*arguments, **options, progress=False)
    done = whole.info.done & (np.arange(3) < 1)
    return arguments, options, whole, whole._replace(samples=0.0 * whole.samples, info=whole.info._replace(done=done))


def test_an_interrupted_result_goes_on_where_it_was(interrupted):
    arguments, options, whole, half = interrupted
    result = complete(*arguments, **options, resume=half, progress=False)
    assert result.info.done.all()
    np.testing.assert_array_equal(result.samples[1:], whole.samples[1:])
    # the row that was done is kept as it was
    assert not result.samples[0].any()
    assert not half.info.done[1:].any()
    assert result.call == whole.call


@pytest.mark.parametrize(
    ("position", "other", "options", "named"),
    [
        (0, lambda key: jax.random.key(1), {}, "key"),
        (2, lambda params: jax.tree.map(lambda leaf: leaf + 1e-6, params), {}, "params"),
        (3, lambda rows: rows + 1, {}, "rows"),
        (3, lambda rows: rows[:2], {}, "rows"),
        (4, lambda observed: ~observed, {}, "rows"),
        (4, lambda observed: np.broadcast_to(observed, (3, 4)) & (np.arange(3) < 2)[:, None], {}, "rows"),
        (None, None, {"num_samples": 5}, "num_samples is 5; got num_samples 4"),
        (None, None, {"weighted": True}, "weighted is True; got weighted False"),
        (None, None, {"antithetic": True}, "antithetic is True; got antithetic False"),
        (None, None, {"partition": "same"}, "partition is same; got partition auto"),
        (
            None,
            None,
            {"posterior": posteriors.mean_field(), "fit_steps": 1},
            "posterior is mean_field; got posterior gauss_newton",
        ),
        (None, None, {"anchors": 2}, "anchors is 2; got anchors 1"),
    ],
)
def test_a_result_of_another_call_is_not_gone_on_from(interrupted, position, other, options, named):
    arguments, asked, _, half = interrupted
    arguments = [other(value) if number == position else value for number, value in enumerate(arguments)]
    with pytest.raises(ValueError, match=f"expected resume to be of this call, in which {named}"):
        complete(*arguments, **(asked | options), resume=half, progress=False)


def test_moves_are_part_of_the_call():
    flow = flows.realnvp(event_shape=(4,), layers=2, hidden=4)
    arguments = KEY, flow, flow.init(KEY), np.zeros((1, 4), np.float32), OBSERVED[0]
    still = complete(*arguments, num_samples=2, weighted=False, progress=False)
    with pytest.raises(ValueError, match="in which moves is 2; got moves 0"):
        complete(*arguments, num_samples=2, weighted=False, moves=2, resume=still, progress=False)


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
    assert any("1 of 4 rows have everything observed" in note for note in completed.notes)


def test_nothing_observed_gives_samples_of_the_flow(affine, completed):
    mean, covariance = gaussian_of(*affine)
    assert np.all(np.abs(completed.mean[3] - mean) < 5 * np.sqrt(np.diag(covariance) / 200))
    assert any("1 of 4 rows have nothing observed" in note for note in completed.notes)
    np.testing.assert_allclose(completed.info.bound[3], 0.0, atol=1e-3)


def test_same_key_same_samples_and_rows_do_not_depend_on_their_neighbours(affine, rows, completed):
    again = complete(KEY, *affine, rows, OBSERVED, num_samples=200, progress=False)
    assert np.array_equal(again.samples, completed.samples)
    others = np.concatenate([rows[:1], rows[::-1][:3]]), OBSERVED[[0, 3, 1, 2]]
    beside = complete(KEY, *affine, *others, num_samples=200, progress=False)
    np.testing.assert_allclose(beside.samples[0], completed.samples[0], atol=1e-5)
    alone = complete(KEY, *affine, rows[:1], OBSERVED[:1], num_samples=200, progress=False)
    np.testing.assert_allclose(alone.samples[0], completed.samples[0], atol=1e-5)
    assert np.abs(beside.samples[2:] - completed.samples[2:]).max() > 1


def test_resampled_draws_follow_the_weights(completed):
    picked = completed.resampled(KEY, 50)
    assert picked.shape == (4, 50, 4)
    assert np.isin(picked[0, :, 1], completed.samples[0, :, 1]).all()


def test_without_weights_the_draws_are_the_same_and_no_log_determinant_is_taken(affine, rows, completed, monkeypatch):
    def refuse(*_):
        raise AssertionError("a log-determinant was asked for")

    monkeypatch.setattr("jaxflows.conditional.sample.log_det_gap", refuse)
    plain = complete(KEY, *affine, rows, OBSERVED, num_samples=200, weighted=False, progress=False)
    np.testing.assert_allclose(plain.samples, completed.samples, atol=1e-5)
    assert np.all(plain.log_weights == 0)
    work = [0, 2, 3]
    for name in ("bound", "bound_std_error", "iw_bound", "ess", "pareto_k"):
        assert np.isnan(getattr(plain.info, name)[work]).all()
    np.testing.assert_array_equal(plain.info.evaluations, completed.info.evaluations)
    assert plain.resampled(KEY, 4).shape == (4, 4, 4)


def test_without_weights_unsolved_draws_are_marked_and_left_out(affine, rows):
    # rounding can leave a residual of exactly 0
    hopeless = boundary_sweep(max_sweeps=1, tol=-1.0)
    plain = complete(KEY, *affine, rows[:1], OBSERVED[:1], num_samples=3, weighted=False, solver=hopeless, progress=False)
    assert plain.info.converged[0] == 0
    assert np.all(np.isneginf(plain.log_weights))


def test_an_empty_batch(affine):
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


BAD = {
    "integers": ({"rows": np.ones((4, 4), np.uint8)}, r"expected floating-point rows .*got dtype uint8"),
    "row shape": ({"rows": np.ones((4, 5), np.float32)}, r"expected rows of shape \(rows, 4\); got \(4, 5\)"),
    "mask dtype": ({"observed": np.ones((4, 4))}, "expected a boolean mask, True where observed; got dtype float64"),
    "mask shape": ({"observed": np.ones((4, 2), bool)}, r"expected a mask of shape \(4, 4\) or \(4,\); got \(4, 2\)"),
    "nan": ({"rows": np.array([[0, 0, np.nan, 0]] * 4, np.float32)}, r"got nan in row 0 at position \(2,\)"),
    "infinity": (
        {"rows": np.array([[0, 0, 0, 0], [0, 0, np.inf, 0], [0] * 4, [0] * 4], np.float32)},
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
        draw = lambda m, y: draw_samples(KEY, flow, params, mask(m), y, num_samples=4, solver=chord()).report.bound  # noqa: E731
        return jnp.sum(jax.vmap(draw)(observed, values))

    for name, leaf in jax.tree_util.tree_flatten_with_path(jax.grad(bound)(params, OBSERVED[::2], rows[::2]))[0]:
        assert np.isfinite(leaf).all(), name
