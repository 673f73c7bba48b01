"""Joint training on rows with holes: the known answer, what is skipped and counted, resumption, the head, refusals."""

from __future__ import annotations

import shutil

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflows.conditional.complete import complete
from jaxflows.metrics import fit_gaussian_em, observed_log_likelihood
from jaxflows.solvers.boundary_sweep import boundary_sweep
from jaxflows.training.fit_incomplete import fit_incomplete
from jaxflows.training.incomplete_data import incomplete_data
from jaxflows.training.predict_labels import predict_labels
from tests.training.affine_rows import (
    AFFINE,
    affine_start,
    fresh,
    gaussian_rows,
    log_likelihood,
    log_likelihoods,
    median_likelihood,
)

COMPLETE, OBSERVED = gaussian_rows(600)
ROWS = np.where(OBSERVED, COMPLETE, np.nan)
START = affine_start(ROWS)
KEY = jax.random.key(0)
# which half of the plane a row lies in, known of every other row
CLASSES = (COMPLETE[:, 0] > 1.0).astype(int)
LABELS = np.where(np.arange(len(ROWS)) % 2, CLASSES, -1)
SOME = slice(0, 200)


def few(rows=ROWS[:40], observed=OBSERVED[:40], **changes):
    options = {"epochs": 2, "batch_size": 16, "params": START, "ema_decay": 0.9, "validation": 0.25, "progress": False}
    return fit_incomplete(KEY, AFFINE, rows, observed, **{**options, **changes})


def fitted(directory, observed=OBSERVED):
    # Adam takes no notice of a weight by which a parameter's whole gradient is multiplied: the head learns as fast with a
    # small one, and the flow hardly notices
    return fit_incomplete(
        KEY, AFFINE, np.where(observed, ROWS, np.nan), observed, labels=LABELS, head_weight=1e-3, params=START, epochs=40,
        batch_size=100, learning_rate=1e-2, ema_decay=0.98, validation=(ROWS[:100], OBSERVED[:100]), validate_every=100,
        checkpoint_dir=directory, checkpoint_every=100, progress=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of checkpoints, the model and the report of one run that many tests look at."""
    directory = tmp_path_factory.mktemp("run")
    return directory, *fitted(directory)


@pytest.fixture(scope="module")
def completion(run):
    _, model, _ = run
    return complete(
        KEY, AFFINE, model.params, ROWS[SOME], OBSERVED[SOME], posterior=model.posterior, num_samples=64, progress=False
    )


@pytest.mark.long
def test_the_likelihood_of_what_was_observed_comes_within_a_hundredth_of_a_nat_of_the_greatest(run):
    _, model, report = run
    gaussian, _ = fit_gaussian_em(ROWS, OBSERVED, shrinkage=1e-9, tol=1e-9)
    best = observed_log_likelihood(gaussian, ROWS, OBSERVED).mean()
    reached = log_likelihood(model.params, ROWS, OBSERVED)
    assert best - 0.01 < reached < best
    # the median fill loses ten times as much
    assert best - median_likelihood(ROWS, OBSERVED) > 0.1
    assert report.exact
    assert not report.unconverged.any()
    # of the training rows, and of those given for validation
    empty = ~OBSERVED.any(axis=1)
    assert report.empty_rows == np.sum(empty) + np.sum(empty[:100])
    # the held-out loss bounds -log p(y_observed) from above, up to the noise of its few draws
    seen = np.flatnonzero(~empty[:100])
    truth = log_likelihood(model.params, ROWS[seen], OBSERVED[seen])
    assert -5e-3 < truth + 3 * report.run.validation_losses[-1] < 0.2
    assert report.run.validation_steps.tolist() == [100, 200]


@pytest.mark.long
def test_completion_by_the_network_is_solved_weighed_and_nearer_the_posterior_than_the_prior(run, completion):
    _, model, _ = run
    missing = ~OBSERVED[SOME].all(axis=1) & OBSERVED[SOME].any(axis=1)
    assert np.all(completion.info.converged[missing] == 1)
    assert set(completion.info.partition[missing]) == {"same"}
    for row, seen, value in zip(ROWS[SOME], OBSERVED[SOME], completion.samples, strict=True):
        assert np.array_equal(value[:, seen], np.broadcast_to(row[seen], value[:, seen].shape))
    prior = model.posterior._replace(params=jax.tree.map(jnp.zeros_like, model.posterior.params))
    start = complete(KEY, AFFINE, model.params, ROWS[SOME], OBSERVED[SOME], posterior=prior, num_samples=64, progress=False)
    # both bound the same likelihood from below
    rise = (completion.info.bound - start.info.bound)[missing]
    assert rise.mean() > 5 * rise.std() / np.sqrt(rise.size)
    assert completion.info.ess[missing].mean() > start.info.ess[missing].mean()
    # and by their weights estimate it
    truth = log_likelihoods(model.params, ROWS[SOME][missing], OBSERVED[SOME][missing])
    error = np.sqrt(np.maximum(64 / completion.info.ess[missing] - 1, 0) / 64)
    assert np.all(np.abs(completion.info.iw_bound[missing] - truth) <= 5 * error + 0.02)


def test_the_head_predicts_the_class_of_rows_without_a_label(run, completion):
    _, model, report = run
    some = OBSERVED.any(axis=1)
    assert report.labelled_rows == np.sum(LABELS[some] >= 0)
    assert report.cross_entropy[0] == pytest.approx(np.log(2), abs=1e-5)
    chances = predict_labels(AFFINE, model, completion)
    np.testing.assert_allclose(chances.sum(axis=1), 1.0, rtol=1e-5)
    asked = some[SOME] & (LABELS[SOME] < 0)
    # five standard errors above chance
    right = chances.argmax(axis=1)[asked] == CLASSES[SOME][asked]
    assert right.mean() > 0.5 + 5 * 0.5 / np.sqrt(right.size)
    with pytest.raises(ValueError, match="trained with labels="):
        predict_labels(AFFINE, model._replace(head=None), completion)


@pytest.mark.long
def test_a_run_taken_up_from_a_checkpoint_is_the_whole_run_bit_for_bit(run, tmp_path):
    directory, model, report = run
    shutil.copytree(directory, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(max(tmp_path.glob("[0-9]*"), key=lambda path: int(path.name)))
    again, resumed = fitted(tmp_path)
    assert (report.run.resumed_at, resumed.run.resumed_at, resumed.run.steps) == (0, 100, report.run.steps)
    for ours, theirs in [(resumed, report), (resumed.run, report.run)]:
        for name, value in ours._asdict().items():
            if isinstance(value, np.ndarray):
                np.testing.assert_array_equal(value, getattr(theirs, name))
    jax.tree.map(np.testing.assert_array_equal, again.head, model.head)
    jax.tree.map(np.testing.assert_array_equal, (again.params, again.network_params), (model.params, model.network_params))


def test_a_mask_that_changed_between_runs_is_an_error(run):
    other = OBSERVED.copy()
    other[int(np.flatnonzero(other.all(axis=1))[0]), 0] = False
    with pytest.raises(ValueError, match=r"belongs to another run \(.*data mask"):
        fitted(run[0], other)


def test_draws_that_were_not_solved_are_counted_and_do_not_spoil_the_step():
    lame = boundary_sweep(max_sweeps=1, history=0, max_checks=1)
    model, report = few(solver=lame, validation=0.0, params=fresh(KEY))
    assert np.all((report.unconverged > 0) & (report.unconverged < 1))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((model.params, model.network_params)))


class _OneOutput(nn.Module):
    @nn.compact
    def __call__(self, standard, observed):
        return nn.Dense(3)(standard)


class _Counting(nn.Module):
    @nn.compact
    def __call__(self, standard, observed):
        self.variable("count", "calls", lambda: jnp.zeros(()))
        return standard, standard


def spoilt(value, row=2, column=1):
    rows = np.where(OBSERVED, ROWS, 0.0)[:40]
    rows[row, column] = value
    mask = OBSERVED[:40].copy()
    mask[row, column] = True
    return rows, mask


NEVER = OBSERVED[:40] & np.array([True, False, False])
FIXED = np.where(np.arange(3) == 2, np.float32(7.0), ROWS[:40])


@pytest.mark.parametrize(
    ("rows", "observed", "changes", "error", "message"),
    [
        (ROWS[:40], NEVER, {}, ValueError, "every column to be observed in some row; got none for columns 1, 2"),
        (FIXED, OBSERVED[:40], {}, ValueError, "two values in every column; got only 7.0 in column 2"),
        (*spoilt(np.nan), {}, ValueError, "finite data; got nan at row 2, position 1"),
        (*spoilt(-np.inf), {}, ValueError, "finite data; got -inf at row 2, position 1"),
        (ROWS[:40], OBSERVED[:39], {}, ValueError, r"mask of the data's shape \(40, 3\), one for each row; got \(39, 3\)"),
        (ROWS[:40], OBSERVED[0], {}, ValueError, r"one for each row; got \(3,\)"),
        (ROWS[:40], OBSERVED[:40].astype(float), {}, ValueError, "boolean mask, True where observed; got dtype float64"),
        (ROWS[:40, :2], OBSERVED[:40, :2], {}, ValueError, r"data of shape \(n, 3\); got \(40, 2\)"),
        (np.ones((40, 3), int), OBSERVED[:40], {}, TypeError, "floating dtype; got int64.*pass noise="),
        (ROWS[:40].astype(complex), OBSERVED[:40], {}, TypeError, "floating dtype; got complex128"),
        (ROWS[:40], OBSERVED[:40] & False, {}, ValueError, "got none for columns 0, 1, 2"),
        (ROWS[:40], OBSERVED[:40], {"labels": np.zeros(39, int)}, ValueError, r"integer labels of shape \(40,\); got int64"),
        (ROWS[:40], OBSERVED[:40], {"labels": np.zeros(40)}, ValueError, "got float64 of shape"),
        (ROWS[:40], OBSERVED[:40], {"labels": np.arange(40) - 5}, ValueError, "or -1 where unknown; got -5 at row 0"),
        (ROWS[:40], OBSERVED[:40], {"labels": np.full(40, -1)}, ValueError, "a label for some row .*; got none"),
        (ROWS[:40], OBSERVED[:40], {"epochs": 0}, ValueError, "epochs >= 1"),
        (ROWS[:40], OBSERVED[:40], {"num_samples": 0}, ValueError, "num_samples >= 1.*; got 0"),
        (ROWS[:40], OBSERVED[:40], {"head_weight": -1.0}, ValueError, "head_weight >= 0; got -1.0"),
        (ROWS[:40], OBSERVED[:40], {"estimator": "score"}, ValueError, "expected an estimator of"),
        (ROWS[:40], OBSERVED[:40], {"patience": 1, "validation": 0.0}, ValueError, "validation rows for patience"),
        (ROWS[:40], OBSERVED[:40], {"validation": (ROWS, OBSERVED[:1])}, ValueError, "mask of the data's shape"),
        (ROWS[:40], OBSERVED[:40], {"validation": COMPLETE[:9]}, ValueError, r"a share of the rows or \(data, observed\)"),
        (ROWS[:40], OBSERVED[:40], {"network": _OneOutput()}, ValueError, r"two outputs of shape \(3,\); got \[\(3,\)\]"),
        (ROWS[:40], OBSERVED[:40], {"network": _Counting()}, ValueError, r"parameters alone; got the collections \['count'\]"),
    ],
)
def test_bad_input_is_refused_before_any_work(rows, observed, changes, error, message):
    with pytest.raises(error, match=message):
        few(rows, observed, **changes)


def test_labels_of_unsigned_bytes_are_labels():
    rows = incomplete_data(AFFINE, ROWS[:4], OBSERVED[:4], name="data", noisy=False, labels=np.array([0, 3, 1, 0], np.uint8))
    assert np.array_equal(rows.labels, [0, 3, 1, 0])
    assert rows.labels.max(initial=-1) == 3


@pytest.mark.long
def test_half_precision_outside_of_solves_trains_as_well_and_solves_as_exactly():
    # the network's last layer starts at zero: what is rounded shows from the second update on
    options = {"labels": LABELS[:40], "learning_rate": 1e-2, "epochs": 8, "validation": 0.0}
    (plain, whole), (half, rounded) = (few(precision=name, **options) for name in (None, "bfloat16"))
    assert not rounded.unconverged.any()
    assert np.any(rounded.run.losses != whole.run.losses)
    # bfloat16 has eight bits
    np.testing.assert_allclose(rounded.run.losses, whole.run.losses, atol=0.02)
    trees = [(model.params, model.network_params, model.head) for model in (half, plain)]
    for ours, theirs in zip(*map(jax.tree.leaves, trees), strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_allclose(ours, theirs, atol=0.05)
    with pytest.raises(ValueError, match="expected a precision of float32, tensorfloat32, bfloat16; got 'half'"):
        few(precision="half")
