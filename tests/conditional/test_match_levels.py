"""Draws with the levels of observed entries: the exact map of normal draws, what stays as it is, refusals."""

from __future__ import annotations

import numpy as np
import pytest

import jaxflows as jf

RNG = np.random.default_rng(0)
OBSERVED = RNG.random((400, 5, 5)) < 0.5


def test_normal_draws_get_the_mean_and_deviation_of_the_levels():
    draws = RNG.normal(2.0, 3.0, (400, 4, 5, 5))
    levels = RNG.normal(-1.0, 0.5, 50_000)
    mapped = jf.match_levels(draws, OBSERVED, levels)
    hidden = np.broadcast_to(~OBSERVED[:, None], draws.shape)
    # of normal numbers the map is affine: between the quantiles, which scatter most at the ends
    inner = hidden & (np.abs(draws - 2.0) < 6.0)
    np.testing.assert_allclose(mapped[inner], -1.0 + (draws[inner] - 2.0) / 6.0, atol=0.05)
    np.testing.assert_array_equal(mapped[~hidden], draws[~hidden])
    assert mapped.min() >= min(levels.min(), draws[~hidden].min())


def test_black_and_white_is_made_of_grey_and_order_stays():
    draws = RNG.normal(0.5, 0.2, (400, 5, 5)).astype(np.float32)
    levels = np.repeat([0.0, 1.0], [700, 300])
    mapped = jf.match_levels(draws, OBSERVED, levels)
    assert mapped.dtype == np.float32
    got = mapped[~OBSERVED]
    assert np.mean(got == 1.0) == pytest.approx(0.3, abs=0.002)
    assert np.mean((got > 0.0) & (got < 1.0)) < 0.002
    assert np.all(np.diff(got[np.argsort(draws[~OBSERVED])]) >= 0)


def test_levels_of_the_draws_themselves_leave_them():
    draws = RNG.normal(size=(400, 5, 5))
    np.testing.assert_allclose(jf.match_levels(draws, OBSERVED, draws[~OBSERVED]), draws, atol=1e-12)


def test_what_is_not_finite_stays_and_so_does_everything_where_nothing_is_hidden():
    draws = RNG.normal(size=(400, 2, 5, 5))
    draws[3, 1] = np.nan
    mapped = jf.match_levels(draws, OBSERVED, np.array([0.0, 1.0]))
    np.testing.assert_array_equal(np.isnan(mapped), np.isnan(draws))
    np.testing.assert_array_equal(jf.match_levels(draws, np.ones_like(OBSERVED), np.array([0.0])), draws)
    assert jf.match_levels(draws[:0], OBSERVED[:0], np.array([0.0])).shape == (0, 2, 5, 5)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"draws": np.zeros((400, 5, 5), int)}, "floating dtype"),
        ({"observed": OBSERVED.astype(float)}, "boolean mask"),
        ({"observed": OBSERVED[:3]}, "draws .n, .event. or"),
        ({"draws": np.zeros((400, 2, 3, 5, 5))}, "draws .n, .event. or"),
        ({"levels": np.zeros(0)}, "finite levels"),
        ({"levels": np.array([0.0, np.nan])}, "finite levels"),
    ],
)
def test_bad_input_is_refused(change, words):
    with pytest.raises(ValueError, match=words):
        jf.match_levels(**{"draws": np.zeros((400, 5, 5)), "observed": OBSERVED, "levels": np.array([0.0, 1.0])} | change)
