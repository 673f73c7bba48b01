"""Means of diagnostics that some rows have not."""

import numpy as np

from jaxflows.known_mean import known_mean


def test_what_is_not_finite_is_left_out():
    values = np.array([[1.0, np.nan, 3.0], [np.inf, np.nan, 5.0], [-np.inf, np.nan, 1.0]])
    np.testing.assert_array_equal(known_mean(values, axis=0), [1.0, np.nan, 3.0])
    assert known_mean(values) == 2.5
    assert isinstance(known_mean(values), float)


def test_nothing_known_and_nothing_at_all_have_no_mean():
    assert np.isnan(known_mean(np.full(3, np.nan)))
    assert np.isnan(known_mean(np.zeros(0)))
