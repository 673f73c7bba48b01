import time

import jax
import numpy as np

from benchmarks import residual_flow_peers as peers


def test_the_blocks_raced_are_those_of_the_shipped_flow():
    flow, params, data = peers.shipped_blocks(2)
    assert flow.bijector.blocks == 2
    assert data.shape == (1797, 64)
    assert params[0]["weight"].shape == (2, 64, 128)
    v = jax.vmap(flow.encode, (None, 0))(params, data[:4])
    assert v.shape == (4, 64)
    # blocks of Lipschitz constant 0.95 that training has put to use
    assert 0.3 < peers.block_norms(params, data[:4]) < 0.95


def test_the_reference_is_computed_in_float64():
    flow, params, data = peers.shipped_blocks(1)
    wide = peers.in_float64(flow.encode, params, data[:2])
    assert wide.dtype == np.float64
    np.testing.assert_allclose(wide, jax.vmap(flow.encode, (None, 0))(params, data[:2]), atol=1e-5)


def test_a_race_reports_each_contender_with_its_own_errors_and_median():
    def slow():
        time.sleep(0.02)
        return 3.0

    contenders = [
        peers.Contender("slow", slow, 0.0, lambda value: {"error_max": value - 1.0}),
        peers.Contender("fast", lambda: 1.0, 2.5, lambda value: {"error_max": value - 1.0}),
    ]
    slow_row, fast_row = peers.race(contenders, 3)
    assert (slow_row["library"], slow_row["error_max"]) == ("slow", 2.0)
    assert (fast_row["library"], fast_row["error_max"], fast_row["compile_seconds"]) == ("fast", 0.0, 2.5)
    assert slow_row["ms"] >= slow_row["ms_min"] >= 20.0 > fast_row["ms"]
