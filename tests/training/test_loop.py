"""The loop: when the next batch is gathered."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from jaxflows.training.loop import RunOptions, run
from jaxflows.training.rows import BatchOrder
from jaxflows.training.step import TrainState

KEY = jax.random.key(0)
OPTIONS = RunOptions(2, 5, None, None, 0.0, 1.0, 0.9, None, None, None, None, None, False, None, None)


class Loss:
    """A number that says when it is waited for."""

    def __init__(self, events, number):
        self.events, self.number = events, number

    def __float__(self):
        self.events.append(("wait", int(self.number)))
        return 1.0


def events_of(gather):
    """What happens, in order, in a run of two epochs of two steps."""
    events = []

    def batch(rows):
        events.append(("gather", tuple(rows)))
        return gather(rows)

    def step(state, rows, number, position):
        events.append(("step", int(number), tuple(rows)))
        return state, Loss(events, number)

    run(OPTIONS, BatchOrder(KEY, 10, 5), TrainState(0.0, 0.0, 0.0, None), lambda parts: step, batch, None, {}, "")
    return events


def test_the_next_batch_is_gathered_while_a_step_runs_and_none_beyond_the_last():
    order = BatchOrder(KEY, 10, 5)
    rows = [tuple(some) for epoch in range(2) for some in order.epoch(epoch)]
    expected = [("gather", rows[0])]
    for number in range(4):
        expected.append(("step", number, rows[number]))
        expected += [("gather", rows[number + 1])] if number < 3 else []
        expected.append(("wait", number))
    assert events_of(lambda rows: rows) == expected
    assert [tuple(next(order.starting_at(number))) for number in range(4)] == rows


def test_what_goes_wrong_in_gathering_surfaces():
    def gather(rows):
        if np.array_equal(rows, BatchOrder(KEY, 10, 5).epoch(1)[0]):
            raise OSError("the disk is gone")
        return rows

    with pytest.raises(OSError, match="the disk is gone"):
        events_of(gather)
