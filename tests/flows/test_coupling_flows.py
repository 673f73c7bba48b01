"""Coupling flows end to end: they train, are saved and come back, and are conditioned like any other flow."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from jaxflows import flows, persistence
from jaxflows.training.fit import fit
from tests.long_cases import cases

FLOWS = {
    "glow": lambda: flows.glow(event_shape=(4, 4, 1), scales=2, steps=1, hidden=6, blocks=1),
    "neural_spline": lambda: flows.neural_spline(event_shape=(2, 2), layers=2, hidden=8, blocks=1, split="half"),
    "nice": lambda: flows.nice(event_shape=(4,), layers=2, hidden=8, blocks=1),
    "realnvp": lambda: flows.realnvp(event_shape=(4,), layers=2, hidden=8, blocks=1),
    # the second scale has an odd side, as MNIST's third
    "realnvp_image": lambda: flows.realnvp_image(event_shape=(6, 2, 1), scales=2, layers=2, hidden=6, blocks=1),
    "whitened_image": lambda: flows.whitened_image(event_shape=(4, 6, 1), patch=2, layers=4, hidden=6, dense=5),
}
every_flow = pytest.mark.parametrize("name", sorted(FLOWS))


@every_flow
def test_a_flow_starts_as_its_affine_maps_alone_and_inverts(name):
    flow = FLOWS[name]()
    y = np.random.default_rng(1).standard_normal(flow.event_shape).astype(np.float32)

    @jax.jit
    def there_and_back(key, y):
        params = flow.init(key)
        x, log_det = flow.bijector.forward(params, y)
        return x, log_det, *flow.decode(params, x)

    x, log_det, back, info = there_and_back(jax.random.key(0), y)
    np.testing.assert_allclose(np.linalg.norm(x), np.linalg.norm(y), rtol=1e-5)
    np.testing.assert_allclose(log_det, 0.0, atol=1e-5)
    np.testing.assert_allclose(back, y, atol=1e-5)
    assert bool(info.converged)


@pytest.mark.parametrize("name", cases(sorted(FLOWS), ["glow", "realnvp_image", "whitened_image"]))
def test_a_few_steps_lower_the_loss_and_the_model_comes_back_from_its_file(name, tmp_path):
    flow = FLOWS[name]()
    noise = np.random.default_rng(0).standard_normal((256, flow.size)).astype(np.float32)
    # entries that depend on one another, which an affine map an entry cannot whiten
    rows = np.cumsum(noise, axis=1).reshape(-1, *flow.event_shape)
    params, report = fit(
        jax.random.key(0), flow, rows, epochs=20, batch_size=64, learning_rate=1e-2, validation=0, progress=False
    )
    assert np.mean(report.losses[-5:]) < np.mean(report.losses[:5]) - 0.1
    persistence.save(tmp_path / "model.safetensors", flow, params)
    again, restored, _ = persistence.load(tmp_path / "model.safetensors")
    assert again.bijector.spec == flow.bijector.spec
    jax.tree.map(np.testing.assert_array_equal, restored, params)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [({"layers": 6}, "divisible by 4"), ({"dense": -1}, "dense >= 0; got -1"), ({"whitening": "none"}, "got 'none'")],
)
def test_sizes_of_whitened_flows_that_cannot_be(sizes, message):
    with pytest.raises(ValueError, match=message):
        flows.whitened_image(event_shape=(8, 8, 1), **sizes)
