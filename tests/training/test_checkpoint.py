"""Checkpoints: a killed run goes on as if it had not been, and a foreign checkpoint is refused."""

import contextlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxflows import flows
from jaxflows.bijectors.actnorm import actnorm
from jaxflows.flows import flow_of
from jaxflows.training.fit import fit
from tests.training.affine_rows import AFFINE

ROWS = np.random.default_rng(0).normal(size=(96, 3)).astype(np.float32)
FLOW = flows.residual(event_shape=(3,), blocks=2, hidden=8)
SETTINGS = {
    "epochs": 14, "batch_size": 16, "validate_every": 7, "checkpoint_every": 5, "patience": 1000, "validation": 0.2,
    "ema_decay": 0.9, "progress": False,
}  # fmt: skip


def run(directory: Path | None, **changes):
    options = {"noise": lambda key, batch: batch + 0.1 * jax.random.normal(key, batch.shape), **SETTINGS, **changes}
    flow = options.pop("flow", FLOW)
    rows = options.pop("rows", ROWS)
    return fit(jax.random.key(1), flow, rows, checkpoint_dir=directory, **options)


def killed(directory: Path, after: int) -> None:
    """Train in another process and kill it once a checkpoint of at least ``after`` steps is there."""
    command = [sys.executable, "-m", "tests.training.test_checkpoint", str(directory)]
    process = subprocess.Popen(command, cwd=Path(__file__).parents[2], env={**os.environ, "JAX_PLATFORMS": "cpu"})
    deadline = time.monotonic() + 120
    try:
        while not any(int(path.name) >= after for path in directory.glob("[0-9]*") if path.name.isdigit()):
            assert process.poll() is None, "the run ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.002)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def trace(path: Path) -> list[dict]:
    """What a file of metrics holds, but how long it took and which run it was."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len({line.pop("run") for line in lines}) == 1
    assert all(line.pop("seconds") > 0 and line.pop("rows_per_second") > 0 for line in lines)
    return lines


@pytest.mark.long
def test_a_killed_run_gives_the_same_losses_metrics_and_parameters_bit_for_bit(tmp_path):
    checkpoints, metrics = tmp_path / "checkpoints", tmp_path / "metrics.jsonl"
    killed(checkpoints, 10)
    # a step that no checkpoint counts, and half of another, as a kill in a later step leaves them
    with metrics.open("a") as file:
        file.write(json.dumps({**json.loads(metrics.read_text().splitlines()[-1]), "step": 10_000}) + '\n{"run": "')
    params, report = run(checkpoints, metrics=metrics)
    whole, expected = run(None, metrics=tmp_path / "whole.jsonl")
    assert trace(metrics) == trace(tmp_path / "whole.jsonl")
    assert [line["step"] for line in trace(metrics)] == list(range(1, expected.steps + 1))
    assert [line["loss"] for line in trace(metrics)] == expected.losses.tolist()
    assert 10 <= report.resumed_at < expected.steps
    np.testing.assert_array_equal(report.losses, expected.losses)
    np.testing.assert_array_equal(report.validation_steps, expected.validation_steps)
    np.testing.assert_array_equal(report.validation_losses, expected.validation_losses)
    jax.tree.map(np.testing.assert_array_equal, params, whole)


# what is checkpointed is the same for a flow that is quick to compile
SHORT = {"epochs": 2, "flow": AFFINE}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run's folder, parameters and report."""
    directory = tmp_path_factory.mktemp("finished")
    return directory, *run(directory, **SHORT)


def test_a_finished_run_is_returned_without_a_step(finished):
    directory, params, report = finished
    again, repeated = run(directory, **SHORT)
    assert (report.resumed_at, repeated.resumed_at) == (0, report.steps)
    np.testing.assert_array_equal(report.losses, repeated.losses)
    jax.tree.map(np.testing.assert_array_equal, params, again)


def test_what_a_kill_left_half_written_is_passed_over(finished, tmp_path):
    directory, _, report = finished
    shutil.copytree(directory, tmp_path, dirs_exist_ok=True)
    half = tmp_path / f"{report.steps + 5}.orbax-checkpoint-tmp"
    half.mkdir()
    (half / "state").write_bytes(b"half")
    assert run(tmp_path, **SHORT)[1].resumed_at == report.steps


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"flow": flow_of((3,), actnorm(over="element"))}, "flow"),
        ({"rows": ROWS + 1}, "data"),
        ({"batch_size": 8}, "batch_size 8; got 16"),
        ({"learning_rate": 0.5}, "learning_rate 0.5; got None"),
        ({"patience": None}, "arrays"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused_by_name(finished, changes, named):
    with pytest.raises(ValueError, match=rf"belongs to another run \(.*expected.*{named}"):
        run(finished[0], **SHORT | changes)


def test_a_full_disk_leaves_the_checkpoint_before_good(finished, tmp_path):
    _, params, report = finished
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    @contextlib.contextmanager
    def full_at_the_last_step(run, done):
        def write(step, numbers):
            if step == report.steps:
                # from here on this process can write to no file
                resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))

        yield write

    try:
        with pytest.raises(OSError, match=rf"checkpoint of step {report.steps} could not be written to .*is the disk full"):
            run(tmp_path, metrics=full_at_the_last_step, **SHORT)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    again, resumed = run(tmp_path, **SHORT)
    assert resumed.resumed_at == SETTINGS["checkpoint_every"] < report.steps
    np.testing.assert_array_equal(resumed.losses, report.losses)
    jax.tree.map(np.testing.assert_array_equal, again, params)


if __name__ == "__main__":
    run(Path(sys.argv[1]), metrics=Path(sys.argv[1]).with_name("metrics.jsonl"))
