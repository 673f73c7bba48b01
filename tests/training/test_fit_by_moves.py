"""Training by completions that move along: the known answer from a wrong start, the classifier, resumption, refusals."""

from __future__ import annotations

import shutil

import jax
import numpy as np
import pytest

from benchmarks.known_flows import gaussian_of
from jaxflows import flows
from jaxflows.bijectors.spline import elementwise_spline
from jaxflows.conditional.complete import complete
from jaxflows.metrics import Gaussian, fit_gaussian_em, fit_nonparanormal, observed_log_likelihood
from jaxflows.persistence import load_incomplete, save_incomplete
from jaxflows.training.checkpoint import ForeignCheckpointError
from jaxflows.training.fit_by_moves import fit_by_moves
from jaxflows.training.predict_labels import predict_labels
from tests.training.affine_rows import AFFINE, affine_start, gaussian_rows, log_likelihood, median_likelihood

KEY = jax.random.key(0)
COMPLETE, OBSERVED = gaussian_rows(400)
# float64, which the flow is not computed in
ROWS = np.where(OBSERVED, COMPLETE.astype(np.float64), np.nan)
# the class is the sign of an entry that is often hidden
CLASSES = (COMPLETE[:, 1] > -2.0).astype(int)
LABELS = np.where(np.random.default_rng(2).random(len(ROWS)) < 0.5, CLASSES, -1)
# of another mean, and without the correlations that the rows have
WRONG = Gaussian((3,), np.array([2.0, 0.0, 0.0]), 1.5 * np.eye(3))


def fitted(directory, gaussian=WRONG, **others):
    settings = {
        "params": affine_start(ROWS), "gaussian": gaussian, "epochs": 120, "batch_size": 200, "learning_rate": 2e-2,
        "ema_decay": 0.9, "labels": LABELS, "progress": False, "checkpoint_dir": directory, "checkpoint_every": 60,
    }  # fmt: skip
    return fit_by_moves(KEY, AFFINE, ROWS, OBSERVED, **settings | others)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder, the model and the report of one run."""
    directory = tmp_path_factory.mktemp("moves")
    return directory, *fitted(directory)


def test_completions_that_begin_wrong_end_at_the_greatest_likelihood(run):
    _, model, report = run
    gaussian, _ = fit_gaussian_em(ROWS, OBSERVED, shrinkage=1e-9, tol=1e-9)
    best = observed_log_likelihood(gaussian, ROWS, OBSERVED).mean()
    reached = log_likelihood(model.params, ROWS, OBSERVED)
    # where rows filled with the median, and rows filled from the wrong Gaussian, would end
    assert best - 0.02 < reached < best
    assert best - median_likelihood(ROWS, OBSERVED) > 0.1
    wrong = observed_log_likelihood(WRONG, ROWS, OBSERVED).mean()
    assert best - wrong > 0.5
    mean, covariance = gaussian_of(AFFINE, model.params)
    expected = gaussian.factor @ gaussian.factor.T
    # the optimizer's last steps scatter it, by less than data of this size tell
    error = np.sqrt(np.diag(expected) / len(ROWS))
    assert np.all(np.abs(mean - gaussian.mean) < 2 * error)
    spread = np.sqrt((np.outer(np.diag(expected), np.diag(expected)) + expected**2) / len(ROWS))
    assert np.all(np.abs(covariance - expected) < 2 * spread)
    assert report.empty_rows == np.sum(~OBSERVED.any(axis=1)) > 0
    assert report.acceptance.shape == report.step_size.shape == report.cross_entropy.shape == (report.run.steps,)
    assert 0.6 < report.acceptance[-20:].mean() < 0.95
    assert report.step_size[-1] != report.step_size[0]
    assert model.posterior is None
    assert model.network_params is None


def test_a_mass_of_few_directions_ends_at_the_same_likelihood(tmp_path):
    gaussian, _ = fit_gaussian_em(ROWS, OBSERVED, shrinkage=1e-9, tol=1e-9)
    model, _ = fitted(tmp_path, rank=1, labels=None)
    best = observed_log_likelihood(gaussian, ROWS, OBSERVED).mean()
    assert best - 0.02 < log_likelihood(model.params, ROWS, OBSERVED) < best
    assert model.head is None


def test_completions_that_move_in_every_third_epoch_end_at_the_same_likelihood(tmp_path):
    gaussian, _ = fit_gaussian_em(ROWS, OBSERVED, shrinkage=1e-9, tol=1e-9)
    model, report = fitted(tmp_path, move_every=3, labels=None, epochs=360)
    best = observed_log_likelihood(gaussian, ROWS, OBSERVED).mean()
    # as many epochs move as where all do
    assert best - 0.02 < log_likelihood(model.params, ROWS, OBSERVED) < best
    steps = report.run.steps // 360
    moved = (np.arange(report.run.steps) // steps) % 3 == 2
    np.testing.assert_array_equal(np.isfinite(report.acceptance), moved)
    stays = np.flatnonzero(~moved)[:-1]
    np.testing.assert_array_equal(report.step_size[stays + 1], report.step_size[stays])


def test_completions_begin_where_they_are_told(tmp_path):
    """The first loss is that of the rows filled as they were given, and a run of others does not go on from its checkpoint."""
    filled = np.where(OBSERVED, ROWS, 5.0)
    options = {"completions": filled, "move_every": 9, "batch_size": 400, "epochs": 2, "labels": None, "checkpoint_every": 1}
    _, report = fitted(tmp_path, **options)
    some = OBSERVED.any(axis=1)
    start = affine_start(ROWS)
    log_probs = jax.vmap(lambda y: AFFINE.log_prob(start, y))(filled[some].astype(np.float32))
    expected = -float(np.mean(log_probs)) / 3
    assert report.run.losses[0] == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ForeignCheckpointError, match="completions"):
        fitted(tmp_path, **options | {"completions": filled + 1})
    # what a flow that cannot start as a Gaussian is initialised with
    _, other = fitted(tmp_path / "other", **options | {"params": None})
    assert np.isfinite(other.run.losses).all()


def test_the_classifier_predicts_rows_without_a_label_and_is_kept(run, tmp_path):
    _, model, report = run
    some = OBSERVED.any(axis=1)
    assert report.labelled_rows == np.sum(LABELS[some] >= 0)
    assert report.cross_entropy[0] == pytest.approx(np.log(2), abs=1e-5)
    save_incomplete(tmp_path / "model", AFFINE, model)
    flow, again, _ = load_incomplete(tmp_path / "model")
    completion = complete(KEY, flow, again.params, ROWS, OBSERVED, num_samples=8, progress=False)
    chances = predict_labels(flow, again, completion)
    np.testing.assert_allclose(chances.sum(axis=1), 1.0, rtol=1e-5)
    # draws count by their weights, the completions of training having been draws of the flow's conditional
    weights = np.log([[0.25, 0.75]] * len(ROWS))
    first, second, both = (
        predict_labels(flow, again, completion._replace(samples=completion.samples[:, part], log_weights=log_weights))
        for part, log_weights in ((slice(0, 1), weights[:, :1]), (slice(1, 2), weights[:, :1]), (slice(0, 2), weights))
    )
    np.testing.assert_allclose(both, 0.25 * first + 0.75 * second, atol=1e-6)
    asked = some & (LABELS < 0)
    right = chances.argmax(axis=1)[asked] == CLASSES[asked]
    # five standard errors above chance
    assert right.mean() > 0.5 + 5 * 0.5 / np.sqrt(right.size)


def test_hidden_layers_find_classes_that_no_line_parts(tmp_path):
    classes = (np.abs(COMPLETE[:, 0] - 1.0) > 0.7).astype(int)
    chances = {}
    for hidden in ((), (16,)):
        model, report = fitted(tmp_path / str(len(hidden)), labels=classes, head_hidden=hidden)
        save_incomplete(tmp_path / "model", AFFINE, model)
        flow, again, _ = load_incomplete(tmp_path / "model")
        assert jax.tree.structure(again.head) == jax.tree.structure(model.head)
        completion = complete(KEY, flow, again.params, ROWS, OBSERVED, num_samples=8, progress=False)
        chances[hidden] = predict_labels(flow, again, completion)
        assert report.cross_entropy[0] == pytest.approx(np.log(2), abs=1e-5)
    sure = OBSERVED[:, 0]
    right = {hidden: np.mean(found.argmax(axis=1)[sure] == classes[sure]) for hidden, found in chances.items()}
    assert right[(16,)] > 0.9
    assert right[()] < 0.75


def test_a_run_taken_up_from_a_checkpoint_is_the_whole_run_bit_for_bit(run, tmp_path):
    directory, model, report = run
    shutil.copytree(directory, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(max(tmp_path.glob("[0-9]*"), key=lambda path: int(path.name)))
    again, resumed = fitted(tmp_path)
    assert (report.run.resumed_at, resumed.run.resumed_at, resumed.run.steps) == (0, 60, report.run.steps)
    jax.tree.map(np.testing.assert_array_equal, (again.params, again.head), (model.params, model.head))
    np.testing.assert_array_equal(resumed.run.losses, report.run.losses)
    np.testing.assert_array_equal(resumed.acceptance, report.acceptance)
    # what a run is begun from belongs to it
    with pytest.raises(ForeignCheckpointError, match=r"belongs to another run \(.*gaussian"):
        fitted(tmp_path, gaussian=None)


def test_couplings_learn_from_noisy_integers_within_a_memory_limit():
    images = np.random.default_rng(0).integers(0, 256, (24, 8, 8, 1)).astype(np.uint8)
    observed = np.random.default_rng(1).random(images.shape) < 0.6
    flow = flows.whitened_image(event_shape=(8, 8, 1), layers=4, hidden=4)

    def noise(key, batch):
        return batch / 255 + 0.1 * jax.random.normal(key, batch.shape)

    options = {"noise": noise, "epochs": 3, "batch_size": 8, "moves": 2, "progress": False}
    model, report = fit_by_moves(KEY, flow, images, observed, **options)
    assert np.all(np.isfinite(report.run.losses))
    assert report.run.steps == 9
    limited, cut = fit_by_moves(KEY, flow, images, observed, memory_limit=250_000, **options)
    assert cut.run.micro_batches > 1
    # sums of other parts, through trajectories that multiply what they round otherwise
    np.testing.assert_allclose(cut.run.losses, report.run.losses, rtol=1e-3)
    assert jax.tree.structure(limited.params) == jax.tree.structure(model.params)


def test_behind_a_map_of_grey_levels_couplings_learn_more_and_the_map_is_held():
    # squares of black and white
    rng = np.random.default_rng(0)
    images = np.kron(rng.random((300, 4, 4)) < 0.4, np.ones((2, 2)))[..., None].astype(np.float32)
    observed = rng.random(images.shape) < 0.6

    def noise(key, batch):
        return batch + 0.05 * jax.random.normal(key, batch.shape)

    def trained(marginals, whitening="full", **options):
        flow = flows.whitened_image(event_shape=(8, 8, 1), layers=4, hidden=4, whitening=whitening, marginals=marginals)
        common = {"noise": noise, "epochs": 4, "batch_size": 50, "move_every": 2, "ema_decay": 0.5, "progress": False}
        model, report = fit_by_moves(KEY, flow, images, observed, **common | options)
        assert np.nanmean(report.acceptance[-3:]) > 0.3
        told = np.asarray(noise(jax.random.key(1), images[:50]))
        return model, float(np.mean(jax.jit(jax.vmap(lambda y: flow.log_prob(model.params, y)))(told))) / 64

    told = np.asarray(noise(jax.random.key(2), images))
    copula = fit_nonparanormal(told, observed, front=elementwise_spline(bins=8))
    model, with_map = trained(8, gaussian=copula)
    # but for the rounding of an average
    np.testing.assert_allclose(model.params[0]["numbers"], copula.params["numbers"], rtol=1e-6)
    _, of_its_own = trained(8)
    _, without = trained(0)
    assert with_map > without + 0.1
    # of its own it finds the same map, of other noise
    assert abs(of_its_own - with_map) < 0.1
    # couplings that cannot begin at the Gaussian have the map all the same
    cosines, _ = trained(8, gaussian=copula, whitening="cosine")
    np.testing.assert_allclose(cosines.params[0]["numbers"], copula.params["numbers"], rtol=1e-6)
    with pytest.raises(ValueError, match="the map of entries that the flow begins with"):
        trained(8, gaussian=copula.gaussian)
    with pytest.raises(ValueError, match="the map of entries that the flow begins with"):
        trained(0, gaussian=copula)


def test_rows_without_holes_are_trained_on_as_they_are():
    rows = COMPLETE[:200]
    model, report = fit_by_moves(
        KEY, AFFINE, rows, np.ones_like(rows, bool), params=affine_start(rows), epochs=300, batch_size=200, learning_rate=3e-2,
        ema_decay=0.9, progress=False,
    )  # fmt: skip
    mean, covariance = gaussian_of(AFFINE, model.params)
    np.testing.assert_allclose(mean, rows.mean(axis=0), atol=0.02)
    np.testing.assert_allclose(covariance, np.cov(rows, rowvar=False, bias=True), atol=0.03)
    np.testing.assert_array_equal(report.acceptance, 1.0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"moves": 0}, "expected moves >= 1 and move_every >= 1; got 0, 1"),
        ({"move_every": 0}, "expected moves >= 1 and move_every >= 1; got 1, 0"),
        ({"rank": 3}, "expected a rank from 1 to 2, or None for all directions; got 3"),
        ({"head_weight": -1.0}, "expected a finite head_weight >= 0; got -1.0"),
        ({"head_hidden": (0,)}, r"expected head_hidden to be widths >= 1; got \(0,\)"),
        ({"completions": np.zeros((400, 2))}, r"expected completions of shape \(n, 3\); got \(400, 2\)"),
        ({"completions": np.zeros((399, 3))}, "expected as many completions as rows of data, 400; got 399"),
        ({"completions": np.full((400, 3), np.nan)}, "expected finite completions; got nan"),
        ({"head_hidden": (4,), "labels": None}, r"expected labels for a classifier with head_hidden=\(4,\); got none"),
        ({"gaussian": Gaussian((2,), np.zeros(2), np.eye(2))}, r"expected a Gaussian of events \(3,\); got \(2,\)"),
        ({"labels": np.full(400, -1)}, "expected a label for some row with something observed; got none"),
        ({"epochs": 0}, "expected epochs >= 1; got 0"),
    ],
)
def test_bad_options_are_refused_before_any_work(tmp_path, change, words):
    with pytest.raises(ValueError, match=words):
        fitted(tmp_path, **change)


def test_bad_rows_are_refused_before_any_work():
    never = OBSERVED.copy()
    never[:, 1] = False
    infinite = np.where(OBSERVED, np.inf, ROWS)
    for rows, observed, words in (
        (ROWS, never, "every column to be observed in some row; got none for column 1"),
        (infinite, OBSERVED, "expected finite data; got inf"),
        (ROWS[:, :2], OBSERVED[:, :2], r"expected data of shape \(n, 3\); got \(400, 2\)"),
        (ROWS, OBSERVED.astype(int), "expected a boolean mask"),
        (ROWS[:0], OBSERVED[:0], "at least one row"),
        (COMPLETE[:1], np.ones((1, 3), bool), "at least two values in every column"),
    ):
        with pytest.raises(ValueError, match=words):
            fit_by_moves(KEY, AFFINE, rows, observed, progress=False)
