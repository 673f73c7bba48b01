"""Every constraint solver on the shipped flows: block evaluations, convergence, residuals and time.

    python -m benchmarks.constraint_solve                     # the digits, MNIST, depth and float64 rows
    python -m benchmarks.constraint_solve --quick             # eight problems a row, the digits alone, nothing shipped

Each row solves problems with x_hidden from the prior and observations of test digits, in one `vmap`. Algorithm 2 of
IVCNF stands in three rows: its published schedule, its best constant mixing and its Anderson-accelerated form, each with
the best of several mixings and inner inversions, chosen first by convergence and then by evaluations (``setting`` says
which; on events of at most 64 entries chosen row by row, on larger ones once for masks and once for linear measurements).
Inner inversions looser than 1e-5 are left out: at 1e-4 and 1e-3 Algorithm 2 leaves from a fifth to all problems unsolved.
Evaluations count one residual network once and a JVP or VJP twice. Models that are not there are left out, and said so.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.constraint_summary import summarise
from benchmarks.results_file import RESULTS, Row, read_rows, write_results
from jaxflows import flows, persistence
from jaxflows.data.digits_sample import load_digits_sample
from jaxflows.data.masks import named_mask
from jaxflows.flows import Flow
from jaxflows.observation import Observation, linear, mask
from jaxflows.persistence.atomic_write import atomic_write
from jaxflows.solvers.alternating import alternating
from jaxflows.solvers.boundary_sweep import boundary_sweep
from jaxflows.solvers.broyden import broyden
from jaxflows.solvers.equation import ConstraintSolver
from jaxflows.solvers.newton_krylov import newton_krylov
from jaxflows.solvers.robust import robust
from jaxflows.training.fit import fit

MODELS = Path(__file__).parents[1] / "jaxflows" / "data" / "models"
NOISE = 0.05
SEED = 0
MISSING = (0.1, 0.3, 0.5, 0.7, 0.9)
DEPTHS = (8, 16, 32, 64)
# None is Flow.decode, cold at its own tolerance; numbers are warm-started inversions
INNER_TOLERANCES = (None, 1e-5)


class Problem(NamedTuple):
    """One row's problems: a name, a batch of observations and whether they are masks."""

    name: str
    observations: Observation
    masked: bool


def digits() -> np.ndarray:
    """The 8x8 digits of UCI, (1797, 8, 8) in [0, 1], shuffled as for training; the last ones were not trained on."""
    from sklearn.datasets import load_digits

    return np.random.default_rng(0).permutation(load_digits().data).reshape(-1, 8, 8) / 16.0


def noisy(key: jax.Array, batch: jax.Array) -> jax.Array:
    """Pixels plus N(0, 0.05^2), as the flows were trained."""
    return batch + NOISE * jax.random.normal(key, batch.shape)


def problems(flow: Flow, count: int) -> Iterator[Problem]:
    """Masks, each example its own; then linear measurements, Gaussian ones and 2x2 average pooling."""
    shape, side = flow.event_shape, round(flow.size**0.5)

    def stack(masks: list[np.ndarray]) -> Observation:
        return jax.vmap(mask)(jnp.asarray(np.stack(masks)).reshape(count, *shape))

    def repeat(observation: Observation) -> Observation:
        return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (count, *leaf.shape)), observation)

    for rate in MISSING:
        masks = [named_mask(f"missing:{rate}", (side, side), seed=seed) for seed in range(count)]
        yield Problem(f"mask_{rate:.0%}_missing", stack(masks), True)
    hole = named_mask(f"centre:{max(side // 2, 8) if side > 8 else 4}", (side, side))
    yield Problem("mask_centre_square_missing", stack([hole] * count), True)
    for share in (0.25, 0.75):
        matrix = np.random.default_rng(SEED).standard_normal((int(share * flow.size), flow.size))
        yield Problem(f"gaussian_{share:.0%}_measured", repeat(linear(matrix, shape).observation), False)

    def pool(y: jax.Array) -> jax.Array:
        return y.reshape(side // 2, 2, side // 2, 2).mean((1, 3))

    yield Problem("pooling_2x2", repeat(linear(pool, shape).observation), False)


@functools.cache
def batched(flow: Flow, solver: ConstraintSolver) -> Any:
    """The solver over a batch of problems."""
    return jax.jit(jax.vmap(lambda p, o, y, x: solver(flow, p, o, y, x, None)[1], in_axes=(None, 0, 0, 0)))


_COMPILED: dict[Any, Any] = {}


def compiled(flow: Flow, solver: ConstraintSolver, arguments: tuple[Any, ...]) -> Any:
    """`batched` compiled for the shapes of ``arguments``, once for all rows of the same shapes."""
    leaves, tree = jax.tree.flatten(arguments)
    key = (flow, solver, tree, tuple((leaf.shape, str(leaf.dtype)) for leaf in leaves))
    if key not in _COMPILED:
        _COMPILED[key] = batched(flow, solver).lower(*arguments).compile()
    return _COMPILED[key]


def solve_batch(
    flow: Flow,
    params: Any,
    solver: ConstraintSolver,
    problem: Problem,
    events: jax.Array,
    x_hidden: jax.Array,
    runs: int | None = None,
) -> Row:
    """Solve one row's problems: what was found, and the median time of ``runs``, compilation apart.

    ``runs`` is 3 when None, and 1 on events of more than 64 entries, where a run of some solvers takes minutes.
    ``compile_seconds`` is near nothing in a row whose program an earlier row compiled.
    """
    seen = jax.vmap(lambda o, y: o.observed_part(y))(problem.observations, events)
    arguments = (params, problem.observations, seen, x_hidden)
    started = time.perf_counter()
    solve = compiled(flow, solver, arguments)
    compile_seconds = time.perf_counter() - started
    times = []
    for _ in range(runs or (3 if flow.size <= 64 else 1)):
        started = time.perf_counter()
        info = jax.block_until_ready(solve(*arguments))
        times.append(time.perf_counter() - started)
    return {
        "block_evaluations_median": float(jnp.median(info.evaluations)),
        "block_evaluations_max": int(info.evaluations.max()),
        "converged_fraction": float(info.converged.mean()),
        "residual_max": float(info.residual.max()),
        "seconds": float(np.median(times)),
        "compile_seconds": compile_seconds,
    }


def plain_solvers() -> dict[str, ConstraintSolver]:
    """The solvers of item 6 that have one setting; 'default' is what `jaxflows.solve` uses."""
    return {
        "default": robust(),
        "boundary_sweep_plain": boundary_sweep(history=0),
        "newton_krylov": newton_krylov(),
        "newton_krylov_latent_schur": newton_krylov(form="latent_schur"),
        "newton_krylov_latent_preconditioned": newton_krylov(form="latent_preconditioned"),
        "newton_krylov_latent": newton_krylov(form="latent"),
        "broyden": broyden(),
    }


def algorithm_2() -> dict[str, dict[str, ConstraintSolver]]:
    """The three rows of Algorithm 2, each with its settings."""

    def settings(mixings: Sequence[float], **options: Any) -> dict[str, ConstraintSolver]:
        return {
            f"mixing {mixing}, {'decode' if inner is None else f'inner_tol {inner:g} warm'}": alternating(
                alpha=mixing, beta=mixing, inner_tol=inner, max_steps=80, **options
            )
            for mixing in mixings
            for inner in INNER_TOLERANCES
        }

    return {
        "algorithm_2_published": settings((0.5,), decay=0.95),
        "algorithm_2_constant": settings((0.5, 1.0)),
        "algorithm_2_anderson": settings((0.5, 1.0), history=8),
    }


def best_setting(candidates: dict[str, Row]) -> str:
    """The setting that converges most often and then evaluates least."""
    return min(candidates, key=lambda k: (-candidates[k]["converged_fraction"], candidates[k]["block_evaluations_median"]))


def measure_flow(name: str, flow: Flow, params: Any, images: np.ndarray, count: int, folder: Path) -> list[Row]:
    """All solvers on all problems of one flow; finished problems are kept in ``folder``: a second start goes on from there."""
    key = jax.random.key(SEED)
    events = noisy(key, jnp.asarray(images[-count:], jnp.float32)).reshape(count, *flow.event_shape)
    x_hidden = jax.random.normal(jax.random.key(SEED + 1), (count, *flow.latent_shape))
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    chosen: dict[tuple[str, bool], str] = {}
    for problem in problems(flow, count):
        kept = folder / f"{name}_{problem.name.replace('%', '')}_{count}.json"
        if not kept.exists():
            print(f"{name}: {problem.name}", flush=True)
            measured = [
                {"flow": name, "observation": problem.name, **row}
                for row in measure_problem(flow, params, problem, events, x_hidden, chosen)
            ]
            atomic_write(kept, json.dumps(measured).encode())
        rows += json.loads(kept.read_text())
    return rows


def measure_problem(
    flow: Flow, params: Any, problem: Problem, events: jax.Array, x_hidden: jax.Array, chosen: dict[tuple[str, bool], str]
) -> Iterator[Row]:
    """All solvers on one problem. ``chosen`` remembers the best settings of Algorithm 2 on large events."""
    for solver_name, solver in plain_solvers().items():
        # on large events the paper's unreduced Jacobian products are nested GMRES solves: minutes a row
        if flow.size > 64 and solver_name in ("newton_krylov_latent", "newton_krylov_latent_preconditioned"):
            continue
        yield {"solver": solver_name, **solve_batch(flow, params, solver, problem, events, x_hidden), "setting": ""}
    for solver_name, settings in algorithm_2().items():
        few = problem
        if flow.size > 64:
            few = problem._replace(observations=jax.tree.map(lambda leaf: leaf[:8], problem.observations))
        tried = len(few.observations.observed)
        if flow.size <= 64 or (solver_name, problem.masked) not in chosen:
            chosen[solver_name, problem.masked] = best_setting(
                {k: solve_batch(flow, params, s, few, events[:tried], x_hidden[:tried], 1) for k, s in settings.items()}
            )
        setting = chosen[solver_name, problem.masked]
        measured = solve_batch(flow, params, settings[setting], problem, events, x_hidden)
        yield {"solver": solver_name, **measured, "setting": setting}


def measure_double(name: str, flow: Flow, params: Any, images: np.ndarray, count: int) -> list[Row]:
    """The default solver in float64, to 1e-10."""
    rows = []
    with jax.enable_x64(True):
        params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), params)
        events = noisy(jax.random.key(SEED), jnp.asarray(images[-count:], jnp.float64))
        events = events.reshape(count, *flow.event_shape)
        x_hidden = jax.random.normal(jax.random.key(SEED + 1), (count, *flow.latent_shape), jnp.float64)
        for problem in problems(flow, count):
            measured = solve_batch(flow, params, robust(), problem, events, x_hidden)
            rows.append({"flow": f"{name}_float64", "observation": problem.name, "solver": "default", **measured})
    return rows


def measure_depth(images: np.ndarray, count: int, epochs: int) -> list[Row]:
    """The default solver on digits flows of 8 to 64 blocks, trained alike for a short while.

    A block shrinks no direction to less than 1 - s of its length, s its Lipschitz constant. 'depth' flows have the same bound
    (1 - s)^L on the whole map at every depth L, 0.05^8; 'steep' flows have s = 0.95 in every block, so that the deeper ones
    may squeeze without limit.
    """
    rows = []
    train = jnp.asarray(images[:1500], jnp.float32).reshape(-1, 64)
    events = noisy(jax.random.key(SEED), jnp.asarray(images[-count:], jnp.float32)).reshape(count, 64)
    x_hidden = jax.random.normal(jax.random.key(SEED + 1), (count, 64))
    kinds = {"depth": lambda blocks: 1 - 0.05 ** (8 / blocks), "steep": lambda blocks: 0.95}
    for kind, blocks in itertools.product(kinds, DEPTHS):
        flow = flows.residual(event_shape=(64,), blocks=blocks, hidden=128, coeff=kinds[kind](blocks))
        params, _ = fit(
            jax.random.key(SEED), flow, train, epochs=epochs, batch_size=128, noise=noisy, validation=0, ema_decay=0.98
        )
        for problem in problems(flow, count):
            if problem.name in ("mask_50%_missing", "mask_90%_missing", "pooling_2x2"):
                measured = solve_batch(flow, params, robust(), problem, events, x_hidden)
                name = f"digits_{kind}_{blocks}"
                rows.append({"flow": name, "observation": problem.name, "solver": "default", **measured})
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write, judge."""
    parser = argparse.ArgumentParser(prog="benchmarks.constraint_solve", description=__doc__.split("\n")[0])
    parser.add_argument("--digits", type=Path, default=MODELS / "digits_residual.safetensors", help="the digits flow")
    parser.add_argument("--mnist", type=Path, default=MODELS / "mnist_residual.safetensors", help="the MNIST flow")
    parser.add_argument("--only", choices=("digits", "mnist", "depth"), help="one part; the others keep their rows")
    parser.add_argument("--count", type=int, default=64, help="problems a row")
    parser.add_argument("--epochs", type=int, default=20, help="of training of the flows of the depth rows")
    parser.add_argument("--run-dir", type=Path, default=Path("runs/constraint_solve"), help="where finished problems are kept")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results file")
    parser.add_argument("--quick", action="store_true", help="eight problems a row, the digits alone")
    options = parser.parse_args(arguments)
    if options.quick:
        options.count, options.only = 8, "digits"
        options.output, options.run_dir = Path("runs/quick"), Path("runs/quick/constraint_solve")
    rows: list[Row] = []
    if options.only in (None, "digits"):
        if options.digits.exists():
            flow, params, _ = persistence.load(options.digits)
            rows += measure_flow("digits", flow, params, digits(), options.count, options.run_dir)
            rows += measure_double("digits", flow, params, digits(), options.count)
        else:
            print(f"left out: {options.digits} is not there")
    if options.only in (None, "depth"):
        rows += measure_depth(digits(), options.count, options.epochs)
    if options.only in (None, "mnist"):
        if options.mnist.exists():
            flow, params, _ = persistence.load(options.mnist)
            images = load_digits_sample()[0] / 255.0
            rows += measure_flow("mnist", flow, params, images, options.count, options.run_dir)
        else:
            print(f"left out: {options.mnist} is not there")
    write_results("constraint_solve", kept_rows(options.output, rows) + rows, seeds=[SEED, SEED + 1], directory=options.output)
    print(summarise(rows))


def kept_rows(folder: Path, rows: Sequence[Row]) -> list[Row]:
    """Rows of an earlier run for flows that this one left out, so that the parts can be measured one at a time."""
    measured = {row["flow"] for row in rows}
    return [row for row in read_rows("constraint_solve", folder) if row["flow"] not in measured]


if __name__ == "__main__":
    main()
