"""A model of the mask given the data, for entries that are missing because of their own value (MNAR).

    P(m_i = 1 | y) = sigmoid( intercept_i + slope_i (y_i - centre_i) / spread_i ),   m_i = 1 where observed

Training adds E_q[log p(m | y)] to the bound, which is then one on log p(y_observed, m) (Ipsen, Mattei and Frellsen 2021,
not-MIWAE). Whether the mechanism can be told from the data depends on the flow: no model of it can be checked against values
that were never seen.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxflows.bijectors.base import Params

# observed shares of a column are taken no nearer to 0 and 1
_LEAST_SHARE = 1e-3


class SelfMasking(NamedTuple):
    """The chance of every entry to be observed, a logistic function of its own value.

    Attributes:
        params: "intercept" and "slope", (*event,) each.
        centre, spread: (*event,), what values are standardised by.
    """

    params: Params
    centre: jax.Array
    spread: jax.Array

    def log_prob(self, y: jax.Array, observed: jax.Array) -> jax.Array:
        """log p(m | y) of one event, a scalar in nats.

        Args:
            y: (*event,), completed.
            observed: (*event,) boolean.
        """
        odds = self.params["intercept"] + self.params["slope"] * (y - self.centre) / self.spread
        return jnp.sum(jax.nn.log_sigmoid(jnp.where(observed, odds, -odds)))

    def log_probs(self, samples: Any, observed: Any) -> np.ndarray:
        """log p(m | y) of every draw of completed rows, for `jaxflows.conditional.completion.Completion.reweighted`.

        Args:
            samples: (rows, S, *event).
            observed: (rows, *event) boolean.

        Returns:
            (rows, S).
        """
        row = jax.vmap(self.log_prob, in_axes=(0, None))
        return np.asarray(jax.jit(jax.vmap(row))(jnp.asarray(samples), jnp.asarray(observed)))


def fresh_self_masking(observed: np.ndarray, dtype: Any) -> Params:
    """Parameters at which each entry is observed as often as in the rows whatever its value; ``observed`` is (n, *event)."""
    share = np.clip(observed.mean(axis=0), _LEAST_SHARE, 1.0 - _LEAST_SHARE)
    intercept = jnp.asarray(np.log(share / (1.0 - share)), dtype)
    return {"intercept": intercept, "slope": jnp.zeros_like(intercept)}
