"""Which matrix products and convolutions of a program are left to the precision that JAX is set to."""

from __future__ import annotations

import jax

_PRODUCTS = ("dot_general", "conv_general_dilated")


def rounded_products(function, *arguments):
    """The products of the traced function that a GPU would round, by name and dtypes; those in loops and branches too."""
    return [_text(product) for product in _products(jax.make_jaxpr(function)(*arguments)) if not _full(product)]


def _text(product):
    return " ".join([product.primitive.name, *(factor.aval.dtype.name for factor in product.invars)])


def _full(product):
    precision = product.params["precision"]
    each = precision if isinstance(precision, tuple) else (precision,)
    return all(one == jax.lax.Precision.HIGHEST for one in each)


def _products(value):
    # a closed program holds an open one; of later versions of JAX they are the same
    value = getattr(value, "jaxpr", value)
    if hasattr(value, "eqns"):
        for equation in value.eqns:
            if equation.primitive.name in _PRODUCTS:
                yield equation
            yield from _products(tuple(equation.params.values()))
    elif isinstance(value, (tuple, list)):
        for one in value:
            yield from _products(one)
