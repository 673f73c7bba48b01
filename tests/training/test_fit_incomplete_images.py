"""Joint training on images of more entries than exact log-determinants are taken of in a step."""

from __future__ import annotations

import jax
import numpy as np
import pytest

import jaxflows as jf
from jaxflows import flows
from jaxflows.training.joint_loss import EXACT_SIZE

SHAPE = (6, 6, 1)
FLOW = flows.residual_image(event_shape=SHAPE, blocks=2, scales=1, channels=(4,), kernels=(3, 1))


def images(count, seed):
    """Bright or dark as a whole, half of the pixels missing."""
    rng = np.random.default_rng(seed)
    whole = (rng.choice([-1.0, 1.0], (count, 1, 1, 1)) + 0.3 * rng.standard_normal((count, *SHAPE))).astype(np.float32)
    return whole, rng.random(whole.shape) < 0.5


@pytest.mark.long
def test_an_image_flow_and_its_network_learn_and_the_estimated_bound_is_the_exact_one():
    assert np.prod(SHAPE) > EXACT_SIZE
    (rows, observed), held_out = images(256, 1), images(64, 2)
    model, report = jf.fit_incomplete(
        jax.random.key(0), FLOW, np.where(observed, rows, np.nan), observed, epochs=15, batch_size=64, learning_rate=1e-2,
        ema_decay=0.9, validation=held_out, validation_samples=32, validate_every=60, progress=False,
    )  # fmt: skip
    assert not report.exact
    assert not report.unconverged.any()
    assert np.mean(report.run.losses[-4:]) < np.mean(report.run.losses[:4]) - 0.1
    # exact log-determinants, other draws
    found = jf.complete(
        jax.random.key(1), FLOW, model.params, *held_out, posterior=model.posterior, num_samples=32, progress=False
    )
    assert np.all(found.info.converged == 1.0)
    # both have this error of their draws; that of the probes is within it
    error = np.sqrt(2.0 * np.sum(found.info.bound_std_error**2)) / len(found.info.bound)
    size = np.prod(SHAPE)
    assert abs(report.run.validation_losses[-1] * size + np.mean(found.info.bound)) < 5 * error
