"""What training data is accepted, how it is split and in which order it is seen."""

import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflows import flows
from jaxflows.training.rows import BatchOrder, check_rows, digest, hold_out

FLOW = flows.residual(event_shape=(2, 3), blocks=1, hidden=4)
ROWS = np.arange(24.0, dtype=np.float32).reshape(4, 2, 3)


def test_good_rows_pass_unchanged():
    np.testing.assert_array_equal(check_rows(FLOW, jnp.asarray(ROWS), "data", noisy=False), ROWS)


@pytest.mark.parametrize("shape", [(4, 6), (2, 3), (4, 3, 2), (), (4, 2, 3, 1)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match=r"expected data of shape \(n, 2, 3\); got"):
        check_rows(FLOW, np.zeros(shape), "data", noisy=False)


def test_no_rows_are_refused():
    with pytest.raises(ValueError, match="at least one row; got none"):
        check_rows(FLOW, np.zeros((0, 2, 3)), "data", noisy=False)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_the_first_value_that_is_not_finite_is_named(bad):
    rows = ROWS.copy()
    rows[2, 1, 0] = rows[3, 0, 0] = bad
    with pytest.raises(ValueError, match=rf"expected finite data; got {bad} at row 2, position \(1, 0\) \(2 such"):
        check_rows(FLOW, rows, "data", noisy=False)


def test_a_flat_position_is_one_number():
    flow = flows.residual(event_shape=(3,), blocks=1, hidden=4)
    with pytest.raises(ValueError, match="at row 0, position 1 "):
        check_rows(flow, np.array([[0.0, np.nan, 0.0]]), "data", noisy=False)


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, bool])
def test_integers_need_noise(dtype):
    with pytest.raises(TypeError, match=r"floating dtype; got .*pass noise="):
        check_rows(FLOW, ROWS.astype(dtype), "data", noisy=False)
    assert check_rows(FLOW, ROWS.astype(dtype), "data", noisy=True).dtype == dtype


def test_complex_rows_are_refused():
    with pytest.raises(TypeError, match="floating dtype; got complex64"):
        check_rows(FLOW, ROWS.astype(np.complex64), "data", noisy=True)


@pytest.mark.parametrize("dtype", [np.float16, jnp.bfloat16])
def test_half_precision_is_promoted(dtype):
    rows = check_rows(FLOW, ROWS.astype(dtype), "data", noisy=False)
    assert rows.dtype == np.float32
    np.testing.assert_array_equal(rows, ROWS)


def test_rows_on_a_disk_stay_there(tmp_path):
    flow = flows.residual(event_shape=(1024,), blocks=1, hidden=4)
    rows = np.memmap(tmp_path / "rows", np.float32, "w+", shape=(2**14, 1024))
    rows[2**14 - 1, 7] = np.inf
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=rf"got inf at row {2**14 - 1}, position 7 \(1 such"):
            check_rows(flow, rows, "data", noisy=False)
        rows[2**14 - 1, 7] = 0
        assert np.shares_memory(check_rows(flow, rows, "data", noisy=False), rows)
        digest(rows)
        assert tracemalloc.get_traced_memory()[1] < rows.nbytes / 4
    finally:
        tracemalloc.stop()


def test_hold_out_parts_the_rows():
    rows = np.arange(50.0).reshape(50, 1)
    train, held_out = hold_out(jax.random.key(0), rows, 0.25)
    assert (len(train), len(held_out)) == (38, 12)
    assert set(train[:, 0]) | set(held_out[:, 0]) == set(range(50))


def test_hold_out_of_one_row_keeps_it_for_training():
    train, held_out = hold_out(jax.random.key(0), ROWS[:1], 0.9)
    assert (len(train), len(held_out)) == (1, 0)


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_hold_out_refuses_other_shares(share):
    with pytest.raises(ValueError, match=r"share in \[0, 1\)"):
        hold_out(jax.random.key(0), ROWS, share)


def test_an_epoch_sees_whole_batches_without_repeats_and_epochs_differ():
    order = BatchOrder(jax.random.key(1), 10, 3)
    first, second = order.epoch(0), order.epoch(1)
    assert first.shape == (order.steps_per_epoch, 3) == (3, 3)
    assert len(set(first.ravel())) == 9
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(first, order.epoch(0))


def test_a_digest_sees_values_shape_and_dtype():
    others = [ROWS + 1, ROWS.reshape(4, 6), ROWS.astype(np.float64)]
    assert digest(ROWS) == digest(ROWS.copy())
    assert len({digest(rows) for rows in [ROWS, *others]}) == 4
