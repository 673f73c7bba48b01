"""Compile time of `log_prob`, `complete` and a training step at depths 4, 16 and 64: flat, since blocks are scanned.

    python -m benchmarks.compile_time            # 45 processes, ten minutes on one free core
    python -m benchmarks.compile_time --quick    # log_prob at two depths, once

Every measurement is a process of its own with the persistent cache off; they are repeated and the least is taken.

compile_seconds        CPU time of the process from the first trace to the executable: tracing, lowering, XLA
compile_wall_seconds   the same by the clock, which other work on the machine lengthens
first_result_seconds   by the clock, from the first trace to the first result
flat_within            the task's longest compile_seconds over its shortest, minus one

The flow has 64 dimensions and hidden width 128. `complete` is its compiled program, for 8 rows of 64 entries, half of them
hidden, 16 draws each, with the default posterior and solver.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

from benchmarks.results_file import RESULTS, Row, write_results
from jaxflows.conditional.sample import Draws, draw_samples
from jaxflows.flows import Flow, residual
from jaxflows.log_det.estimators import power_series
from jaxflows.observation import mask
from jaxflows.solvers.boundary_sweep import boundary_sweep
from jaxflows.training.step import TrainState, negative_log_likelihood, training_step

SIZE, ROWS, SAMPLES = 64, 8, 16
TASK_NAMES = ("log_prob", "complete", "training_step")
Problem = tuple[Any, tuple[Any, ...], tuple[Any, ...]]


def log_prob(flow: Flow, params: Any) -> Problem:
    """Exact log p of a batch."""
    return jax.jit(jax.vmap(flow.log_prob, (None, 0))), (), (params, jnp.ones((ROWS, SIZE)))


@functools.partial(jax.jit, static_argnums=0)
def _draw_rows(flow: Flow, params: Any, keys: jax.Array, observed: jax.Array, y: jax.Array) -> Draws:
    def one(key: jax.Array, seen: jax.Array, known: jax.Array) -> Draws:
        return draw_samples(
            key, flow, params, mask(seen), known, num_samples=SAMPLES, solver=boundary_sweep(), max_hidden=SIZE // 2,
            partition="same",
        )  # fmt: skip

    return jax.vmap(one)(keys, observed, y)


def complete(flow: Flow, params: Any) -> Problem:
    """The program behind `jaxflows.complete`."""
    keys = jax.random.split(jax.random.key(1), ROWS)
    observed = jnp.tile(jnp.arange(SIZE) % 2 == 0, (ROWS, 1))
    return _draw_rows, (flow,), (params, keys, observed, jnp.ones((ROWS, SIZE)))


def train(flow: Flow, params: Any) -> Problem:
    """A step of maximum likelihood with the power series and Adam."""
    optimizer = optax.adam(1e-3)
    loss = negative_log_likelihood(flow, power_series(terms=8), None)
    step = training_step(flow, loss, optimizer, None, jax.random.key(0), 0.99)
    state = TrainState(params, optimizer.init(params), jax.tree.map(jnp.array, params), None)
    return step, (), (state, jnp.ones((ROWS, SIZE)), jnp.asarray(0), jnp.asarray(0.0))


TASKS: dict[str, Callable[[Flow, Any], Problem]] = dict(zip(TASK_NAMES, (log_prob, complete, train), strict=True))


def measure(task: str, depth: int) -> Row:
    """Compile and run one task once, in this process."""
    flow = residual(event_shape=(SIZE,), blocks=depth, hidden=128)
    params = jax.block_until_ready(jax.jit(flow.init)(jax.random.key(0)))
    function, static, arguments = TASKS[task](flow, params)
    jax.block_until_ready(arguments)
    began, cpu_began = time.perf_counter(), time.process_time()
    program = function.lower(*static, *arguments).compile()
    compile_wall, compile_cpu = time.perf_counter() - began, time.process_time() - cpu_began
    jax.block_until_ready(program(*arguments))
    return {
        "compile_seconds": compile_cpu,
        "compile_wall_seconds": compile_wall,
        "first_result_seconds": time.perf_counter() - began,
    }


def measure_apart(task: str, depth: int) -> Row:
    """`measure` in a fresh process without the persistent cache."""
    surroundings = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    command = [sys.executable, "-m", "benchmarks.compile_time", "--measure", task, str(depth)]
    done = subprocess.run(
        command, env=surroundings, cwd=Path(__file__).parents[1], check=True, stdout=subprocess.PIPE, text=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def least(runs: Sequence[Row]) -> Row:
    """The least of each number over repeated runs."""
    return {name: min(run[name] for run in runs) for name in runs[0]}


def with_flatness(rows: Sequence[Row]) -> list[Row]:
    """The rows with ``flat_within``: how far apart the compile times of each task lie over the depths."""
    spread = {}
    for task in {row["task"] for row in rows}:
        seconds = [row["compile_seconds"] for row in rows if row["task"] == task]
        spread[task] = max(seconds) / min(seconds) - 1.0
    return [row | {"flat_within": spread[row["task"]]} for row in rows]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure every task at every depth, print and write."""
    parser = argparse.ArgumentParser(prog="benchmarks.compile_time", description=__doc__.split("\n")[0])
    parser.add_argument("--depths", type=int, nargs="+", default=[4, 16, 64])
    parser.add_argument("--tasks", nargs="+", choices=TASK_NAMES, default=list(TASK_NAMES))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output-dir", type=Path, default=RESULTS)
    parser.add_argument("--measure", nargs=2, metavar=("TASK", "DEPTH"), help="one measurement, in this process")
    parser.add_argument("--quick", action="store_true", help="log_prob at depths 2 and 4, once; put it elsewhere")
    options = parser.parse_args(arguments)
    if options.measure:
        print(json.dumps(measure(options.measure[0], int(options.measure[1]))))
        return
    if options.quick:
        options.depths, options.tasks, options.repeats = [2, 4], ["log_prob"], 1
    cases = [(task, depth) for task in options.tasks for depth in options.depths]
    runs: dict[tuple[str, int], list[Row]] = {case: [] for case in cases}
    # whatever slows the machine for a while then slows all depths alike
    for repeat in range(options.repeats):
        for case in cases:
            runs[case].append(measure_apart(*case))
            print(repeat, *case, runs[case][-1], flush=True)
    rows = [{"task": task, "depth": depth, **least(runs[task, depth]), "repeats": options.repeats} for task, depth in cases]
    write_results("compile_time", with_flatness(rows), seeds=[0], directory=options.output_dir)


if __name__ == "__main__":
    main()
