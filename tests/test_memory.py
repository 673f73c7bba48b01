"""The memory ceiling: how it is written, which cut it finds, that no number depends on it, and what it refuses."""

from __future__ import annotations

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflows import flows
from jaxflows.conditional.amortised import Amortised
from jaxflows.conditional.elbo import exact
from jaxflows.memory import fitting_program, memory_bytes
from jaxflows.networks.inference_network import DenseInference, fresh_network
from jaxflows.networks.prediction_head import fresh_head
from jaxflows.solvers.boundary_sweep import boundary_sweep
from jaxflows.training.fit import fit
from jaxflows.training.joint_loss import IncompleteBatch, joint_loss

KEY = jax.random.key(0)


def test_limits_are_bytes_or_a_number_with_a_unit():
    assert [memory_bytes(limit) for limit in (5, "5 B", "8 GiB", "1.5kB", " 2 MB ")] == [5, 5, 8 * 2**30, 1500, 2 * 10**6]
    for wrong in (0, -1, "8", "8 gigs", "GiB", "-1 GiB", "0 B"):
        with pytest.raises(ValueError, match="expected a memory_limit"):
            memory_bytes(wrong)


@pytest.mark.parametrize(("rows", "bend"), [(256, 0), (256, 40), (7, 0), (1, 0)])
def test_the_fewest_micro_batches_that_fit_are_found_in_few_compilations(rows, bend):
    def need(parts):
        size = -(-rows // parts)
        return 1000 + 10 * size + bend * int(np.sqrt(size))

    for best in {-(-rows // size) for size in range(1, rows + 1)}:
        tried = []

        def compiled(parts, tried=tried):
            tried.append(parts)
            sizes = {"argument": 900, "output": 200, "alias": 200, "temp": need(parts) - 900}
            stats = {f"{name}_size_in_bytes": size for name, size in sizes.items()}
            return SimpleNamespace(parts=parts, memory_analysis=lambda: SimpleNamespace(**stats))

        found = fitting_program(compiled, rows, need(best), "a step")
        assert (found.parts, found.program.parts, found.bytes) == (best, best, need(best))
        assert len(tried) == len(set(tried)) <= (1 if best == 1 else 8)
    with pytest.raises(ValueError, match=f"of at least {need(rows)} bytes.* for a step, one row at a time; got 999 bytes"):
        fitting_program(compiled, rows, 999, "a step")


@pytest.mark.long
def test_a_run_within_a_limit_is_the_same_run():
    flow = flows.planar(event_shape=(4,), blocks=8)
    rows, start = np.random.default_rng(0).standard_normal((130, 4)).astype(np.float32), jax.jit(flow.init)(KEY)

    def run(limit):
        # 100 rows in each step, and the last validation takes what is left
        return fit(
            KEY, flow, rows, params=start, epochs=3, batch_size=100, validation=0.2, memory_limit=limit,
            noise=lambda key, batch: batch + 0.1 * jax.random.normal(key, batch.shape), progress=False,
        )  # fmt: skip

    params, whole = run("1 GiB")
    assert whole.micro_batches == 1
    limit = int(0.7 * whole.step_bytes)
    again, cut = run(limit)
    assert cut.micro_batches > 1
    assert cut.step_bytes <= limit
    np.testing.assert_allclose(cut.losses, whole.losses, rtol=1e-5)
    np.testing.assert_allclose(cut.validation_losses, whole.validation_losses, rtol=1e-5)
    for ours, theirs in zip(jax.tree.leaves(again), jax.tree.leaves(params), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match=r"expected a memory_limit of at least .*, one row at a time; got 1000 bytes"):
        run(1000)


@pytest.mark.long
def test_a_joint_gradient_in_micro_batches_is_that_of_the_whole_batch():
    # the latents of a batch are normalised together, and five rows do not divide by two
    flow = flows.residual(event_shape=(4,), blocks=1, hidden=2)
    network = DenseInference((2,))
    params = {
        "flow": jax.jit(flow.init)(KEY),
        "network": fresh_network(KEY, network, (4,), jnp.float32),
        "head": fresh_head(KEY, (4,), 2),
    }
    params["head"]["weight"] = jax.random.normal(KEY, (4, 2))
    rng = np.random.default_rng(0)
    labels = jnp.asarray([0, 1, -1, 1, 0])
    batch = IncompleteBatch(
        jnp.asarray(rng.standard_normal((5, 4)), jnp.float32), jnp.asarray(rng.random((5, 4)) < 0.5), labels
    )
    posterior = Amortised(network, params["network"], jnp.zeros(4), jnp.ones(4))

    def outcome(parts):
        # so few sweeps that some draws are left unsolved
        loss = joint_loss(
            flow, posterior, estimator=exact(), solver=boundary_sweep(max_sweeps=2, tol=1e-3), num_samples=2, noise=None,
            head_weight=1.0, parts=parts,
        )  # fmt: skip

        def both(params):
            losses = loss(KEY, params, batch)
            return losses["loss"], losses

        return jax.jit(jax.grad(both, has_aux=True))(params)

    (whole, losses), (cut, again) = outcome(1), outcome(2)
    assert 0 < losses["unconverged"] < 1
    for name, value in losses.items():
        np.testing.assert_allclose(again[name], value, rtol=1e-5, atol=1e-6)
    for ours, theirs in zip(jax.tree.leaves(cut), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
