"""Mechanisms of missingness: their rates, what they depend on and what not, their seeds, and refusals."""

from __future__ import annotations

import math

import numpy as np
import pytest

from jaxflows.data import block, mar, mcar, mnar

ROWS = np.random.default_rng(0).standard_normal((4000, 5)) @ np.triu(np.full((5, 5), 0.6)) * [1.0, 1e3, 1e-3, 5.0, 2.0]
OTHERS = np.array([1, 2, 4])


def within_five_errors(missing: np.ndarray, rate: float) -> bool:
    return abs(missing.mean() - rate) <= 5 * math.sqrt(rate * (1 - rate) / missing.size)


def correlation(left: np.ndarray, right: np.ndarray) -> float:
    return float(np.corrcoef(left, right)[0, 1])


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_every_column_misses_the_asked_share(rate):
    assert within_five_errors(~mcar(4000, (5,), rate, seed=1), rate)
    for column in range(5):
        assert within_five_errors(~mnar(ROWS, rate, seed=1)[:, column], rate)
    observed = mar(ROWS, rate, always=(0, 3), seed=1)
    assert observed[:, [0, 3]].all()
    for column in OTHERS:
        assert within_five_errors(~observed[:, column], rate)


def test_a_large_strength_is_calibrated_too():
    for column in range(5):
        assert within_five_errors(~mnar(ROWS, 0.3, strength=50.0)[:, column], 0.3)


def test_mcar_depends_on_nothing():
    missing = ~mcar(4000, (5,), 0.4, seed=2)
    for i in range(5):
        for j in range(5):
            assert abs(correlation(missing[:, i], ROWS[:, j])) < 5 / math.sqrt(4000)
            assert i == j or abs(correlation(missing[:, i], missing[:, j])) < 5 / math.sqrt(4000)


def test_mnar_hides_high_values_and_with_a_negative_strength_low_ones():
    for strength in (2.0, -2.0):
        missing = ~mnar(ROWS, 0.4, strength=strength, seed=2)
        for column in range(5):
            assert np.sign(strength) * correlation(missing[:, column], ROWS[:, column]) > 20 / math.sqrt(4000)


def test_mar_depends_on_the_observed_columns_and_given_them_on_nothing_else():
    independent = np.random.default_rng(3).standard_normal((4000, 4))
    missing = ~mar(independent, 0.4, always=(0,), seed=2)
    for column in (1, 2, 3):
        # one always observed column: the direction is plus or minus 1
        assert abs(correlation(missing[:, column], independent[:, 0])) > 20 / math.sqrt(4000)
        assert abs(correlation(missing[:, column], independent[:, column])) < 5 / math.sqrt(4000)


def test_without_strength_nothing_is_left_of_the_dependence():
    for missing in (~mnar(ROWS, 0.4, strength=0.0), ~mar(ROWS, 0.4, always=(0,), strength=0.0)):
        assert abs(correlation(missing[:, 4], ROWS[:, 4])) < 5 / math.sqrt(4000)
        assert abs(correlation(missing[:, 4], ROWS[:, 0])) < 5 / math.sqrt(4000)


@pytest.mark.parametrize(
    "mechanism",
    [
        lambda seed: mcar(20, (4, 6, 3), 0.5, seed=seed),
        lambda seed: block(20, (4, 6, 3), 2, seed=seed),
        lambda seed: mar(ROWS[:20], 0.5, always=(1,), seed=seed),
        lambda seed: mnar(ROWS[:20].reshape(20, 5, 1), 0.5, seed=seed),
    ],
)
def test_masks_follow_the_seed(mechanism):
    np.testing.assert_array_equal(mechanism(5), mechanism(5))
    assert (mechanism(5) != mechanism(6)).any()


@pytest.mark.parametrize(("shape", "missing"), [((7,), 3), ((4, 6), 9), ((4, 6, 2), 18)])
def test_a_block_is_a_square_anywhere(shape, missing):
    hidden = ~block(500, shape, 3, seed=0)
    assert hidden.shape == (500, *shape)
    assert set(hidden.reshape(500, -1).sum(axis=1)) == {missing}
    for axis, length in enumerate(shape[:2]):
        along = hidden.any(axis=tuple(i for i in range(1, hidden.ndim) if i != axis + 1))
        assert set(along.sum(axis=1)) == {3}
        # the first line of the square stands everywhere it can, each place within five standard errors of its share
        starts = np.bincount(along.argmax(axis=1), minlength=length)
        share = 1 / (length - 2)
        assert np.all(np.abs(starts[: length - 2] / 500 - share) <= 5 * math.sqrt(share / 500))
    if len(shape) == 3:
        np.testing.assert_array_equal(hidden[..., 0], hidden[..., 1])


def test_constant_columns_are_missing_by_chance():
    rows = np.ones((4000, 2))
    assert within_five_errors(~mnar(rows, 0.3), 0.3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mcar(3, (2,), 1.5), r"missing fraction in \[0, 1\]; got 1.5"),
        (lambda: mcar(3, (2,), math.nan), r"missing fraction in \[0, 1\]; got nan"),
        (lambda: block(3, (4, 6), 5), r"a side from 1 to 4 in events \(4, 6\); got 5"),
        (lambda: block(3, (4, 6), 0), "a side from 1 to 4"),
        (lambda: mar(ROWS, 0.3, always=()), r"some of the columns 0 to 4 as always observed, not all; got \(\)"),
        (lambda: mar(ROWS, 0.3, always=(0, 1, 2, 3, 4)), "not all"),
        (lambda: mar(ROWS, 0.3, always=(5,)), r"got \(5,\)"),
        (lambda: mar(ROWS.reshape(-1, 5, 1), 0.3, always=(0,)), r"rows of vectors, \(n, d\)"),
        (lambda: mnar(ROWS, -0.1), "missing fraction"),
        (lambda: mnar(ROWS, 0.3, strength=math.inf), "finite strength; got inf"),
        (lambda: mnar(np.array([[0.0, math.nan]]), 0.3), r"got nan in row 0 at \(1,\)"),
        (lambda: mnar(np.zeros((0, 2)), 0.3), "at least one row"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
