"""Joint training on 1, 2, 4 and 8 devices, what they say to each other, and memory against batch and depth.

    python -m benchmarks.scaling            # forced host devices, a process each
    python -m benchmarks.scaling --quick    # 1 and 2 devices, a tiny flow, into runs/

Host devices share the cores of this machine, so that rows a second cannot rise beyond them: what is to be seen there is what
sharing costs. The communication is counted from the compiled program: ``collective_bytes`` of results a step and device, and
``collectives_in_loops``, which has to be 0: solves do not wait for each other. Memory is the compiler's plan for one device.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.collectives import collectives
from benchmarks.joint_step import joint_step, lowered_step, timed_steps
from benchmarks.results_file import RESULTS, write_results
from jaxflows.data import mcar
from jaxflows.flows import residual
from jaxflows.memory import peak_bytes

DEVICES = (1, 2, 4, 8)
BATCHES = (16, 64, 256)
DEPTHS = (4, 16, 64)
BATCH, DEPTH, SIZE, HIDDEN = 64, 8, 16, 64

Row = dict[str, Any]


def measure(devices: int, batch: int, depth: int, steps: int) -> Row:
    """Steps of a dense residual flow on ``devices`` of this process's devices; with 0 steps it is compiled alone."""
    rng = np.random.default_rng(0)
    rows = (rng.standard_normal((batch, SIZE)) @ rng.standard_normal((SIZE, SIZE)) / 4).astype(np.float32)
    flow = residual(event_shape=(SIZE,), blocks=depth, hidden=HIDDEN)
    joint = joint_step(flow, rows, mcar(batch, (SIZE,), 0.5, seed=0), devices=jax.devices()[:devices])
    program, speed = lowered_step(joint).compile(), {}
    if steps:
        timing = timed_steps(joint, program, steps)
        speed = {"step_seconds": timing.seconds, "rows_per_second": batch / timing.seconds, "loss": timing.losses["loss"]}
    found = collectives(program.as_text())
    return {
        "devices": devices, "batch": batch, "depth": depth, **speed,
        "collective_bytes": sum(one.bytes for one in found), "collectives_in_loops": sum(one.in_loop for one in found),
        "peak_bytes": peak_bytes(program),
    }  # fmt: skip


def measure_apart(devices: int, batch: int, depth: int, steps: int) -> Row:
    """`measure` in a process that has so many host devices."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    environment = {**os.environ, "XLA_FLAGS": flags.strip(), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "benchmarks.scaling", "--measure", *map(str, (devices, batch, depth, steps))]
    done = subprocess.run(
        command, env=environment, cwd=Path(__file__).parents[1], check=True, stdout=subprocess.PIPE, text=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def with_efficiency(rows: Sequence[Row]) -> list[Row]:
    """The rows with ``efficiency``: rows a second over those of one device."""
    alone = next(row["rows_per_second"] for row in rows if row["devices"] == 1)
    return [row | {"efficiency": row["rows_per_second"] / alone} for row in rows]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(prog="benchmarks.scaling", description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--output-dir", type=Path, default=RESULTS)
    parser.add_argument("--measure", nargs=4, type=int, metavar=("DEVICES", "BATCH", "DEPTH", "STEPS"), help="in this process")
    parser.add_argument("--quick", action="store_true", help="1 and 2 devices, 2 blocks, two steps, into runs/")
    options = parser.parse_args(arguments)
    if options.measure:
        print(json.dumps(measure(*options.measure)))
        return
    devices, memory = DEVICES, [*((batch, DEPTH) for batch in BATCHES), *((BATCH, depth) for depth in DEPTHS)]
    batch, depth = BATCH, DEPTH
    if options.quick:
        devices, memory, batch, depth = (1, 2), [(16, 2)], 16, 2
        options.steps, options.output_dir = 2, Path("runs/quick")
    speeds = []
    for count in devices:
        speeds.append(measure_apart(count, batch, depth, options.steps))
        print(speeds[-1], flush=True)
    rows = [{"part": "devices", **row} for row in with_efficiency(speeds)]
    for batch, depth in memory:
        rows.append({"part": "memory", **measure_apart(1, batch, depth, 0)})
        print(rows[-1], flush=True)
    write_results("scaling", rows, seeds=[0], directory=options.output_dir)


if __name__ == "__main__":
    main()
