"""Flows whose conditionals are known, for benchmarks and tests of posteriors."""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxflows import flows
from jaxflows.adapters import from_functions
from jaxflows.log_det.estimators import exact

# clipswish(t) and clipswish(-t) differ by exactly this multiple of t, which makes a residual block linear
SLOPE = 1.0 / (1.1 * 1.004)


def linear_flow(size: int, seed: int, *, blocks: int = 3, coeff: float = 0.3) -> tuple[flows.Flow, Any]:
    """A residual flow x = g(y) that is exactly affine, with random matrices of norm ``coeff`` in its blocks.

    Returns:
        ``(flow, params)``; the Jacobian G is ``jax.jacfwd(flow.encode, argnums=1)`` anywhere.
    """
    flow = flows.residual(event_shape=(size,), blocks=blocks, hidden=size, activation="clipswish")
    rng = np.random.default_rng(seed)
    affine, stack = jax.jit(flow.init)(jax.random.key(seed))
    return flow, (affine, _linear_network(stack, rng, coeff))


def affine_flow(flow: flows.Flow, seed: int, *, coeff: float = 0.6) -> Any:
    """Parameters, random otherwise, at which a flow is exactly affine.

    Networks of residual blocks and of velocities become linear, as `linear_flow`'s. In couplings the log-scale is constant
    and the shift linear, silu(t) - silu(-t) being t. ActNorms get any shift and scale. (Splines, planar, radial and
    Sylvester layers are affine only where they are the identity.)

    Args:
        flow: of residual blocks, plain or inverted, or velocities, of one hidden layer as wide as the event, of clipswish; or
            of couplings whose networks are at least twice as wide as what they see; with any ActNorms and 1x1 convolutions.
        seed: of everything random.
        coeff: 2-norm of each linear network.
    """
    rng = np.random.default_rng(seed)

    def made(part: Any) -> Any:
        if isinstance(part, list):
            return _linear_network(part, rng, coeff)
        if "last" in part:
            return _affine_conditioner(part, rng)
        if "log_scale" in part:
            return {name: jnp.asarray(0.3 * rng.standard_normal(leaf.shape), leaf.dtype) for name, leaf in part.items()}
        return part

    return jax.tree.map(made, jax.jit(flow.init)(jax.random.key(seed)), is_leaf=lambda part: isinstance(part, dict | list))


def _linear_network(operators: Any, rng: np.random.Generator, norm: float) -> list[Any]:
    """The two operators around a clipswish, or around a concatenation with it, made one random matrix of a 2-norm."""
    first, second = (dict(part) for part in operators)
    *copies, size, _ = first["weight"].shape
    matrices = rng.standard_normal((*copies, size, size))
    matrices *= norm / np.linalg.norm(matrices, ord=2, axis=(-2, -1))[..., None, None]
    dtype = first["weight"].dtype
    first["weight"] = jnp.asarray(np.broadcast_to(np.eye(size), matrices.shape), dtype)
    passed_on = np.zeros((*copies, second["weight"].shape[-2] - 2 * size, size))
    share = np.sin(np.asarray(first["angle"], np.float64))[..., None, None] if "angle" in first else 1.0
    weight = np.concatenate([passed_on, matrices, -matrices], axis=-2) / (SLOPE * share)
    second["weight"] = jnp.asarray(weight, dtype)
    second["bias"] = jnp.asarray(0.3 * rng.standard_normal((*copies, size)), dtype)
    return [first, second]


def _affine_conditioner(params: Any, rng: np.random.Generator) -> Any:
    """A coupling's network, fresh, made to give every entry a linear shift, and a constant for what else its map takes."""
    first, last = (np.zeros(params[name]["kernel"].shape) for name in ("first", "last"))
    seen = first.shape[-2]
    first[..., :seen] = np.eye(seen)
    first[..., seen : 2 * seen] = -np.eye(seen)
    bias = 0.3 * rng.standard_normal(params["last"]["bias"].shape)
    # affine couplings take (shift, log-scale) an entry, additive ones the shift alone: as many entries are changed as seen
    numbers = bias.shape[-1] // seen
    shift = 0.5 * rng.standard_normal((*last.shape[:-2], seen, seen))
    last[..., :seen, ::numbers] = shift
    last[..., seen : 2 * seen, ::numbers] = -shift
    dtype = params["last"]["bias"].dtype
    return params | {
        "first": {"kernel": jnp.asarray(first, dtype), "bias": jnp.zeros_like(params["first"]["bias"])},
        "last": {"kernel": jnp.asarray(last, dtype), "bias": jnp.asarray(bias, dtype)},
    }


def gaussian_of(flow: flows.Flow, params: Any) -> tuple[np.ndarray, np.ndarray]:
    """Mean (d,) and covariance (d, d) of an affine flow's flattened events, in float64."""
    image, jacobian = (np.asarray(part, np.float64) for part in _at_zero(flow, params))
    inverse = np.linalg.inv(jacobian.reshape(flow.size, flow.size))
    return -inverse @ image.reshape(-1), inverse @ inverse.T


@functools.partial(jax.jit, static_argnums=0)
def _at_zero(flow: flows.Flow, params: Any) -> tuple[jax.Array, jax.Array]:
    """The latent of the event zero, and the Jacobian there."""
    encode, zero = functools.partial(flow.encode, params), jnp.zeros(flow.event_shape)
    return encode(zero), jax.jacfwd(encode)(zero)


def conditional_of(
    mean: np.ndarray, covariance: np.ndarray, observed: np.ndarray, values: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of the hidden entries given the observed ones, by the Schur complement."""
    hidden = ~observed
    gain = np.linalg.solve(covariance[np.ix_(observed, observed)], covariance[np.ix_(observed, hidden)]).T
    centre = mean[hidden] + gain @ (values[observed] - mean[observed])
    return centre, covariance[np.ix_(hidden, hidden)] - gain @ covariance[np.ix_(observed, hidden)]


def moons(key: jax.Array, count: int) -> jax.Array:
    """Two noisy half circles, (count, 2)."""
    k_angle, k_side, k_noise = jax.random.split(key, 3)
    angle = jnp.pi * jax.random.uniform(k_angle, (count,))
    side = jax.random.bernoulli(k_side, 0.5, (count,))
    upper = jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=1)
    lower = jnp.stack([1 - jnp.cos(angle), 0.5 - jnp.sin(angle)], axis=1)
    return jnp.where(side[:, None], upper, lower) + 0.15 * jax.random.normal(k_noise, (count, 2))


def plane_flow(seed: int, *, steps: int = 1500) -> tuple[flows.Flow, Any]:
    """A 2-D residual flow trained on `moons` by exact maximum likelihood: its conditionals are bent and can have two modes."""
    flow = flows.residual(event_shape=(2,), blocks=8, hidden=32, coeff=0.9)
    return flow, trained_on_moons(flow, seed, steps=steps)


def trained_on_moons(flow: flows.Flow, seed: int, *, steps: int) -> Any:
    """Parameters of a 2-D flow after so many steps of exact maximum likelihood on `moons`."""
    key = jax.random.key(seed)
    params = flow.bijector.fit_to_data(flow.init(key), moons(key, 1000))
    optimizer = optax.adam(optax.cosine_decay_schedule(5e-3, steps))

    def loss(params: Any, k: jax.Array) -> jax.Array:
        y = moons(k, 256)
        values = jax.vmap(lambda t: flow.estimate_log_prob(k, params, t, exact()).value)(y)
        return -jnp.mean(values)

    @jax.jit
    def train(params: Any) -> Any:
        def step(carry: Any, k: jax.Array) -> Any:
            params, state = carry
            updates, state = optimizer.update(jax.grad(loss)(params, k), state)
            return (flow.bijector.constrain(optax.apply_updates(params, updates)), state), None

        return jax.lax.scan(step, (params, optimizer.init(params)), jax.random.split(key, steps))[0][0]

    return train(params)


def matrix_flow(event_shape: tuple[int, ...], seed: int, *, spread: tuple[float, float] = (0.6, 1.4)) -> tuple[flows.Flow, Any]:
    """An affine flow explicit both ways, y = mean + M x with a random M: cheap for methods of many steps.

    Args:
        event_shape: any shape.
        seed: of M and the mean.
        spread: least and largest singular value of M; the further apart, the more the entries of an event tell of each other.
    """
    size = math.prod(event_shape)
    rng = np.random.default_rng(seed)
    rotations = [np.linalg.qr(rng.standard_normal((size, size)))[0] for _ in range(2)]
    matrix = rotations[0] * np.linspace(*spread, size) @ rotations[1]
    arrays = {"mean": 0.5 * rng.standard_normal(size), "matrix": matrix, "inverse": np.linalg.inv(matrix)}
    volume = float(np.linalg.slogdet(matrix)[1])
    return from_functions(
        event_shape=event_shape,
        encode=lambda p, y: (p["inverse"] @ (y.reshape(-1) - p["mean"])).reshape(event_shape),
        decode=lambda p, x: (p["mean"] + p["matrix"] @ x.reshape(-1)).reshape(event_shape),
        log_det=lambda p, y: jnp.full((), -volume, y.dtype),
        params={name: jnp.asarray(value, jnp.result_type(float)) for name, value in arrays.items()},
    )


def measured_of(
    mean: np.ndarray, covariance: np.ndarray, matrix: np.ndarray, sigma: Any, values: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float]:
    """Mean, covariance and log-evidence log p(b) of y ~ N(mean, covariance) given b = A y + sigma e; sigma may be 0."""
    noise = np.diag(np.broadcast_to(np.asarray(sigma, float), matrix.shape[:1]) ** 2)
    spread = matrix @ covariance @ matrix.T + noise
    gain = np.linalg.solve(spread, matrix @ covariance).T
    gap = values - matrix @ mean
    evidence = -0.5 * gap @ np.linalg.solve(spread, gap) - 0.5 * np.linalg.slogdet(2 * np.pi * spread)[1]
    return mean + gain @ gap, covariance - gain @ matrix @ covariance, float(evidence)


def bent_mixture() -> Mixture:
    """Three Gaussians in the plane whose conditionals have up to three modes."""
    factors = np.array([[[0.5, 0.0], [0.3, 0.4]], [[0.4, 0.0], [-0.2, 0.5]], [[0.7, 0.0], [0.0, 0.3]]])
    return Mixture(np.array([0.4, 0.35, 0.25]), np.array([[-1.0, -0.6], [0.9, 0.7], [0.2, -1.4]]), factors)


class Mixture(NamedTuple):
    """A mixture of Gaussians in the plane.

    Attributes:
        weights: (k,), adding up to one.
        means: (k, 2).
        factors: (k, 2, 2), lower triangular, the covariances being factor factor^T.
    """

    weights: np.ndarray
    means: np.ndarray
    factors: np.ndarray

    def sample(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """(count, 2) events."""
        component = rng.choice(len(self.weights), count, p=self.weights)
        normals = rng.standard_normal((count, 2))
        return self.means[component] + np.einsum("nij,nj->ni", self.factors[component], normals)

    def log_density(self, points: np.ndarray) -> np.ndarray:
        """log p of points (..., 2)."""
        centred = points[..., None, :] - self.means
        first = centred[..., 0] / self.factors[:, 0, 0]
        second = (centred[..., 1] - self.factors[:, 1, 0] * first) / self.factors[:, 1, 1]
        log_scale = np.log(self.factors[:, 0, 0] * self.factors[:, 1, 1])
        terms = np.log(self.weights) - 0.5 * (first**2 + second**2) - log_scale - np.log(2 * np.pi)
        return np.logaddexp.reduce(terms, axis=-1)


def mixture_flow(mixture: Mixture) -> tuple[flows.Flow, Any]:
    """The flow that transports a mixture exactly to a standard normal, entry by entry (Rosenblatt 1952).

        x_1 = Phi^-1(F(y_1)),   x_2 = Phi^-1(F(y_2 | y_1))

    F being distribution functions of mixtures in one dimension, explicit; y is found from x by Newton's method.
    """

    def normal_score(log_weights: jax.Array, z: jax.Array) -> jax.Array:
        # the tail that is at most one half, so that neither end is rounded away
        lower, upper = (jax.nn.logsumexp(log_weights + jax.scipy.special.log_ndtr(side)) for side in (z, -z))
        score = jax.scipy.special.ndtri(jnp.exp(jnp.minimum(lower, upper)))
        return jnp.where(lower < upper, score, -score)

    def encode(params: Mixture, y: jax.Array) -> jax.Array:
        log_weights = jnp.log(params.weights)
        first = (y[0] - params.means[:, 0]) / params.factors[:, 0, 0]
        second = (y[1] - params.means[:, 1] - params.factors[:, 1, 0] * first) / params.factors[:, 1, 1]
        given = jax.nn.log_softmax(log_weights - 0.5 * first**2 - jnp.log(params.factors[:, 0, 0]))
        return jnp.stack([normal_score(log_weights, first), normal_score(given, second)])

    params = jax.tree.map(jnp.asarray, mixture)
    return from_functions((2,), encode, params=jax.tree.map(lambda leaf: leaf.astype(jnp.result_type(float)), params))
