"""Lipschitz constants of the activations on a dense grid, and their second derivatives."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflows.lipschitz.activations import ACTIVATIONS, activation

BETAS = (-8.0, -1.0, 0.0, 1.0, 5.0, 30.0)


def _slopes(name, beta):
    """The norm of the derivative of one unit, and its second derivatives, on a grid that resolves the steepest beta."""
    grid = np.linspace(-30.0, 30.0, 60_001) / (np.log1p(np.exp(beta)) + 0.5)

    def one(t):
        return ACTIVATIONS[name].apply(jnp.full(1, beta), t[None])

    first = jax.jit(jax.vmap(jax.jacfwd(one)))(jnp.asarray(grid))
    second = jax.jit(jax.vmap(jax.jacfwd(jax.jacfwd(one))))(jnp.asarray(grid))
    return np.linalg.norm(first.reshape(grid.size, -1), axis=1), second


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_slopes_stay_at_or_under_one_and_second_derivatives_exist(name):
    for beta in BETAS if "swish" in name else (0.0,):
        with jax.enable_x64(True):
            slopes, second = _slopes(name, beta)
        assert np.max(slopes) <= 1.0
        # and the constant is not given away
        assert np.max(slopes) > 0.99
        assert np.all(np.isfinite(second))
        assert np.max(np.abs(second)) > 0.1


def test_clipswish_widens_twice_and_the_others_not_at_all():
    for name, chosen in ACTIVATIONS.items():
        assert chosen.widening == (2 if name == "clipswish" else 1)
        assert chosen.apply(jnp.zeros(3), jnp.ones(3)).shape == (3 * chosen.widening,)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"expected an activation of \['clipswish', 'elu', .*got 'gelu'"):
        activation("gelu")
