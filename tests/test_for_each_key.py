"""One draw or several: the same numbers as by `jax.vmap`."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from jaxflows.for_each_key import for_each_key


@pytest.mark.parametrize("count", [1, 3])
def test_it_is_vmap_over_split_keys(count):

    def draw(key):
        x = jax.random.normal(key, (2,))
        return x, {"twice": 2 * x}

    key = jax.random.key(0)
    found = for_each_key(draw, key, count)
    expected = jax.vmap(lambda k: jax.random.normal(k, (2,)))(jax.random.split(key, count))
    np.testing.assert_array_equal(found[0], expected)
    np.testing.assert_array_equal(found[1]["twice"], 2 * expected)
