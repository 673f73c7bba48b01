"""A classifier of rows with holes: a case whose best accuracy is known, every kind of event, resumption, refusals."""

from __future__ import annotations

import shutil

import jax
import numpy as np
import optax
import pytest
from scipy.stats import norm

import jaxflows as jf
from jaxflows.conditional.incomplete_model import IncompleteModel
from jaxflows.conditional.row_classifier import RowClassifier
from jaxflows.metrics import Gaussian
from jaxflows.training.checkpoint import ForeignCheckpointError
from jaxflows.training.fit_classifier import fit_classifier

KEY = jax.random.key(0)


def two_gaussians(count, seed):
    """Rows of two classes with means -1 and 1 in all four entries and one covariance, some entries hidden."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, count)
    root = np.linalg.cholesky(0.6 * np.eye(4) + 0.9)
    rows = (2 * labels - 1)[:, None] + rng.normal(size=(count, 4)) @ root.T
    observed = rng.random(rows.shape) < 0.6
    return np.where(observed, rows, np.nan), observed, labels


def best_chances(rows, observed):
    """P(class 1 | y_O) of `two_gaussians`."""
    covariance = 0.6 * np.eye(4) + 0.9
    chances = []
    for row, seen in zip(rows, observed, strict=True):
        weights = np.linalg.solve(covariance[np.ix_(seen, seen)], np.ones(seen.sum()))
        chances.append(1 / (1 + np.exp(-2 * weights @ row[seen])) if seen.any() else 0.5)
    return np.array(chances)


@pytest.fixture(scope="module")
def trained():
    rows, observed, labels = two_gaussians(4000, 0)
    return fit_classifier(
        KEY, rows, observed, labels, hidden=(32, 32), epochs=15, learning_rate=5e-3, thinning=0.2, progress=False
    )


def test_chances_are_those_of_bayes(trained):
    classifier, report = trained
    rows, observed, labels = two_gaussians(2000, 1)
    chances = classifier.chances(rows, observed)
    np.testing.assert_allclose(chances.sum(axis=1), 1.0, atol=1e-6)
    best = best_chances(rows, observed)
    assert np.sqrt(np.mean((chances[:, 1] - best) ** 2)) < 0.05
    # of the entropy that is left
    entropy = -np.mean(np.log(np.where(labels == 1, best, 1 - best)))
    found = -np.mean(np.log(chances[np.arange(len(labels)), labels]))
    assert found < entropy + 0.02
    assert report.rows == np.sum(two_gaussians(4000, 0)[1].any(axis=1))
    assert report.stopped == "epochs"
    assert report.losses[-30:].mean() < report.losses[:5].mean()


def test_the_mean_that_is_read_is_that_of_the_gaussian():
    # a classifier of one entry that is always hidden can only go by the others
    rng = np.random.default_rng(3)
    pairs = rng.multivariate_normal(np.zeros(2), [[1.0, 0.95], [0.95, 1.0]], size=3000)
    observed = np.stack([np.ones(3000, bool), rng.random(3000) < 0.5], axis=1)
    labels = (pairs[:, 1] > 0).astype(int)
    classifier, _ = fit_classifier(KEY, pairs, observed, labels, hidden=(), epochs=30, learning_rate=2e-2, progress=False)
    grid = np.stack([np.linspace(-1.5, 1.5, 7), np.full(7, np.nan)], axis=1)
    chances = classifier.chances(grid, np.array([[True, False]] * 7))[:, 1]
    np.testing.assert_allclose(chances, norm.cdf(0.95 * grid[:, 0] / np.sqrt(1 - 0.95**2)), atol=0.12)


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 2), (12,)])
def test_events_of_every_rank_are_classified(shape):
    rng = np.random.default_rng(4)
    labels = np.where(rng.random(300) < 0.9, rng.integers(0, 3, 300), -1)
    rows = rng.normal(size=(300, *shape)).astype(np.float16) + labels.reshape(-1, *(1,) * len(shape)) * 2
    observed = rng.random(rows.shape) < 0.5
    observed[5] = False
    classifier, report = fit_classifier(
        KEY, rows, observed, labels, hidden=(8, 8), rank=4, epochs=40, batch_size=50, learning_rate=1e-2, progress=False
    )
    known = labels >= 0
    chances = classifier.chances(rows, observed)
    assert chances.shape == (300, 3)
    assert np.mean(chances.argmax(axis=1)[known] == labels[known]) > 0.9
    assert report.rows == np.sum(known[np.arange(300) != 5])
    # hidden entries are not read, and how many rows there are does not matter
    spoilt = np.where(observed, rows, np.nan)
    np.testing.assert_array_equal(classifier.chances(spoilt, observed), chances)
    np.testing.assert_allclose(classifier.chances(rows[:3], observed[:3]), chances[:3], rtol=1e-5, atol=1e-6)
    assert classifier.chances(rows[:0], observed[:0]).shape == (0, 3)


def test_a_run_taken_up_from_a_checkpoint_is_the_whole_run_bit_for_bit(tmp_path):
    rows, observed, labels = two_gaussians(200, 5)

    def run(**others):
        settings = {"hidden": (4,), "epochs": 4, "batch_size": 50, "progress": False, "checkpoint_every": 5}
        return fit_classifier(KEY, rows, observed, labels, checkpoint_dir=tmp_path, **settings | others)

    whole, report = run()
    steps = 4 * (np.sum(observed.any(axis=1)) // 50)
    assert (report.resumed_at, len(report.losses)) == (0, steps)
    last = max(tmp_path.glob("[0-9]*"), key=lambda path: int(path.name))
    shutil.rmtree(last)
    again, resumed = run()
    assert 0 < resumed.resumed_at < steps
    np.testing.assert_array_equal(resumed.losses, report.losses)
    np.testing.assert_array_equal(whole.chances(rows, observed), again.chances(rows, observed))
    with pytest.raises(ForeignCheckpointError):
        run(thinning=0.1)
    with pytest.raises(ForeignCheckpointError, match="gaussian"):
        run(gaussian=Gaussian((4,), np.zeros(4), np.eye(4)))


@pytest.mark.parametrize(("hidden", "rank"), [((8,), 2), ((), 4)])
def test_as_the_classifier_of_a_model_it_is_asked_and_kept(tmp_path, hidden, rank):
    rows, observed, labels = two_gaussians(60, 8)
    flow = jf.flows.residual(event_shape=(4,), blocks=1, hidden=4)
    classifier, _ = fit_classifier(KEY, rows, observed, labels, hidden=hidden, rank=rank, epochs=2, progress=False)
    model = IncompleteModel(flow.init(KEY), None, classifier)
    filled = np.where(observed, rows, 0.0).astype(np.float32)
    done = jf.complete(KEY, flow, model.params, filled, observed, num_samples=2, progress=False)
    told = jf.predict_labels(flow, model, done, observed)
    np.testing.assert_array_equal(told, classifier.chances(rows, observed))
    with pytest.raises(ValueError, match="observed="):
        jf.predict_labels(flow, model, done)
    jf.save_incomplete(tmp_path / "model.safetensors", flow, model)
    _, read, _ = jf.load_incomplete(tmp_path / "model.safetensors")
    assert isinstance(read.head, RowClassifier)
    np.testing.assert_array_equal(read.head.chances(rows, observed), told)


def test_it_is_found_under_the_package_and_stops_in_time():
    rows, observed, labels = two_gaussians(100, 6)
    _, report = jf.fit_classifier(KEY, rows, observed, labels, hidden=(4,), epochs=10**6, max_seconds=3, progress=False)
    assert report.stopped == "max_seconds"
    assert 0 < report.seconds < 60


ROWS, OBSERVED, LABELS = two_gaussians(20, 7)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"labels": LABELS[:-1]}, "integer labels of shape"),
        ({"labels": LABELS.astype(float)}, "integer labels"),
        ({"labels": LABELS - 2}, "labels from 0, or -1 where unknown; got -2"),
        ({"labels": np.zeros(20, int)}, "at least two classes"),
        ({"labels": np.full(20, -1)}, "at least two classes"),
        ({"thinning": 1.0}, "thinning in"),
        ({"dropout": -0.1}, "dropout in"),
        ({"optimizer": optax.adam(1e-3), "learning_rate": 1e-3}, "got both"),
        ({"rank": 0}, "rank >= 1"),
        ({"hidden": (0,)}, "widths >= 1"),
        ({"epochs": 0}, "epochs >= 1"),
        ({"gaussian": Gaussian((3,), np.zeros(3), np.eye(3))}, "a Gaussian of events"),
        ({"observed": OBSERVED.astype(int)}, "boolean mask"),
        ({"observed": OBSERVED[:, :3]}, "a mask of the data's shape"),
        ({"observed": OBSERVED & [True, True, True, False]}, "every column to be observed"),
        ({"observed": np.ones_like(OBSERVED)}, "finite observed entries"),
        ({"rows": ROWS[:, 0], "observed": OBSERVED[:, 0]}, "rows of shape"),
        ({"rows": ROWS[:1], "observed": OBSERVED[:1], "labels": LABELS[:1]}, "at least two rows"),
    ],
)
def test_bad_input_is_refused_before_any_work(change, words):
    with pytest.raises(ValueError, match=words):
        fit_classifier(KEY, **{"rows": ROWS, "observed": OBSERVED, "labels": LABELS, "progress": False} | change)


def test_rows_that_are_no_numbers_are_refused(trained):
    with pytest.raises(TypeError, match="real numbers"):
        fit_classifier(KEY, ROWS.astype(complex), OBSERVED, LABELS)
    with pytest.raises(ValueError, match=r"rows of shape \(n, 4\)"):
        trained[0].chances(ROWS[:, :2], OBSERVED[:, :2])
