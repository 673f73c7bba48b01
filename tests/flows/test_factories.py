"""Every factory of smooth flows: training lowers the loss, files come back, events are completed."""

from __future__ import annotations

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxflows as jf
from jaxflows import flows
from jaxflows.solvers.boundary_sweep import boundary_sweep
from tests.long_cases import cases

FLOWS = {
    "planar": flows.planar(event_shape=(2,), blocks=6),
    "radial": flows.radial(event_shape=(2,), blocks=6),
    "sylvester": flows.sylvester(event_shape=(2,), blocks=3),
    "sylvester_householder": flows.sylvester(event_shape=(2,), blocks=2, kind="householder", reflections=1),
    "sylvester_triangular": flows.sylvester(event_shape=(2,), blocks=2, kind="triangular"),
    "residual_densenet": flows.residual_densenet(event_shape=(2,), blocks=2, hidden=8),
    "implicit": flows.implicit(event_shape=(2,), blocks=2, hidden=8),
}
IMAGES = {
    # of one scale and two convolutions a block, or all is compiled several times
    "residual_densenet_image": flows.residual_densenet_image(
        event_shape=(4, 4, 1), blocks=1, scales=1, channels=(3,), kernels=(3, 1)
    ),
    "implicit_image": flows.implicit_image(event_shape=(4, 4, 1), blocks=1, scales=1, channels=(3,), kernels=(3, 1)),
}


def _ring(count):
    rng = np.random.default_rng(0)
    angle, radius = 2 * np.pi * rng.random(count), 1.0 + 0.1 * rng.standard_normal(count)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).astype(np.float32)


def _images(count):
    rng = np.random.default_rng(1)
    # bright or dark as a whole: two modes and strong correlations
    return (rng.choice([-1.0, 1.0], (count, 1, 1, 1)) + 0.3 * rng.standard_normal((count, 4, 4, 1))).astype(np.float32)


TRAINED = cases(["planar", "radial", "sylvester", "residual_densenet", "implicit", *IMAGES], ["implicit", *IMAGES])


@pytest.mark.parametrize("name", TRAINED)
def test_training_lowers_the_loss_keeps_the_bound_and_compiles_one_step(caplog, name):
    flow = (FLOWS | IMAGES)[name]
    data = _ring(256) if name in FLOWS else _images(128)
    with jax.log_compiles():
        _, report = jf.fit(
            jax.random.key(0), flow, data, epochs=10, batch_size=64, learning_rate=2e-2, validation=0.0, progress=False
        )
    # arrays of weak dtypes, in parameters or moments, would be of another dtype after the first step
    assert sum(record.getMessage().startswith("Compiling jit(step)") for record in caplog.records) == 1
    epochs = report.losses.reshape(10, -1).mean(axis=1)
    assert np.mean(epochs[-2:]) < epochs[0] - 0.02
    assert report.lipschitz <= 0.95


@pytest.mark.parametrize("name", [*FLOWS, *IMAGES])
def test_a_flow_comes_back_from_its_file(tmp_path, random_params, name):
    flow = (FLOWS | IMAGES)[name]
    params = random_params(flow)
    jf.save(tmp_path / "model", flow, params)
    loaded, loaded_params, _ = jf.load(tmp_path / "model")
    assert (loaded.event_shape, loaded.bijector.spec) == (flow.event_shape, flow.bijector.spec)
    jax.tree.map(np.testing.assert_array_equal, loaded_params, params)


@pytest.mark.parametrize("name", ["planar", "radial", "sylvester", "residual_densenet"])
def test_near_the_identity_half_an_event_is_completed(random_params, name):
    flow = FLOWS[name]
    params = random_params(flow)
    observation = jf.observe.mask(jnp.asarray([True, False]))
    y_observed, x_hidden = jnp.asarray([0.8, 0.0]), jnp.asarray([0.0, -0.4])
    y, info = jax.jit(lambda p: jf.solve(flow, p, observation, y_observed, x_hidden, solver=boundary_sweep()))(params)
    assert bool(info.converged)
    np.testing.assert_array_equal(y[0], y_observed[0])
    np.testing.assert_allclose(flow.encode(params, y)[1], x_hidden[1], rtol=0, atol=2e-4)


def test_the_alternate_sylvester_layers_reverse_the_entries_and_must_pair_up():
    assert '"reverse": true' in FLOWS["sylvester_triangular"].bijector.spec
    assert '"reverse": false' in FLOWS["sylvester_triangular"].bijector.spec
    assert FLOWS["sylvester_triangular"].bijector.blocks == 2
    with pytest.raises(ValueError, match="expected an even number of blocks with kind 'triangular'; got 3"):
        flows.sylvester(event_shape=(2,), blocks=3, kind="triangular")


def test_a_factory_named_after_its_module_is_still_the_factory_after_its_neighbour_was_named():
    code = "from jaxflows import flows; flows.implicit_image; flows.residual_image; print(flows.implicit, flows.residual)"
    seen = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert "module" not in seen
