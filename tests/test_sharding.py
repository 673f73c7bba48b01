"""Rows shared out over devices: the same results on 1, 2 and 8 of them, and no word between devices inside a loop."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from benchmarks.collectives import collectives, loops
from jaxflows import flows
from jaxflows.conditional.complete import complete
from jaxflows.sharding import row_mesh
from jaxflows.training.fit import fit
from jaxflows.training.fit_by_moves import fit_by_moves
from jaxflows.training.fit_incomplete import fit_incomplete
from tests.training.affine_rows import AFFINE, affine_start, gaussian_rows

ROOT = Path(__file__).parents[1]
COUNTS = (1, 2, 8)
# both divide by 2, and one of them by 8
EVEN, ODD = 16, 12


def outcome(count):
    """What training, training on holes and completing give on some devices, as lists of numbers."""
    devices = jax.devices()[:count]
    options = {"epochs": 2, "ema_decay": 0.9, "progress": False, "devices": devices}
    rows, observed = gaussian_rows(40)
    holes = np.where(observed, rows, np.nan)
    model, joint = fit_incomplete(
        jax.random.key(1), AFFINE, holes, observed, params=affine_start(holes), validation=0.0, learning_rate=1e-2,
        estimator="exact", batch_size=ODD, **options,
    )  # fmt: skip
    by_moves = options | {
        "params": affine_start(holes), "learning_rate": 1e-2, "batch_size": ODD, "labels": (rows[:, 0] > 1.0).astype(int)
    }  # fmt: skip
    following, moved = fit_by_moves(jax.random.key(3), AFFINE, holes, observed, **by_moves)
    # in an epoch that moves and one in which rows begin and others stay, beside a classifier of events
    rarely, stayed = fit_by_moves(jax.random.key(3), AFFINE, holes, observed, move_every=2, head_hidden=(4,), **by_moves)
    flow = flows.residual(event_shape=(3,), blocks=1, hidden=4)
    noise = lambda key, batch: batch + 0.1 * jax.random.normal(key, batch.shape)  # noqa: E731
    params, report = fit(
        jax.random.key(0), flow, rows, noise=noise, batch_size=EVEN, validation=0.25, patience=9, **options
    )  # fmt: skip
    result = complete(
        jax.random.key(2), AFFINE, model.params, holes[:10], observed[:10], posterior=model.posterior, num_samples=4,
        progress=False, devices=devices,
    )  # fmt: skip
    trees = {
        "fit_incomplete": (model.params, model.network_params, joint.run.losses),
        "fit_by_moves": (following.params, following.head, moved.run.losses, moved.acceptance),
        "fit_by_moves now and then": (rarely.params, rarely.head, stayed.run.losses, np.nanmean(stayed.acceptance)),
        "fit": (params, report.losses, report.validation_losses),
        "complete": (result.samples, result.log_weights, result.info.bound),
    }
    return {
        name: np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)]).astype(float).tolist()
        for name, tree in trees.items()
    }


@pytest.fixture(scope="module")
def forced(tmp_path_factory):
    """Outcomes by number of devices, from a process that has 8, and the texts of all its compiled programs."""
    dump = tmp_path_factory.mktemp("programs")
    # what is read from the cache is not dumped
    environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    flags = (
        f"--xla_force_host_platform_device_count=8 --xla_dump_to={dump} --xla_dump_hlo_as_text "
        "--xla_dump_hlo_module_re=.*(step|draw_rows).*"
    )
    environment |= {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flags}"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.test_sharding"], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr
    programs = {path.name: path.read_text() for path in dump.glob("*after_optimizations.txt")}
    return json.loads(done.stdout.splitlines()[-1]), programs


@pytest.mark.long
@pytest.mark.parametrize("count", COUNTS[1:])
@pytest.mark.parametrize("name", ["fit_incomplete", "fit_by_moves", "fit_by_moves now and then", "fit", "complete"])
def test_results_do_not_depend_on_the_number_of_devices(forced, name, count):
    one, several = (np.array(forced[0][str(n)][name]) for n in (1, count))
    # rows with nothing hidden have no bound
    assert np.isfinite(one).mean() > 0.9
    # sums of 12 or 16 rows in another order, over a few steps of Adam, in single precision
    np.testing.assert_allclose(several, one, rtol=1e-4, atol=1e-5)


@pytest.mark.long
def test_devices_meet_outside_of_loops_alone(forced):
    found = {name: collectives(text) for name, text in forced[1].items()}
    assert not [(name, one) for name, some in found.items() for one in some if one.in_loop]
    assert all(loops(text) for text in forced[1].values())
    # one program for each kind of training and number of devices: nothing is compiled again when a step's result comes back
    shared = [name for name, text in forced[1].items() if "num_partitions=" in text]
    steps = [name for name in shared if "jit_step." in name]
    assert len(steps) == 8
    assert all(found[name] for name in steps)
    # and completing has nothing to say
    draws = [name for name in shared if "draw_rows" in name]
    assert draws
    assert not any(found[name] for name in draws)


LOOP = """HloModule m, num_partitions=2
%sum (a: f32[], b: f32[]) -> f32[] {
  ROOT %r = f32[] add(%a, %b)
}

%inner (p: f32[4]) -> f32[4] {
  ROOT %x = f32[4]{0} all-reduce(%p), channel_id=1, to_apply=%sum
}

%body (s: (f32[4], s32[])) -> (f32[4], s32[]) {
  %y = f32[4]{0} call(%g), to_apply=%inner
  ROOT %t = (f32[4]{0}, s32[]) tuple(%y, %i)
}

%condition (s: (f32[4], s32[])) -> pred[] {
  ROOT %c = pred[] compare(%i, %n), direction=LT
}

ENTRY %main (p: f32[4]) -> f32[4] {
  %w = (f32[4]{0}, s32[]) while(%init), condition=%condition, body=%body
  %g = (f32[8]{0}, pred[3]{0}) all-gather-start(%a, %b), dimensions={0}
  ROOT %z = f32[4]{0} get-tuple-element(%w), index=0
}
"""


def test_collectives_are_found_where_they_are():
    assert collectives(LOOP) == [("all-reduce", 16, True), ("all-gather", 35, False)]
    assert loops(LOOP) == 1


def test_one_device_needs_no_mesh_and_devices_are_given_once():
    device = jax.devices()[0]
    assert row_mesh(None, [device]) is None
    for devices in ([], [device, device]):
        with pytest.raises(ValueError, match="expected devices, each once"):
            row_mesh(devices, jax.devices())


if __name__ == "__main__":
    print(json.dumps({count: outcome(count) for count in COUNTS}))
