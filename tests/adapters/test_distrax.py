"""distrax flows: the same density and directions as distrax itself, trained with optax and conditioned here."""

from __future__ import annotations

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxflows.adapters import from_distrax
from tests.adapters.plane import bent_data, check_conditional

EVENT = jnp.array([0.3, -0.8])
AFFINE = distrax.Block(distrax.ScalarAffine(jnp.array([1.0, -2.0]), jnp.array([0.5, 3.0])), 1)
TANH = distrax.Block(distrax.Tanh(), 1)
STANDARD = distrax.MultivariateNormalDiag(jnp.zeros(2), jnp.ones(2))
OBJECTS = {
    "standard base": distrax.Transformed(STANDARD, AFFINE),
    "base with loc and scale": distrax.Transformed(distrax.MultivariateNormalDiag(jnp.ones(2), 2 * jnp.ones(2)), AFFINE),
    "independent normals": distrax.Transformed(distrax.Independent(distrax.Normal(EVENT, 0.7), 1), TANH),
    "nested": distrax.Transformed(distrax.Transformed(STANDARD, AFFINE), TANH),
    "full covariance": distrax.Transformed(
        distrax.MultivariateNormalFullCovariance(jnp.ones(2), jnp.array([[2.0, 0.5], [0.5, 1.0]])), TANH
    ),
    "normal alone": distrax.MultivariateNormalDiag(jnp.ones(2), 2 * jnp.ones(2)),
    "chain": distrax.Transformed(STANDARD, distrax.Chain([TANH, AFFINE])),
}


def coupling(params):
    """Two affine coupling layers with conditioners of one hidden layer."""

    def layer(weights, mask):
        def conditioner(u):
            outputs = jnp.tanh(u @ weights["in"] + weights["bias"]) @ weights["out"]
            return jnp.stack([outputs[..., :2], outputs[..., 2:]], axis=-1)

        def affine(p):
            return distrax.ScalarAffine(p[..., 0], log_scale=jnp.tanh(p[..., 1]))

        return distrax.MaskedCoupling(mask, conditioner, affine)

    layers = [layer(params["second"], jnp.array([True, False])), layer(params["first"], jnp.array([False, True]))]
    base = distrax.MultivariateNormalDiag(params["loc"], jnp.exp(params["log_scale"]))
    return distrax.Transformed(base, distrax.Chain(layers))


def coupling_params(scale):
    rng = np.random.default_rng(0)

    def draw(*shape):
        return jnp.asarray(scale * rng.standard_normal(shape), jnp.float32)

    layers = {name: {"in": draw(2, 8), "bias": draw(8), "out": draw(8, 4)} for name in ("first", "second")}
    return layers | {"loc": jnp.zeros(2), "log_scale": jnp.zeros(2)}


class OneWay(distrax.Bijector):
    """A bijector that cannot be inverted."""

    def forward_and_log_det(self, x):
        return 2 * x, jnp.log(2.0) * jnp.ones(x.shape[:-1])


@pytest.mark.parametrize("name", OBJECTS)
def test_density_and_directions_are_those_of_distrax(name):
    flow, params = from_distrax(OBJECTS[name], probe=EVENT)
    assert params == ()
    np.testing.assert_allclose(flow.log_prob(params, EVENT), OBJECTS[name].log_prob(EVENT), rtol=1e-4)
    y, info = flow.decode(params, flow.encode(params, EVENT))
    np.testing.assert_allclose(y, EVENT, atol=1e-5)
    assert bool(info.converged)


def test_a_bijector_alone_stands_on_a_standard_normal():
    flow, params = from_distrax(AFFINE, event_shape=(2,))
    np.testing.assert_allclose(flow.log_prob(params, EVENT), OBJECTS["standard base"].log_prob(EVENT), rtol=1e-5)
    scalar, params = from_distrax(distrax.ScalarAffine(1.0, 2.0), event_shape=(2, 2))
    np.testing.assert_allclose(scalar.bijector.forward(params, jnp.ones((2, 2)))[1], -4 * np.log(2.0), rtol=1e-5)


def test_parameters_of_a_function_carry_gradients_and_can_be_mapped_over():
    params = coupling_params(0.5)
    flow, held = from_distrax(coupling, params)
    assert held is params
    two = jax.tree.map(lambda leaf: jnp.stack([leaf, 0.5 * leaf]), params)
    ours = jax.jit(jax.vmap(jax.value_and_grad(flow.log_prob), (0, None)))(two, EVENT)
    theirs = jax.jit(jax.vmap(jax.value_and_grad(lambda p: coupling(p).log_prob(EVENT))))(two)
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-5)
    np.testing.assert_allclose(ours[0][0], flow.log_prob(params, EVENT), rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), ours[1], theirs[1])


@pytest.mark.long
def test_trained_with_optax_and_conditioned_here():
    params, data, optimizer = coupling_params(0.1), jnp.asarray(bent_data(512)), optax.adam(1e-2)

    @jax.jit
    def train(params):
        def step(carry, _):
            params, state = carry
            gradient = jax.grad(lambda p: -jnp.mean(coupling(p).log_prob(data)))(params)
            updates, state = optimizer.update(gradient, state)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, optimizer.init(params)), length=200)[0][0]

    flow, trained = from_distrax(coupling, train(params))
    check_conditional(flow, trained, (-1.0, 0.5, 1.5))


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((3,), {}, "expected a distrax distribution, bijector or a function that makes one; got int"),
        ((distrax.Normal(0.0, 1.0),), {}, "expected distrax.Transformed or a distrax bijector; got Normal"),
        ((AFFINE,), {}, "expected event_shape together with a bijector alone; got none"),
        ((AFFINE,), {"event_shape": (2, 2)}, r"expected a bijector on events of 2 dimensions, \(2, 2\); got one on"),
        ((OBJECTS["chain"],), {"event_shape": (3,)}, r"expected event_shape \(2,\), the distribution's own; got \(3,\)"),
        ((OBJECTS["chain"], {"a": jnp.ones(1)}), {}, "expected params with a function params -> distribution only"),
        (
            (distrax.Transformed(distrax.Normal(jnp.zeros(2), 1.0), distrax.Tanh()),), {},
            r"expected one distribution; got a batch of shape \(2,\)",
        ),
        (
            (distrax.Transformed(distrax.Independent(distrax.Laplace(jnp.zeros(2), 1.0), 1), TANH),), {},
            "expected a flow on a multivariate or independent normal base; got Laplace",
        ),
        ((OneWay(event_ndims_in=1),), {"event_shape": (2,)}, "expected a bijector with an inverse, from data to latent"),
    ],
)  # fmt: skip
def test_what_cannot_be_conditioned_is_refused(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        from_distrax(*arguments, **options)
