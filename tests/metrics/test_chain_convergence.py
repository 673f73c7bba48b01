"""R-hat and effective sample size: against blackjax, and against chains whose autocorrelation is known."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from blackjax.diagnostics import ess_bulk, rhat

from jaxflows.metrics import bulk_ess, split_r_hat


def autoregressive(rho, chains=4, draws=2000):
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((draws, chains)) * np.sqrt(1 - rho**2)
    values = [rng.standard_normal(chains)]
    for step in noise:
        values.append(rho * values[-1] + step)
    return np.stack(values[1:], axis=1)


@pytest.fixture(scope="module")
def chains():
    values = np.stack([autoregressive(rho) for rho in (0.0, 0.5, 0.9)] + [np.exp(3 * autoregressive(0.5))], axis=-1)
    apart = values[..., 1] + 0.4 * np.arange(4)[:, None]
    wider = values[..., 0] * np.array([1, 1, 1, 3])[:, None]
    return jnp.asarray(np.concatenate([values, apart[..., None], wider[..., None]], axis=-1))


@pytest.fixture(scope="module")
def found(chains):
    """Our effective sample sizes."""
    return np.asarray(jax.jit(bulk_ess)(chains))


def test_both_are_those_of_blackjax_and_see_location_and_scale_apart(chains, found):
    r_hat, theirs, ess = jax.jit(lambda c: (split_r_hat(c), rhat(c), ess_bulk(c)))(chains)
    np.testing.assert_allclose(r_hat, theirs, rtol=1e-5)
    assert (r_hat[:4] < 1.01).all()
    assert (r_hat[4:] > 1.05).all()
    # theirs takes one more term of the sum
    np.testing.assert_allclose(found[:4], ess[:4], rtol=0.02)


def test_effective_sample_size_is_that_of_an_autoregression_whatever_its_scale(found):
    expected = 8000 * np.array([1.0, 1 / 3, 0.1 / 1.9])
    # the standard error of an autocorrelation time summed over M lags is about sqrt(2 (2 M + 1) / n) of it (Sokal 1997)
    np.testing.assert_allclose(found[:3], expected, rtol=5 * np.sqrt(2 * 41 / 8000))
    assert found[3] == pytest.approx(found[1], rel=1e-3)


def test_stuck_chains_are_not_taken_for_good_ones():
    stuck = jnp.broadcast_to(jnp.arange(3.0)[:, None], (3, 10))
    assert split_r_hat(stuck) == np.inf
    assert bulk_ess(stuck) <= 6
    constant = jnp.ones((3, 10))
    assert np.isnan(split_r_hat(constant))
    assert np.isnan(bulk_ess(constant))
    with pytest.raises(ValueError, match=r"draws >= 4.*got \(3, 2\)"):
        split_r_hat(constant[:, :2])
