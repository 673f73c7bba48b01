"""Our residual flow against `normflows` (PyTorch): the same architecture, weights, machine, batches and estimators.

    python -m benchmarks.residual_flow_peers                               # two minutes; needs the extra "bench"
    python -m benchmarks.residual_flow_peers --quick --output-dir /tmp/quick

The eight residual blocks of the shipped digits flow (64-128-64, CLipSwish, Lipschitz bound 0.949 each) are copied into
theirs, and both do the same work on the same digits in turn, one repetition of each after the other. Tasks:

log_density    log p of a batch, both by the unbiased series of 21 terms and a geometric number more
inverse        latent to data, each by its own fixed-point iteration at its own default tolerance
training_step  8-term series with the Neumann gradient, Adam, 3 power iterations an operator

``ms`` is the median wall time of a call, compilation apart. ``error_max`` is the largest error: of log_density against the
exact value in nats, its noise included (our probes are signs, theirs normal; theirs share one number of terms in a batch);
of inverse max |g(y) - x| with g evaluated in float32 (float64 beside it); of training_step the distance from the reported
loss to the exact one, in nats a dimension.

Both libraries get the cores this process may use. On a machine busy with other work give them one (taskset -c 0): the
threads of PyTorch wait for each other there, and the comparison would flatter us.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.results_file import RESULTS, Row, write_results
from benchmarks.train_digits_flow import MODEL, NOISE
from jaxflows.bijectors.actnorm import actnorm
from jaxflows.bijectors.chain import scan_chain
from jaxflows.bijectors.residual import residual_dense
from jaxflows.flows import Flow, flow_of
from jaxflows.lipschitz.networks import POWER_STEPS
from jaxflows.lipschitz.spectral_norm import dense_norm
from jaxflows.log_det.estimators import power_series, russian_roulette
from jaxflows.persistence import load
from jaxflows.training.step import TrainState, negative_log_likelihood, training_step

COEFF = 0.95
BLOCK = residual_dense(hidden=(128,), activation="clipswish", coeff=COEFF)
TERMS = 8
# theirs in evaluation: 20 terms and n more, n geometric from 1 with p = 1/2
EXACT_TERMS, CONTINUATION = 21, 0.5
LEARNING_RATE = 1e-3


class Contender(NamedTuple):
    """One library at one task: what to time, how long it compiled, and the errors of a result (`run`'s own value)."""

    library: str
    run: Callable[[], Any]
    compile_seconds: float
    errors: Callable[[Any], Row]


def shipped_blocks(depth: int) -> tuple[Flow, Any, np.ndarray]:
    """The first ``depth`` residual blocks of the shipped flow, their parameters, and digits (1797, 64) as they meet them.

    The flow's affine layer, one shift and one scale for all pixels, is applied to the digits beforehand.
    """
    from sklearn.datasets import load_digits

    whole, (affine, stack), _ = load(MODEL)
    pixels = load_digits().data.astype(np.float32) / 16.0
    noisy = pixels + NOISE * np.random.default_rng(0).standard_normal(pixels.shape).astype(np.float32)
    data = jax.vmap(actnorm(over="event").transform, (None, 0))(affine, noisy)
    flow = flow_of(whole.event_shape, scan_chain(BLOCK, depth))
    return flow, jax.tree.map(lambda leaf: leaf[:depth], stack), np.asarray(data)


def start_of_training(params: Any) -> TrainState:
    """A fresh state; its arrays are copies, because a training step donates them."""
    fresh = jax.tree.map(jnp.array, params)
    return TrainState(fresh, optax.adam(LEARNING_RATE).init(fresh), jax.tree.map(jnp.array, params), None)


def our_step(flow: Flow, seed: int) -> Callable[..., Any]:
    """Our jitted training step."""
    loss = negative_log_likelihood(flow, power_series(terms=TERMS), None)
    return training_step(flow, loss, optax.adam(LEARNING_RATE), None, jax.random.key(seed), 0.99)


def block_norms(params: Any, y: np.ndarray) -> float:
    """The largest norm of a block's Jacobian dh/du met on the way of the events y."""

    def norms(y: jax.Array) -> jax.Array:
        def block(u: jax.Array, p: Any) -> tuple[jax.Array, jax.Array]:
            jacobian = jax.jacfwd(lambda t: BLOCK.transform(p, t) - t)(u)
            return BLOCK.transform(p, u), dense_norm(jacobian)

        return jax.lax.scan(block, y, params)[1]

    return float(jnp.max(jax.lax.map(norms, jnp.asarray(y))))


def in_float64(function: Callable[..., jax.Array], params: Any, batch: np.ndarray) -> np.ndarray:
    """``function(params, row)`` of every row, computed in float64."""
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), jnp.float64), params)
        return np.asarray(jax.jit(jax.vmap(function, (None, 0)))(wide, jnp.asarray(batch, jnp.float64)))


def compiled(function: Callable[..., Any], *arguments: Any) -> tuple[Callable[..., Any], float]:
    """The jitted function compiled for these arguments, and the seconds that took."""
    began = time.perf_counter()
    program = jax.jit(function).lower(*arguments).compile()
    return program, time.perf_counter() - began


def density_task(flow: Flow, params: Any, model: Any, y: np.ndarray, seed: int) -> list[Contender]:
    """log p of a batch, by the same estimator."""
    from benchmarks import normflows_peer

    estimator = russian_roulette(exact_terms=EXACT_TERMS, continuation=CONTINUATION)
    truth = in_float64(flow.log_prob, params, y)

    def ours(key: jax.Array, params: Any, y: jax.Array) -> jax.Array:
        keys = jax.random.split(key, len(y))
        return jax.vmap(lambda k, t: flow.estimate_log_prob(k, params, t, estimator).value)(keys, y)

    key, batch = jax.random.key(seed), jnp.asarray(y)
    program, seconds = compiled(ours, key, params, batch)
    exact, exact_seconds = compiled(jax.vmap(flow.log_prob, (None, 0)), params, batch)

    def errors(values: Any) -> Row:
        return {"error_max": float(np.max(np.abs(np.asarray(values) - truth)))}

    return [
        Contender("normflows", normflows_peer.log_density(model, y), 0.0, errors),
        Contender("jaxflows", lambda: jax.block_until_ready(program(key, params, batch)), seconds, errors),
        Contender("jaxflows, exact", lambda: jax.block_until_ready(exact(params, batch)), exact_seconds, errors),
    ]


def inverse_task(flow: Flow, params: Any, model: Any, y: np.ndarray, seed: int) -> list[Contender]:
    """The batch's latents back to data, by each library's own stopping rule."""
    from benchmarks import normflows_peer

    del seed
    x = np.array(jax.jit(jax.vmap(flow.encode, (None, 0)))(params, y))
    program, seconds = compiled(jax.vmap(lambda p, t: flow.decode(p, t)[0], (None, 0)), params, jnp.asarray(x))
    latent = jnp.asarray(x)
    encode = jax.jit(jax.vmap(flow.encode, (None, 0)))

    def errors(found: Any) -> Row:
        single = np.asarray(encode(params, jnp.asarray(found)))
        double = in_float64(flow.encode, params, np.asarray(found))
        return {
            "error_max": float(np.max(np.abs(single - x))),
            "error_max_float64": float(np.max(np.abs(double - x))),
        }

    return [
        Contender("normflows", normflows_peer.inverse(model, x), 0.0, errors),
        Contender("jaxflows", lambda: jax.block_until_ready(program(params, latent)), seconds, errors),
    ]


def training_task(flow: Flow, params: Any, model: Any, y: np.ndarray, seed: int) -> list[Contender]:
    """One optimiser step; the weights move on from repetition to repetition in both."""
    from benchmarks import normflows_peer

    state = start_of_training(params)
    number, position, batch = jnp.asarray(0), jnp.asarray(0.0), jnp.asarray(y)
    began = time.perf_counter()
    program = our_step(flow, seed).lower(state, batch, number, position).compile()
    seconds = time.perf_counter() - began

    def ours() -> float:
        nonlocal state
        state, loss = program(state, batch, number, position)
        return float(loss)

    def errors(loss: Any) -> Row:
        exact = -float(np.mean(in_float64(flow.log_prob, params, y))) / flow.size
        return {"error_max": abs(loss - exact)}

    step = normflows_peer.training_step(model, y, learning_rate=LEARNING_RATE, power_steps=POWER_STEPS)
    return [
        Contender("normflows", lambda: step() / flow.size, 0.0, errors),
        Contender("jaxflows", ours, seconds, errors),
    ]


TASKS = {"log_density": density_task, "inverse": inverse_task, "training_step": training_task}


def race(contenders: Sequence[Contender], repeats: int) -> list[Row]:
    """Median milliseconds of each contender, one repetition of each in turn, after a first call that gives the errors.

    The order changes from turn to turn: who comes after PyTorch waits for a core on which its threads still spin.
    """
    rows = [{"library": c.library, **c.errors(c.run())} for c in contenders]
    times: list[list[float]] = [[] for _ in contenders]
    rng = np.random.default_rng(0)
    for _ in range(repeats):
        for turn in rng.permutation(len(contenders)):
            began = time.perf_counter()
            contenders[turn].run()
            times[turn].append(1e3 * (time.perf_counter() - began))
    for row, seen, contender in zip(rows, times, contenders, strict=True):
        row |= {"ms": statistics.median(seen), "ms_min": min(seen), "compile_seconds": contender.compile_seconds}
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Copy the weights, race, write."""
    parser = argparse.ArgumentParser(prog="benchmarks.residual_flow_peers", description=__doc__.split("\n")[0])
    parser.add_argument("--batches", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--depth", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output-dir", type=Path, default=RESULTS)
    parser.add_argument("--quick", action="store_true", help="2 blocks, 16 rows, 3 repetitions; put it elsewhere")
    options = parser.parse_args(arguments)
    if options.quick:
        options.depth, options.batches, options.repeats = 2, [16], 3

    import torch

    from benchmarks.normflows_peer import encode, peer_flow
    from benchmarks.results_file import environment

    torch.set_num_threads(environment(seeds=[])["cores"])
    torch.manual_seed(options.seed)
    np.random.seed(options.seed)  # noqa: NPY002 - normflows draws its number of terms from the global generator
    jax.config.update("jax_enable_compilation_cache", False)
    flow, params, data = shipped_blocks(options.depth)
    lipschitz = block_norms(params, data[:64])
    rows = []
    for batch in options.batches:
        y = data[:batch]
        for name, task in TASKS.items():
            model = peer_flow(params, coeff=COEFF, terms=TERMS)
            apart = np.max(np.abs(encode(model, y) - jax.vmap(flow.encode, (None, 0))(params, y)))
            if not apart < 1e-4:
                raise RuntimeError(f"expected both libraries to encode alike; got values {apart:.1e} apart")
            for row in race(task(flow, params, model, y, options.seed), options.repeats):
                ours = {"task": name, **row, "batch": batch, "d": flow.size, "dtype": "float32"}
                rows.append(ours | {"blocks": options.depth, "lipschitz": lipschitz})
    write_results("residual_flow_peers", rows, seeds=[options.seed], directory=options.output_dir)


if __name__ == "__main__":
    main()
