"""Monte Carlo EM: the known answer, and refusals."""

from __future__ import annotations

import json
import shutil

import jax
import numpy as np
import pytest

from jaxflows.log_det.estimators import exact
from jaxflows.metrics import Gaussian, fit_gaussian_em, observed_log_likelihood
from jaxflows.training.fit import fit
from jaxflows.training.monte_carlo_em import fit_by_em
from tests.training.affine_rows import AFFINE, affine_start, gaussian_rows, log_likelihood, median_likelihood

COMPLETE, OBSERVED = gaussian_rows(400)
# float64, which the flow is not computed in
ROWS = np.where(OBSERVED, COMPLETE.astype(np.float64), np.nan)


def fitted(directory):
    return fit_by_em(
        jax.random.key(0), AFFINE, ROWS, OBSERVED, rounds=6, epochs=15, num_samples=4, draws=8, fill="median",
        params=affine_start(ROWS), batch_size=200, learning_rate=2e-2, estimator=exact(), progress=False,
        checkpoint_dir=directory / "checkpoints", metrics=directory / "metrics.jsonl",
    )  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder, the parameters and the report of one run."""
    directory = tmp_path_factory.mktemp("em")
    return directory, *fitted(directory)


@pytest.mark.long
def test_from_the_median_it_comes_within_a_hundredth_of_a_nat_of_the_greatest_likelihood(run):
    _, params, report = run
    gaussian, _ = fit_gaussian_em(ROWS, OBSERVED, shrinkage=1e-9, tol=1e-9)
    best = observed_log_likelihood(gaussian, ROWS, OBSERVED).mean()
    reached = log_likelihood(params, ROWS, OBSERVED)
    assert best - 0.01 < reached < best
    assert best - median_likelihood(ROWS, OBSERVED) > 0.1
    assert report.losses.shape == (6,)
    assert report.bound.shape == report.ess.shape == report.converged.shape == (5,)
    # of an affine flow the Gauss-Newton posterior is the conditional: all weights are equal
    assert np.all(report.ess > 0.999)
    assert np.all(report.converged == 1)
    assert report.bound[-1] > report.bound[0] + 0.01
    assert report.empty_rows == np.sum(~OBSERVED.any(axis=1)) > 0


@pytest.mark.long
def test_a_run_taken_up_from_a_checkpoint_is_the_whole_run_bit_for_bit(run, tmp_path):
    directory, params, report = run
    shutil.copytree(directory, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "checkpoints" / "6")
    again, resumed = fitted(tmp_path)
    assert (report.resumed_at, resumed.resumed_at) == (0, 5)
    jax.tree.map(np.testing.assert_array_equal, (again, resumed[:4]), (params, report[:4]))
    first, second = (
        [{**json.loads(line), "seconds": 0} for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (directory, tmp_path)
    )
    assert first == second
    assert [line["step"] for line in second] == [1, 2, 3, 4, 5, 6]
    assert [line.get("bound") for line in second] == [None, *report.bound]


def test_a_gaussian_that_is_given_fills_the_first_round(monkeypatch):
    trained_on = []

    def keep(key, flow, rows, **options):
        trained_on.append(rows)
        return fit(key, flow, rows, **options)

    monkeypatch.setattr("jaxflows.training.monte_carlo_em.fit", keep)
    given = Gaussian((3,), np.full(3, 9.0), 1e-3 * np.eye(3))
    settings = {"rounds": 1, "epochs": 1, "num_samples": 2, "params": affine_start(ROWS), "batch_size": 200}
    fit_by_em(jax.random.key(0), AFFINE, ROWS, OBSERVED, fill=given, estimator=exact(), progress=False, **settings)
    some = OBSERVED.any(axis=1)
    rows = trained_on[0].reshape(-1, 2, 3)
    hidden = np.broadcast_to(~OBSERVED[some][:, None], rows.shape)
    assert np.abs(rows[hidden] - 9.0).max() < 6e-3
    np.testing.assert_allclose(rows[~hidden], np.repeat(ROWS[some][:, None], 2, axis=1)[~hidden], rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rounds": 0}, "rounds >= 1.*; got 0"),
        ({"fill": "zero"}, r"a Gaussian or one of \('gaussian', 'median'\) in fill; got 'zero'"),
        ({"fill": Gaussian((4,), np.zeros(4), np.eye(4))}, r"a Gaussian of events \(3,\) in fill; got \(4,\)"),
        ({"observed": OBSERVED[:, :2]}, "mask of the data's shape"),
        ({"observed": OBSERVED & np.array([True, True, False])}, "got none for column 2"),
    ],
)
def test_bad_input_is_refused(changes, message):
    options = {"data": ROWS, "observed": OBSERVED, "progress": False, **changes}
    with pytest.raises(ValueError, match=message):
        fit_by_em(jax.random.key(0), AFFINE, **options)
