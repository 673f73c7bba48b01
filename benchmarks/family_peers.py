"""Our coupling, spline, Glow and continuous flows against other libraries: the same architecture, machine and batches.

    python -m benchmarks.family_peers                              # a quarter of an hour; needs the extras "bench" and "peers"
    python -m benchmarks.family_peers --families spline            # one family; the others keep their rows
    python -m benchmarks.family_peers --quick --output-dir /tmp/quick

Each contender of a row has as many couplings, conditioners of as many matrices of the same width, SiLU between them, and
within 2 % as many parameters (``parameters``). Who is there, and who is not:

realnvp     8 affine couplings, d = 64: flowjax, distrax, zuko, normflows
spline      6 rational-quadratic couplings of 8 bins, d = 8: the same four
glow        2 scales of 4 steps, 8x8 images: normflows; the others have no 1x1 convolutions and no multi-scale flow
continuous  one network of two hidden layers, d = 8: zuko; the others have no continuous flow

Where a library has conditioners of its own they are used: residual networks in normflows (each block two matrices, as ours),
multilayer perceptrons of as many matrices in flowjax and zuko. distrax has none and gets ours, and its layers are a Python
loop, as in its examples. flowjax puts a permutation behind every coupling and two more numbers an entry into a spline.
zuko's ODE solver is adaptive, at its default tolerances, where ours takes steps on a grid: ``evaluations`` of the velocity
are counted.

Tasks: log_density of a batch (exact), sample of as many events, training_step by maximum likelihood with Adam, without our
trainer's extras; continuous flows train on one probe for the trace, as FFJORD. ``ms`` is the median wall time of a call, one
call of each library in turn, in another order every turn; compilation is apart. Both sorts of library get the cores this
process may use; see `benchmarks.residual_flow_peers` for machines that are busy.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.residual_flow_peers import Contender, compiled, race
from benchmarks.results_file import RESULTS, Row, environment, read_rows, write_results
from jaxflows import flows
from jaxflows.log_det.estimators import power_series
from jaxflows.networks.residual_network import ResidualNetwork

LEARNING_RATE = 1e-3
TASKS = ("log_density", "sample", "training_step")
# how far apart parameter counts may be
ALIKE = 0.02


class Sizes(NamedTuple):
    """An architecture: a size, or a side of square images, couplings (Glow: steps a scale), and the conditioner's."""

    size: int
    layers: int
    hidden: int
    blocks: int
    bins: int = 8
    # half the interval of a spline, and the largest |log-scale| of an affine coupling
    interval: float = 4.0
    bound: float = 2.0


FULL = {
    "realnvp": Sizes(64, 8, 128, 2),
    "spline": Sizes(8, 6, 128, 2),
    "glow": Sizes(8, 4, 32, 1),
    "continuous": Sizes(8, 1, 64, 1),
}
QUICK = {
    "realnvp": Sizes(8, 2, 64, 1),
    "spline": Sizes(4, 2, 128, 1),
    "glow": Sizes(4, 1, 32, 1),
    "continuous": Sizes(4, 1, 64, 1),
}
SCALES = 2


class JaxFlow(NamedTuple):
    """A flow of a JAX library as pure functions.

    Attributes:
        params: arrays that are trained.
        log_prob: ``(params, y (n, *event)) -> (n,)``.
        sample: ``(key, params, n) -> (n, *event)``.
        loss: ``(key, params, y) -> number``, what a training step goes down.
    """

    params: Any
    log_prob: Callable[[Any, jax.Array], jax.Array]
    sample: Callable[[jax.Array, Any, int], jax.Array]
    loss: Callable[[jax.Array, Any, jax.Array], jax.Array]


def by_density(
    params: Any, log_prob: Callable[[Any, jax.Array], jax.Array], sample: Callable[[jax.Array, Any, int], jax.Array]
) -> JaxFlow:
    """A flow trained on its exact density."""
    return JaxFlow(params, log_prob, sample, lambda key, params, y: -jnp.mean(log_prob(params, y)))


def ours(family: str, sizes: Sizes) -> JaxFlow:
    """The flow of this library."""
    options: dict[str, Any] = {"hidden": sizes.hidden, "blocks": sizes.blocks}
    couplings = options | {"event_shape": (sizes.size,), "layers": sizes.layers, "split": "half"}
    flow = {
        "realnvp": lambda: flows.realnvp(**couplings, bound=sizes.bound),
        "spline": lambda: flows.neural_spline(**couplings, bins=sizes.bins, bound=sizes.interval),
        "glow": lambda: flows.glow(**options, event_shape=(sizes.size, sizes.size, 1), scales=SCALES, steps=sizes.layers),
        "continuous": lambda: flows.continuous(event_shape=(sizes.size,), hidden=(sizes.hidden,) * 2),
    }[family]()
    made = by_density(
        flow.init(jax.random.key(0)), jax.vmap(flow.log_prob, (None, 0)), lambda key, p, n: flow.sample(key, p, n)
    )
    if family != "continuous":
        return made

    def loss(key: jax.Array, params: Any, y: jax.Array) -> jax.Array:
        keys = jax.random.split(key, len(y))
        return -jnp.mean(jax.vmap(lambda k, t: flow.estimate_log_prob(k, params, t, power_series()).value)(keys, y))

    return made._replace(loss=loss)


def flowjax_flow(family: str, sizes: Sizes) -> JaxFlow:
    """Couplings of halves, each behind a permutation."""
    import equinox as eqx
    from flowjax.bijections import RationalQuadraticSpline
    from flowjax.distributions import StandardNormal
    from flowjax.flows import coupling_flow

    # a spline of theirs has one bin more than inner knots
    spline = RationalQuadraticSpline(knots=sizes.bins - 1, interval=sizes.interval) if family == "spline" else None
    distribution = coupling_flow(
        jax.random.key(0), base_dist=StandardNormal((sizes.size,)), transformer=spline, flow_layers=sizes.layers,
        nn_width=sizes.hidden, nn_depth=2 * sizes.blocks + 1, nn_activation=jax.nn.silu,
    )  # fmt: skip
    params, static = eqx.partition(distribution, eqx.is_inexact_array)
    return by_density(
        params,
        lambda p, y: eqx.combine(p, static).log_prob(y),
        lambda key, p, n: eqx.combine(p, static).sample(key, (n,)),
    )


def distrax_flow(family: str, sizes: Sizes) -> JaxFlow:
    """Couplings of alternating halves around our residual networks."""
    import distrax

    half = sizes.size // 2
    numbers = 3 * sizes.bins - 1 if family == "spline" else 2
    network = ResidualNetwork(half * numbers, sizes.hidden, sizes.blocks, spatial=False)
    keys = jax.random.split(jax.random.key(0), sizes.layers)
    params = [network.init(key, jnp.zeros(half)) for key in keys]

    def inner(numbers: jax.Array) -> Any:
        if family == "realnvp":
            log_scale = sizes.bound * jnp.tanh(numbers[..., 1] / sizes.bound)
            return distrax.ScalarAffine(shift=numbers[..., 0], log_scale=log_scale)
        # theirs holds slopes at both ends too, and sets them to one
        ends = jnp.zeros_like(numbers[..., :1])
        sides, slopes = jnp.split(numbers, [2 * sizes.bins], axis=-1)
        padded = jnp.concatenate([sides, ends, slopes, ends], axis=-1)
        return distrax.RationalQuadraticSpline(padded, -sizes.interval, sizes.interval, boundary_slopes="identity")

    def conditioner(p: Any, seen: jax.Array) -> jax.Array:
        output: Any = network.apply(p, seen)
        return output.reshape(*seen.shape[:-1], half, numbers)

    def distribution(params: Any) -> Any:
        layers = [
            distrax.SplitCoupling(half, 1, functools.partial(conditioner, p), inner, swap=i % 2 == 1)
            for i, p in enumerate(params)
        ]
        # explicit from data to latent, as ours
        base = distrax.MultivariateNormalDiag(jnp.zeros(sizes.size), jnp.ones(sizes.size))
        return distrax.Transformed(base, distrax.Inverse(distrax.Chain(layers[::-1])))

    return by_density(
        params, lambda p, y: distribution(p).log_prob(y), lambda key, p, n: distribution(p).sample(seed=key, sample_shape=(n,))
    )


JAX_PEERS = {"flowjax": flowjax_flow, "distrax": distrax_flow}


def torch_flows(family: str, sizes: Sizes) -> dict[str, Any]:
    """The flows of the PyTorch libraries, by library."""
    from benchmarks import torch_families as peers

    network = (sizes.hidden, sizes.blocks)
    if family == "realnvp":
        return {
            "zuko": peers.zuko_coupling(sizes.size, sizes.layers, *network, None),
            "normflows": peers.normflows_realnvp(sizes.size, sizes.layers, *network),
        }
    if family == "spline":
        return {
            "zuko": peers.zuko_coupling(sizes.size, sizes.layers, *network, sizes.bins),
            "normflows": peers.normflows_spline(sizes.size, sizes.layers, *network, sizes.bins, sizes.interval),
        }
    if family == "glow":
        return {"normflows": peers.normflows_glow(sizes.size, SCALES, sizes.layers, *network)}
    return {"zuko": peers.zuko_continuous(sizes.size, (sizes.hidden,) * 2)}


def jax_contenders(library: str, made: JaxFlow, y: np.ndarray, notes: Row) -> Iterator[Contender]:
    """A contender a task, in the order of `TASKS`, compiled."""
    batch, key = jnp.asarray(y), jax.random.key(1)
    optimizer = optax.adam(LEARNING_RATE)
    state = (made.params, optimizer.init(made.params))

    def step(state: Any, key: jax.Array, y: jax.Array) -> Any:
        params, moments = state
        loss, gradient = jax.value_and_grad(lambda p: made.loss(key, p, y))(params)
        updates, moments = optimizer.update(gradient, moments)
        return (optax.apply_updates(params, updates), moments), loss

    def train() -> jax.Array:
        nonlocal state
        state, loss = stepping(state, key, batch)
        return jax.block_until_ready(loss)

    density, density_seconds = compiled(made.log_prob, made.params, batch)
    drawing, drawing_seconds = compiled(lambda k, p: made.sample(k, p, len(y)), key, made.params)
    stepping, stepping_seconds = compiled(step, state, key, batch)
    params = made.params
    yield contender(library, lambda: jax.block_until_ready(density(params, batch)), density_seconds, notes)
    yield contender(library, lambda: jax.block_until_ready(drawing(key, params)), drawing_seconds, notes)
    yield contender(library, train, stepping_seconds, notes)


def contender(library: str, run: Callable[[], Any], compile_seconds: float, notes: Row) -> Contender:
    """A contender that is refused where its result is not finite."""

    def checked(value: Any) -> Row:
        if not np.all(np.isfinite(np.asarray(value))):
            raise RuntimeError(f"expected finite numbers from {library}; got NaN or infinity")
        return notes

    return Contender(library, run, compile_seconds, checked)


def contenders(family: str, sizes: Sizes, y: np.ndarray) -> dict[str, list[Contender]]:
    """Every library's contender, by task; raises RuntimeError where parameter counts are not alike."""
    from benchmarks import torch_families

    made = {"jaxflows": ours(family, sizes)}
    if family in ("realnvp", "spline"):
        made |= {library: make(family, sizes) for library, make in JAX_PEERS.items()}
    counts = {library: sum(leaf.size for leaf in jax.tree.leaves(flow.params)) for library, flow in made.items()}
    others = torch_flows(family, sizes)
    counts |= {library: torch_families.count(model) for library, model in others.items()}
    least, most = min(counts.values()), max(counts.values())
    if most > (1.0 + ALIKE) * least:
        raise RuntimeError(f"expected as many parameters in {family}, within {ALIKE:.0%}; got {counts}")
    # events of an image are (height, width, channels) in ours, channels first in PyTorch
    images = y.reshape(len(y), sizes.size, sizes.size, 1) if family == "glow" else y
    racing: dict[str, list[Contender]] = {task: [] for task in TASKS}
    for library, flow in made.items():
        notes: Row = {"parameters": counts[library]}
        if family == "continuous":
            notes["evaluations"] = flows.continuous(event_shape=(sizes.size,), hidden=(sizes.hidden,) * 2).bijector.blocks
        for task, runner in zip(TASKS, jax_contenders(library, flow, images, notes), strict=True):
            racing[task].append(runner)
    for library, model in others.items():
        batch = np.moveaxis(images, -1, 1).copy() if family == "glow" else y
        for task, run in torch_families.runs(model, batch, learning_rate=LEARNING_RATE).items():
            notes = {"parameters": counts[library]}
            if family == "continuous":
                notes["evaluations"] = torch_families.evaluations(model, run)
            racing[task].append(contender(library, run, 0.0, notes))
    return racing


def main(arguments: Sequence[str] | None = None) -> None:
    """Race every family and write."""
    parser = argparse.ArgumentParser(prog="benchmarks.family_peers", description=__doc__.split("\n")[0])
    parser.add_argument("--families", choices=sorted(FULL), nargs="+", default=list(FULL))
    parser.add_argument("--batches", type=int, nargs="+", default=[64, 512])
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--output-dir", type=Path, default=RESULTS)
    parser.add_argument("--quick", action="store_true", help="small flows, 16 rows, 3 repetitions; put it elsewhere")
    options = parser.parse_args(arguments)
    architectures = FULL
    if options.quick:
        architectures, options.batches, options.repeats = QUICK, [16], 3

    import torch

    torch.set_num_threads(environment(seeds=[])["cores"])
    torch.manual_seed(0)
    jax.config.update("jax_enable_compilation_cache", False)
    earlier = read_rows("family_peers", options.output_dir)
    rows: list[Row] = [row for row in earlier if row["family"] not in options.families]
    began = time.perf_counter()
    for family in options.families:
        sizes = architectures[family]
        event = sizes.size**2 if family == "glow" else sizes.size
        for batch in options.batches:
            y = np.random.default_rng(0).standard_normal((batch, event)).astype(np.float32)
            for task, racing in contenders(family, sizes, y).items():
                for row in race(racing, options.repeats):
                    rows.append({"task": task, "family": family, **row, "batch": batch, "d": event, "dtype": "float32"})
            print(f"{family}, {batch} rows: {time.perf_counter() - began:.0f} seconds so far", flush=True)
    write_results("family_peers", rows, seeds=[0, 1], directory=options.output_dir)


if __name__ == "__main__":
    main()
