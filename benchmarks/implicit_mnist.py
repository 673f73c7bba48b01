"""Appendix D of IVCNF in kind: an implicit flow of MNIST, 90% of the pixels missing, a posterior fitted by CLADE.

    python -m benchmarks.implicit_mnist              # trains for 15 minutes on two cores, then about 10 minutes
    python -m benchmarks.implicit_mnist --quick      # trained for seconds, two digits; written to runs/

The flow is `jaxflows.flows.implicit`: every second residual block inverted, an affine map between blocks. Training goes on from
its checkpoint when started again. A Householder posterior is fitted to 8 test digits from the Gauss-Newton one, by the paper's
estimator. Rows of kind 'solves' give the share of constraints that the first solver left to Newton-Krylov, and the latter's
steps on those (the paper: under 30%, under 5 steps), for free latents from the prior, as in the paper, and from the posterior.
Writes results/implicit_mnist.json and docs/implicit_mnist.png.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.mnist_completion import rmse
from benchmarks.results_file import RESULTS, Row, write_results
from benchmarks.train_mnist_flow import HELD_OUT, mnist_images, noisy_pixels
from jaxflows import flows
from jaxflows.conditional import posteriors
from jaxflows.conditional.completion import Completion, blank, store
from jaxflows.conditional.fit_posterior import Fitted, fit_posterior
from jaxflows.conditional.hidden import hidden
from jaxflows.conditional.measured_rows import measured_rows
from jaxflows.conditional.sample import draw_samples
from jaxflows.data import load_digits_sample, named_mask
from jaxflows.flows import Flow
from jaxflows.metrics import gaussian_conditional, load_mnist_gaussian
from jaxflows.observation import mask
from jaxflows.plotting import completion_figure, save_figure
from jaxflows.solvers.boundary_sweep import boundary_sweep
from jaxflows.solvers.chord import chord
from jaxflows.solvers.newton_krylov import newton_krylov
from jaxflows.training.fit import fit

SEED = 0
PICTURE = Path(__file__).parents[1] / "docs" / "implicit_mnist.png"
POSTERIOR = posteriors.householder(num_reflections=50)


def trained(options: argparse.Namespace) -> tuple[Flow, Any, Row]:
    """The flow, from its checkpoint where there is one, and how it was trained."""
    flow = flows.implicit(event_shape=(28, 28), blocks=options.blocks, hidden=options.hidden)
    images = mnist_images(options.data_dir / "mnist", "train")
    params, report = fit(
        jax.random.key(SEED), flow, images[HELD_OUT:], epochs=20, batch_size=64, learning_rate=1e-3, noise=noisy_pixels,
        validation=images[:HELD_OUT], validate_every=500, checkpoint_every=500, checkpoint_dir=options.run_dir / "checkpoints",
        max_seconds=60 * options.minutes,
    )  # fmt: skip
    about = {
        "case": "training", "blocks": 2 * options.blocks, "hidden": options.hidden, "steps": report.steps,
        "nats_per_dim": -float(report.validation_losses[-1]), "lipschitz": report.lipschitz, "seconds": report.seconds,
    }  # fmt: skip
    return flow, params, about


def solve_rows(name: str, flow: Flow, params: Any, observed: np.ndarray, digits: np.ndarray, x_hidden: jax.Array) -> Row:
    """The sweep on every problem, and Newton-Krylov on those it leaves: rows (digits, S, *event) of free latents."""

    def one(m: jax.Array, y: jax.Array, x: jax.Array) -> Any:
        observation = mask(m)
        known = observation.observed_part(y)
        solution, info = boundary_sweep()(flow, params, observation, known, x)
        return solution.stack, info

    stacks, info = jax.jit(jax.vmap(jax.vmap(one, in_axes=(None, None, 0))))(
        jnp.asarray(observed), jnp.asarray(digits), x_hidden
    )

    @jax.jit
    def again(m: jax.Array, y: jax.Array, x: jax.Array, stack: Any) -> Any:
        return newton_krylov()(flow, params, mask(m), jnp.where(m, y, 0.0), x, stack)[1]

    left = np.argwhere(~np.asarray(info.converged))
    second = [again(observed[i], digits[i], x_hidden[i, j], jax.tree.map(lambda leaf: leaf[i, j], stacks)) for i, j in left]  # noqa: B023
    steps = np.array([int(report.steps) for report in second])
    solved = np.asarray(info.converged).mean() + sum(bool(report.converged) for report in second) / info.converged.size
    return {
        "case": f"solves, free latents from the {name}", "problems": int(info.converged.size),
        "fallback_fraction": len(left) / info.converged.size, "sweeps_median": float(np.median(info.steps)),
        "newton_steps_median": float(np.median(steps)) if len(steps) else float("nan"),
        "newton_steps_max": int(steps.max(initial=0)), "converged_fraction": float(solved),
        "block_evaluations_median": float(np.median(info.evaluations)),
    }  # fmt: skip


def fitted_draws(flow: Flow, params: Any, observed: np.ndarray, digits: np.ndarray, options: argparse.Namespace) -> Any:
    """The CLADE fit of all digits at once, its trace, and weighted draws from it."""
    observations, known = jax.vmap(mask)(jnp.asarray(observed)), jnp.asarray(digits)
    fitted, trace = fit_posterior(
        jax.random.key(SEED), flow, params, observations, known, posterior=POSTERIOR, estimator="clade",
        optimizer=optax.adam(optax.cosine_decay_schedule(1e-2, options.fit_steps)), steps=options.fit_steps, num_samples=4,
        partition="same", tolerance=0.0,
    )  # fmt: skip

    @jax.jit
    def draw(fit: Fitted, m: jax.Array, y: jax.Array, key: jax.Array) -> Any:
        return draw_samples(
            key, flow, params, mask(m), y, num_samples=options.draws, posterior=POSTERIOR, fitted=fit, solver=chord()
        )

    keys = jax.random.split(jax.random.key(SEED + 1), len(digits))
    drawn = [draw(jax.tree.map(lambda leaf: leaf[i], fitted), observed[i], known[i], keys[i]) for i in range(len(digits))]  # noqa: B023
    return fitted, trace, jax.tree.map(lambda *leaves: jnp.stack(leaves), *drawn)


def posterior_latents(fitted: Fitted, flow: Flow, observed: np.ndarray, draws: int) -> jax.Array:
    """Free latents from the fitted posteriors, (digits, draws, *event)."""

    def one(fit: Fitted, m: jax.Array, key: jax.Array) -> jax.Array:
        where = hidden(mask(m), fit.start.mean.size)

        def latent(k: jax.Array) -> jax.Array:
            eta = POSTERIOR.transform(fit.theta, where.used, jax.random.normal(k, where.slots.shape))
            return flow.bijector.move(where.expand(fit.start.mean + fit.start.scale @ eta))

        return jax.vmap(latent)(jax.random.split(key, draws))

    return jax.vmap(one)(fitted, jnp.asarray(observed), jax.random.split(jax.random.key(SEED + 2), len(observed)))


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, fit, count, draw the picture, write the results."""
    parser = argparse.ArgumentParser(prog="benchmarks.implicit_mnist", description=__doc__.split("\n")[0])
    parser.add_argument("--data-dir", type=Path, default=Path(os.environ.get("JAXFLOWS_DATA", "/work/shared/data")))
    parser.add_argument("--run-dir", type=Path, default=Path("runs/implicit_mnist"))
    parser.add_argument("--minutes", type=float, default=15.0, help="of training")
    parser.add_argument("--blocks", type=int, default=2, help="pairs of a block and an inverted one")
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--digits", type=int, default=8)
    parser.add_argument("--draws", type=int, default=16)
    parser.add_argument("--fit-steps", type=int, default=100)
    parser.add_argument("--quick", action="store_true", help="seconds of training and two digits; writes to --run-dir")
    options = parser.parse_args(arguments)
    picture, results = PICTURE, RESULTS
    if options.quick:
        options.minutes, options.digits, options.draws, options.fit_steps, options.blocks = 0.1, 2, 4, 20, 1
        options.run_dir = options.run_dir / "quick"
        picture, results = options.run_dir / "implicit_mnist.png", options.run_dir

    flow, params, about = trained(options)
    digits = (load_digits_sample()[0][: options.digits] / 255.0).astype(np.float32)
    observed = np.stack([named_mask("missing:0.9", flow.event_shape, seed) for seed in range(options.digits)])
    prior = jax.random.normal(jax.random.key(SEED + 3), (options.digits, options.draws, *flow.event_shape))
    prior = jnp.where(observed[:, None], 0.0, prior)

    began = time.perf_counter()
    fitted, trace, drawn = fitted_draws(flow, params, observed, digits, options)
    seconds = time.perf_counter() - began
    measured = measured_rows(flow, digits, observed)
    done: Completion = blank(measured, options.draws, {})
    store(done, measured, np.arange(options.digits), drawn, seconds)
    conditional = gaussian_conditional(load_mnist_gaussian(), digits, observed).mean
    rows: list[Row] = [
        about,
        {
            "case": "completion", "missing": 0.9, "posterior": POSTERIOR.name, "estimator": "clade",
            "elbo_start": float(trace.bound[0].mean()), "elbo_end": float(trace.bound[-1].mean()),
            "iw_bound": float(done.info.iw_bound.mean()), "ess_fraction": float(done.info.ess.mean()) / options.draws,
            "converged_fraction": float(done.info.converged.mean()), "seconds": seconds,
            "rmse_mean": rmse(np.clip(done.mean, 0, 1), digits, ~observed),
            "gaussian_rmse": rmse(np.clip(conditional, 0, 1), digits, ~observed),
        },
        solve_rows("prior", flow, params, observed, digits, prior),
        solve_rows("posterior", flow, params, observed, digits, posterior_latents(fitted, flow, observed, options.draws)),
    ]  # fmt: skip
    picture.parent.mkdir(parents=True, exist_ok=True)
    titles = ["implicit flow, 90% missing, CLADE"]
    save_figure(completion_figure(digits, observed, done, titles=titles, num_samples=4), picture)
    write_results("implicit_mnist", rows, seeds=range(4), directory=results)


if __name__ == "__main__":
    main()
