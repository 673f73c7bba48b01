"""The pre-generator trained once for all measurements of one kind: a flow of the latent that is told what was measured.

    maximise over theta   E log q_theta( z | c(b, A) ),     y = f(z),   b = A y + sigma e,   e ~ N(0, I)

over pairs of an event and a measurement of it. What it maximises is, but for a constant, minus the mean of
KL( p(z | b) || q(z | b) ) over measurements: at the optimum q is the posterior, in the whole of its support, and no gradient
passes through f or A. Any measurement of the kind is then answered by one pass (zero-shot), with exact importance weights
that tell how well.

c(b, A) is the event A^+ b, standardised entry by entry, and for entries the mask beside it.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxflows.bijectors.base import Params
from jaxflows.bijectors.coupling import context_size, given
from jaxflows.flows import Flow, standard_normal_log_prob
from jaxflows.flows.realnvp_flows import realnvp
from jaxflows.inverse.method import check_positive, refuse_unless_linear
from jaxflows.inverse.noise import Noise, none
from jaxflows.inverse.noisy_measurements import NoisyMeasurement
from jaxflows.observation import LinearMeasurement, is_mask
from jaxflows.progress import progress_bar

# steps between two looks at the loss, the progress bar and an interrupt
_CHUNK = 100
# pairs by which c is standardised
_PAIRS = 1024
_CLIP_NORM = 10.0


class AmortisedPregenerator(NamedTuple):
    """q(z | b) for every measurement b of one kind; `jaxflows.inverse.amortised` makes a method of it.

    Attributes:
        family: a conditional flow of latents, ``flows.realnvp(event_shape=flow.latent_shape, context=...)``; static.
        theta: its parameters.
        centre, spread: (*event,), of A^+ b.
        sigma: () standard deviation of the noise of the measurements; (m,) where those of one operator differ.
        exact: whether it stands for measurements without noise, smoothed by ``sigma``; static.
        operator: the one linear measurement; None for entries, by any mask.
    """

    family: Flow
    theta: Params
    centre: jax.Array
    spread: jax.Array
    sigma: jax.Array
    exact: bool
    operator: LinearMeasurement | None

    def given(self, measurement: NoisyMeasurement) -> Params:
        """The parameters of ``family`` at which it is q(z | b)."""
        assert measurement.linear is not None
        filled = measurement.linear.pseudo_inverse(measurement.values)
        observed = measurement.linear.observation.observed if self.operator is None else None
        return given(self.theta, _context(self.centre, self.spread, filled, observed))

    def refuse(self, flow: Flow, measurement: NoisyMeasurement) -> str | None:
        """Why a measurement is not of the kind it was trained on; None where it is."""
        if self.family.event_shape != flow.latent_shape:
            return f"expected a flow with latents of shape {self.family.event_shape}; got {flow.latent_shape}"
        reason = refuse_unless_linear(measurement)
        if reason is not None:
            return reason
        noise, trained = measurement.noise, np.asarray(self.sigma)
        if self.exact and noise.log_prob is not None:
            return "expected a measurement without noise, as in training; got a noise model"
        if not self.exact and (noise.sigma is None or not np.allclose(noise.sigma, trained, rtol=1e-5)):
            width = "none" if noise.sigma is None else np.asarray(noise.sigma)
            return f"expected Gaussian noise of sigma {trained!s}, as in training; got {width!s}"
        assert measurement.linear is not None
        if self.operator is None:
            one_of_all = is_mask(measurement.linear.observation)
            return None if one_of_all else "expected entries of the event, as in training; got another measurement"
        alike = measures_alike(measurement.linear, flow.event_shape, measures_of_probe(self.operator))
        return None if alike else "expected the linear measurement of the training; got another"


def fit_amortised_pregenerator(
    key: jax.Array,
    flow: Flow,
    params: Params,
    measured: LinearMeasurement | Any,
    *,
    noise: Noise | None = None,
    data: Any = None,
    family: Flow | None = None,
    steps: int = 5000,
    batch_size: int = 256,
    learning_rate: float = 1e-3,
    sigma: float = 0.05,
    progress: bool = True,
) -> tuple[AmortisedPregenerator, np.ndarray]:
    """Train a pre-generator once, to be asked about any measurement of one kind.

    Args:
        key: random key, used once.
        flow, params: the frozen flow.
        measured: the kind: masks (M, *event), True where observed, of which every pair takes one, such as
            ``jaxflows.data.mcar(10_000, event_shape, 0.5)`` or ``jaxflows.data.block``; or one linear measurement.
        noise: `jaxflows.inverse.noise.gaussian`, of one width for masks; None for exact measurements, which are smoothed by
            ``sigma``.
        data: rows (N, *event) that events are drawn from; draws of the flow when None, of which there is no end. A draw whose
            decode does not converge is left out.
        family: a conditional flow over arrays of the latent's shape, with a context of 2 d entries (d for one operator);
            six affine couplings when None.
        steps, batch_size: of Adam, and pairs a step.
        learning_rate: its peak, falling to 0 as a cosine.
        sigma: smoothing of measurements without noise.
        progress: show a bar.

    Returns:
        The pre-generator, and -log q of every step's batch in nats, (steps,): the mean entropy of the posteriors at the best.

    Raises:
        ValueError: masks that are not boolean or of another shape, a mask with nothing observed, another noise model, rows or
            a family of another shape, options out of range.
        FloatingPointError: a loss that is not finite.

    Cost: ``steps`` x ``batch_size`` decodes of the flow without gradients, or encodes of rows, and twice as many passes of
    ``family``.

    Example:
        >>> masks = jaxflows.data.mcar(10_000, flow.event_shape, 0.5)
        >>> model, losses = jaxflows.inverse.fit_amortised_pregenerator(key, flow, params, masks)
        >>> reading = jaxflows.inverse.noisy_measurement(jaxflows.measurements.entries(observed), row[observed])
        >>> jaxflows.infer(key, flow, params, reading, method=jaxflows.inverse.amortised(model)).samples
    """
    check_positive(steps=steps, batch_size=batch_size, learning_rate=learning_rate, sigma=sigma)
    operator, masks = _kind(flow, measured)
    noise = none() if noise is None else noise
    exact = noise.log_prob is None
    if not exact and noise.sigma is None:
        raise ValueError("expected no noise, or Gaussian noise; got another noise model")
    if noise.sigma is not None and noise.sigma.shape not in ((), *([] if operator is None else [_measures(operator)])):
        raise ValueError(f"expected one sigma, or one a measurement of an operator; got {noise.sigma.size}")
    width = jnp.asarray(sigma, jnp.result_type(float)) if noise.sigma is None else noise.sigma
    size = flow.size if operator is not None else 2 * flow.size
    family = _couplings(flow, size) if family is None else _checked(family, flow, size)
    rows = None if data is None else _rows(data, flow)
    k_init, k_scale, k_steps = jax.random.split(key, 3)
    source = _Source(params, rows, masks, operator, width)
    whole = source._replace(masks=None if masks is None else jnp.ones_like(masks[:1]))
    filled = _pairs(flow, _PAIRS, k_scale, whole).filled
    spread = jnp.std(filled, axis=0)
    centre, spread = jnp.mean(filled, axis=0), jnp.where(spread > 1e-6 * jnp.max(spread), spread, 1.0)
    theta = jax.jit(family.init)(k_init)
    optimizer = _optimizer(steps, learning_rate)
    state = (theta, optimizer.init(theta), jnp.zeros(steps, width.dtype))
    with progress_bar(steps, description="fit pre-generator", show=progress) as bar:
        for start in range(0, steps, _CHUNK):
            stop = min(start + _CHUNK, steps)
            state = _advance(
                flow, family, batch_size, steps, learning_rate, state, start, stop, k_steps, source, (centre, spread)
            )
            loss = float(state[2][stop - 1])
            if not np.isfinite(loss):
                raise FloatingPointError(f"the loss is {loss} after {stop} steps: a likely cause is a learning rate too high")
            bar.update(stop - start)
            bar.set_postfix_str(f"loss {loss:.3f}")
    return AmortisedPregenerator(family, state[0], centre, spread, width, exact, operator), np.asarray(state[2])


class _Source(NamedTuple):
    """What pairs are drawn from."""

    params: Params
    rows: jax.Array | None
    masks: jax.Array | None
    operator: LinearMeasurement | None
    sigma: jax.Array


class _Pairs(NamedTuple):
    """Latents, A^+ b, the masks, and whether the latents' events were found."""

    z: jax.Array
    filled: jax.Array
    observed: jax.Array | None
    sound: jax.Array


@functools.partial(jax.jit, static_argnums=(0, 1))
def _pairs(flow: Flow, count: int, key: jax.Array, source: _Source) -> _Pairs:
    """``count`` pairs, every leaf with a leading axis."""

    def pair(k: jax.Array) -> _Pairs:
        k_event, k_mask, k_noise = jax.random.split(k, 3)
        if source.rows is None:
            z = jax.random.normal(k_event, flow.latent_shape, source.sigma.dtype)
            y, info = flow.decode(source.params, z)
            sound = info.converged
            y = jnp.where(sound, y, 0.0)
        else:
            y = source.rows[jax.random.randint(k_event, (), 0, len(source.rows))]
            z, sound = flow.encode(source.params, y), jnp.ones((), bool)
        if source.operator is not None:
            clean = source.operator.measure(y)
            b = clean + source.sigma * jax.random.normal(k_noise, clean.shape, clean.dtype)
            return _Pairs(z, source.operator.pseudo_inverse(b), None, sound)
        assert source.masks is not None
        observed = source.masks[jax.random.randint(k_mask, (), 0, len(source.masks))]
        b = y + source.sigma * jax.random.normal(k_noise, y.shape, y.dtype)
        return _Pairs(z, jnp.where(observed, b, 0.0), observed, sound)

    return jax.vmap(pair)(jax.random.split(key, count))


def _context(centre: jax.Array, spread: jax.Array, filled: jax.Array, observed: jax.Array | None) -> jax.Array:
    """c(b, A), flat."""
    standard = (filled - centre) / spread
    if observed is None:
        return standard.reshape(-1)
    return jnp.concatenate([jnp.where(observed, standard, 0.0).reshape(-1), observed.reshape(-1).astype(standard.dtype)])


@functools.cache
def _optimizer(steps: int, learning_rate: float) -> optax.GradientTransformation:
    rate = optax.cosine_decay_schedule(learning_rate, steps)
    return optax.chain(optax.clip_by_global_norm(_CLIP_NORM), optax.adam(rate))


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3, 4))
def _advance(
    flow: Flow, family: Flow, batch_size: int, steps: int, learning_rate: float, state: Any, start: int, stop: int,
    key: jax.Array, source: _Source, scale: tuple[jax.Array, jax.Array],
) -> Any:  # fmt: skip
    """Steps ``start`` to ``stop`` of ``(theta, optimizer's memory, losses)``."""
    optimizer = _optimizer(steps, learning_rate)

    def loss(theta: Params, pairs: _Pairs) -> jax.Array:
        def log_q(z: jax.Array, filled: jax.Array, observed: jax.Array | None) -> jax.Array:
            eps, log_det = family.bijector.forward(given(theta, _context(*scale, filled, observed)), z)
            return standard_normal_log_prob(eps) + log_det

        values = jax.vmap(log_q)(pairs.z, pairs.filled, pairs.observed)
        return -jnp.sum(jnp.where(pairs.sound, values, 0.0)) / jnp.maximum(jnp.sum(pairs.sound), 1)

    def step(number: jax.Array, state: Any) -> Any:
        theta, memory, losses = state
        pairs = _pairs(flow, batch_size, jax.random.fold_in(key, number), source)
        value, gradient = jax.value_and_grad(loss)(theta, pairs)
        updates, memory = optimizer.update(gradient, memory, theta)
        return optax.apply_updates(theta, updates), memory, losses.at[number].set(value)

    return jax.lax.fori_loop(start, stop, step, state)


def _couplings(flow: Flow, context: int) -> Flow:
    hidden = min(256, max(64, 4 * flow.size))
    return realnvp(event_shape=flow.latent_shape, layers=6, hidden=hidden, blocks=1, context=context)


def _checked(family: Flow, flow: Flow, size: int) -> Flow:
    if family.event_shape != flow.latent_shape:
        raise ValueError(
            f"expected a family of flows over arrays of shape {flow.latent_shape}; got one over {family.event_shape}"
        )
    own = context_size(jax.eval_shape(family.init, jax.random.key(0)))
    if own != size:
        raise ValueError(f"expected a conditional family with a context of {size} entries; got {own}")
    return family


def _kind(flow: Flow, measured: Any) -> tuple[LinearMeasurement | None, jax.Array | None]:
    """The operator or the masks."""
    if isinstance(measured, LinearMeasurement):
        shape = measured.observation.observed.shape
        if shape != flow.event_shape:
            raise ValueError(f"expected a measurement of events of shape {flow.event_shape}; got one of {shape}")
        return measured, None
    masks = np.asarray(measured)
    if masks.dtype != bool or masks.shape[1:] != flow.event_shape or not len(masks):
        raise ValueError(
            f"expected a linear measurement, or boolean masks of shape (M, {', '.join(map(str, flow.event_shape))}); "
            f"got {masks.dtype} of shape {masks.shape}"
        )
    seen = masks.reshape(len(masks), -1).any(axis=1)
    if not seen.all():
        raise ValueError(f"expected at least one observed entry a mask; got none in mask {int(np.argmin(seen))}")
    return None, jnp.asarray(masks)


def _measures(operator: LinearMeasurement) -> tuple[int]:
    return (int(np.sum(operator.observation.observed)),)


def _rows(data: Any, flow: Flow) -> jax.Array:
    rows = jnp.asarray(data, jnp.result_type(float))
    if rows.shape[1:] != flow.event_shape or not len(rows) or not bool(jnp.all(jnp.isfinite(rows))):
        raise ValueError(f"expected finite rows of events of shape {flow.event_shape}; got an array of shape {rows.shape}")
    return rows


def measures_of_probe(operator: LinearMeasurement) -> np.ndarray:
    """What an operator makes of one random event, by which it is known again, (m,)."""
    shape = operator.observation.observed.shape
    probe = np.random.default_rng(0).standard_normal(shape)
    return np.asarray(operator.measure(jnp.asarray(probe, jnp.result_type(float))))


def measures_alike(operator: LinearMeasurement, shape: tuple[int, ...], measures: np.ndarray) -> bool:
    """Whether an operator takes events of this shape and makes the same of the random event."""
    if operator.observation.observed.shape != shape:
        return False
    seen = measures_of_probe(operator)
    return seen.shape == measures.shape and np.allclose(seen, measures, rtol=1e-3, atol=1e-4 * np.max(np.abs(measures)))
