"""The table the generic tests run over: every example of the registry, and the compositions that matter."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxflows.bijectors.base import Bijector, Shape
from jaxflows.bijectors.chain import chain, scan_chain
from jaxflows.bijectors.coupling import affine_coupling, alternating
from jaxflows.bijectors.invert import invert
from jaxflows.bijectors.logit import logit
from jaxflows.bijectors.registry import FAMILIES, examples
from jaxflows.bijectors.residual import residual_dense
from jaxflows.flows import residual_image


class Case(NamedTuple):
    """A bijector, the event shape it is tested on, and whether its events are confined to (0, 1)."""

    bijector: Bijector
    shape: Shape
    unit_interval: bool


def _compositions() -> dict[str, tuple[Bijector, Shape]]:
    dense = residual_dense(hidden=(6,))
    image = residual_image(event_shape=(8, 8, 1), blocks=1, channels=(3, 3), coeff=0.9)
    return {
        "implicit": (scan_chain(chain(dense, invert(dense)), 2), (4,)),
        "inverted_chain": (invert(chain(dense, dense)), (4,)),
        "logit_first": (chain(logit(), dense), (4,)),
        # in a loop, and unrolled where it is differentiated
        "couplings": (alternating(functools.partial(affine_coupling, hidden=3, blocks=1), 6), (4,)),
        "residual_image": (image.bijector, (8, 8, 1)),
    }


def _table() -> dict[str, Case]:
    rows = {
        f"{name}-{position}": row
        for name in FAMILIES
        for position, row in enumerate(examples(name))
    }  # fmt: skip
    rows |= _compositions()
    return {name: Case(bijector, shape, '"logit"' in bijector.spec) for name, (bijector, shape) in rows.items()}


CASES: dict[str, Case] = _table()


@functools.cache
def parameters(name: str) -> Any:
    """Contractive float64 parameters as numpy arrays: no leaf left at zero, no compilation.

    Matrices have spectral norm 0.95; kernels have a sum of tap norms (a bound on the operator's) of 0.95.
    """
    case = CASES[name]
    shapes = jax.eval_shape(lambda key: case.bijector.init(key, case.shape), jax.random.key(0))
    generator = np.random.default_rng(len(name))

    def fill(path: Any, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        values = generator.standard_normal(leaf.shape)
        field = path[-1].key
        if field not in ("weight", "kernel"):
            return 0.3 * values
        tap_norms = np.linalg.norm(values, ord=2, axis=(-2, -1), keepdims=True)
        if values.ndim >= 4:
            tap_norms = np.sum(tap_norms, axis=(-4, -3), keepdims=True)
        return 0.95 * values / tap_norms

    return jax.tree_util.tree_map_with_path(fill, shapes)


def event(name: str, seed: int = 0) -> np.ndarray:
    """A float64 event of the case's shape, inside (0, 1) where the layer asks for it."""
    case, generator = CASES[name], np.random.default_rng(seed)
    return generator.uniform(0.1, 0.9, case.shape) if case.unit_interval else generator.standard_normal(case.shape)


def cast(tree: Any, dtype: Any) -> Any:
    """Every leaf as a jax array of ``dtype``."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), tree)
