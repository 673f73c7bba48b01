"""Entries missing because of their own value: what a model of the mask mends, its likelihood, its file, and refusals."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxflows as jf
from benchmarks.known_flows import gaussian_of
from jaxflows.data import mnar
from jaxflows.networks.self_masking import SelfMasking, fresh_self_masking
from jaxflows.training.fit_incomplete import fit_incomplete
from tests.training.affine_rows import AFFINE, affine_start, gaussian_rows

KEY = jax.random.key(0)
COMPLETE = gaussian_rows(2000)[0]
# the first column goes missing where it is high, the others never
OBSERVED = np.concatenate([mnar(COMPLETE[:, :1], 0.4, strength=3.0, seed=4), np.ones((2000, 2), bool)], axis=1)
ROWS = np.where(OBSERVED, COMPLETE, np.nan)


def fitted(mask_model, rows=ROWS, observed=OBSERVED, **options):
    settings = {"params": affine_start(rows), "epochs": 60, "batch_size": 200, "learning_rate": 2e-2, "ema_decay": 0.98}
    return fit_incomplete(
        KEY, AFFINE, rows, observed, mask_model=mask_model, validation=0.1, progress=False, **{**settings, **options}
    )


@pytest.fixture(scope="module")
def model():
    return fitted("self_masking")[0]


def bias(model) -> float:
    return float(gaussian_of(AFFINE, model.params)[0][0] - COMPLETE[:, 0].mean())


def test_the_mean_of_what_goes_missing_when_high_is_found(model):
    plain, _ = fitted(None)
    error = COMPLETE[:, 0].std() / np.sqrt(len(COMPLETE))
    assert bias(plain) < -5 * error
    assert abs(bias(model)) < 0.4 * abs(bias(plain))
    # the chance to be observed falls with the value, and only there
    assert model.mask.params["slope"][0] < -1.0
    assert plain.mask is None


def test_completions_are_reweighted_by_the_chance_to_be_missing(model):
    rows, observed = ROWS[:40], OBSERVED[:40]
    done = jf.complete(KEY, AFFINE, model.params, rows, observed, num_samples=64, progress=False)
    again = done.reweighted(model.mask.log_probs(done.samples, observed))
    hidden = ~observed[:, 0]

    def mean(weights):
        share = np.exp(weights - weights.max(axis=1, keepdims=True))
        return np.sum(share * done.samples[..., 0], axis=1) / share.sum(axis=1)

    # high values are the likelier ones where the value is missing
    assert np.all(mean(again.log_weights)[hidden] > mean(done.log_weights)[hidden])
    assert np.all(again.info.ess[hidden] < done.info.ess[hidden])
    assert np.array_equal(np.isnan(again.info.bound), np.isnan(done.info.bound))
    assert np.array_equal(again.samples, done.samples)
    with pytest.raises(ValueError, match=r"log_factors of shape \(40, 64\); got \(40,\)"):
        done.reweighted(np.zeros(40))
    with pytest.raises(ValueError, match="got NaN"):
        done.reweighted(np.full((40, 64), np.nan))
    with pytest.raises(ValueError, match="got inf"):
        done.reweighted(np.full((40, 64), np.inf))


def test_its_likelihood_is_that_of_independent_logistic_chances():
    masking = SelfMasking(
        {"intercept": jnp.array([0.3, -1.0]), "slope": jnp.array([2.0, -0.5])}, jnp.ones(2), jnp.array([1.0, 2.0])
    )
    y, observed = jnp.array([0.4, 3.0]), jnp.array([True, False])
    chance = 1 / (1 + np.exp(-np.array([0.3 + 2.0 * -0.6, -1.0 - 0.5 * 1.0])))
    np.testing.assert_allclose(masking.log_prob(y, observed), np.log(chance[0]) + np.log(1 - chance[1]), rtol=1e-5)
    start = fresh_self_masking(np.array([[True, True], [False, True]]), jnp.float32)
    np.testing.assert_allclose(start["intercept"], [0.0, np.log(999.0)], rtol=1e-4)


def test_a_model_with_it_is_saved_and_read_again(model, tmp_path):
    jf.save_incomplete(tmp_path / "model", AFFINE, model)
    _, again, _ = jf.load_incomplete(tmp_path / "model")
    jax.tree.map(np.testing.assert_array_equal, model.mask, again.mask)


def test_another_model_of_the_mask_is_refused():
    with pytest.raises(ValueError, match="expected mask_model to be None or 'self_masking'; got 'probit'"):
        fitted("probit")
