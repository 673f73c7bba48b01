"""Learning MNIST from digits with holes and completing the test digits: ours beside other systems and the published tables.

    python -m benchmarks.mnist_incomplete --missing 0.5              # one rate, small sizes: an hour on two quiet cores
    python -m benchmarks.mnist_incomplete                            # all five rates
    python -m benchmarks.mnist_incomplete --full --only ours_by_class    # made for 25 minutes of an H100; alone on it
    python -m benchmarks.mnist_incomplete --quick                    # some rows and steps; written to runs/

Every pixel of every image is missing by the same chance, in training and test images alike, by masks drawn once from the seed.
What is done stands in the results file: a second start goes on with the rest. Rows marked ``scaled`` are of a subset of the
images, smaller networks and fewer steps, and no match for a paper's numbers; ``--full`` takes all of them.

Ours are four. ``ours`` trains flow and a convolutional classifier on completions that move along (`jaxflows.fit_by_moves`),
first drawn from the Gaussian that pairs of observed pixels of all training digits tell of; its draws, six of a chain, are
without the noise of training (`jaxflows.denoise`). ``ours_by_class`` is the same, but completions begin as draws of one such
Gaussian for each class, as the labels say (`jaxflows.gaussian_completions`), and move in the last of every three epochs; draws
are in antithetic pairs. Its classifier learns of completions that tell the class, which those of a test digit do not.
``ours_matched`` is that behind a map of grey levels (`jaxflows.metrics.fit_nonparanormal`); its first completions have the
levels of observed pixels.
``ours_amortised`` starts as the Gaussian of all digits (`jaxflows.gaussian_start`) and trains flow, network and classifier
together from there, as the paper does (`jaxflows.fit_incomplete`).

Row keys: system, missing, seed, scaled; accuracy_incomplete (of the head trained on the incomplete digits) and
accuracy_complete_classifier (of the completed mean, by the classifier of `misgan-mnist-fid`, trained on complete digits);
fid_sample (`jaxflows.metrics.mnist_fid` of one draw a digit, or of the one completion of a system without draws, `draws` being
False); rmse_mean and rmse_sample, clipped, pooled over missing pixels; coverage_90 (of the true pixel, by eight draws; ours
model the pixel plus N(0, 0.05^2), and are asked for that by draws with the noise: one of a chain of ``ours``, one of an
antithetic pair of ``ours_amortised``, and the first and the last of one chain of a pair of ``ours_by_class``); train_seconds,
step_seconds, device; training_rows (of ours those of the Gaussian; scaled, their flows train on the first of them), test_rows.
Published rows have a source and no seed.
"""

from __future__ import annotations

import argparse
import functools
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.incomplete_digits import (
    NOISE,
    SHAPE,
    Part,
    Problem,
    class_completions,
    copula_of,
    noisy,
    part_of,
    problem_of,
)  # fmt: skip
from benchmarks.published_mnist import RATES, published_rows
from benchmarks.results_file import RESULTS, Row, read_rows, write_results
from benchmarks.systems import SYSTEMS
from benchmarks.systems.imputed import Imputed
from jaxflows import (
    complete,
    denoise,
    fit_by_moves,
    fit_incomplete,
    flows,
    gaussian_start,
    load_incomplete,
    predict_labels,
    save_incomplete,
)  # fmt: skip
from jaxflows.conditional.incomplete_model import IncompleteModel
from jaxflows.flows import Flow
from jaxflows.metrics import interval_coverage, rmse_mean, rmse_sample
from jaxflows.metrics.misgan_fid import mnist_accuracy, mnist_fid

NAME = "mnist_incomplete"
# of each chain of a test digit, of ours that move, and the draws that it gives
MOVES, DRAWS_A_CHAIN = 24, 6


class Ours(NamedTuple):
    """How a flow of ours is trained.

    Attributes:
        flow: its architecture.
        train_rows: the first so many images; those of the Gaussian are the system's.
        fit: options of `jaxflows.fit_by_moves` or `jaxflows.fit_incomplete`.
        by_class: whether completions begin as draws of one Gaussian for each class, and test digits are drawn in pairs.
        matched: whether those have the grey levels of observed pixels, before a flow that maps grey levels.
    """

    flow: Callable[[], Flow]
    train_rows: int
    fit: dict[str, Any]
    by_class: bool = False
    matched: bool = False


class Sizes(NamedTuple):
    """What a run takes.

    Attributes:
        scaled: whether this is less than all images and the full sizes.
        train_rows, test_rows: the first so many images; a system's own ``train_rows`` goes before.
        ours: by system, how ours are trained.
        draws: of ``ours_amortised``, a test digit.
        chains: of the others, likewise.
        amortised: whether ``ours_amortised`` draws from what its network says, in place of the Gauss-Newton posterior.
        systems: options of each comparator, and ``train_rows`` of ours.
    """

    scaled: bool
    train_rows: int
    test_rows: int
    ours: dict[str, Ours]
    draws: int
    chains: int
    amortised: bool
    systems: dict[str, dict[str, Any]]


def flow_before_the_rest(flow_rate: float, rate: float) -> optax.GradientTransformation:
    """Adam, slower for the flow, which starts at a Gaussian, than for network and classifier, which start at nothing."""
    rates = {"flow": flow_rate, "network": rate, "head": rate}
    return optax.multi_transform({name: optax.adam(value) for name, value in rates.items()}, {name: name for name in rates})


def whitened(hidden: int, dense: int, *, marginals: int = 0) -> Flow:
    """Couplings behind a Gaussian, and that behind a map of grey levels or none."""
    return flows.whitened_image(event_shape=(*SHAPE, 1), hidden=hidden, dense=dense, whitening="full", marginals=marginals)


# Adam trains the classifier as fast with any weight, and the flow is spared
HEAD = {"head_weight": 1e-2}
LAYERS = HEAD | {"head_hidden": (32, 64)}
QUICK = Sizes(
    True, 128, 32,
    {
        "ours": Ours(lambda: whitened(4, 8), 128, {"epochs": 2, "batch_size": 32, **LAYERS}),
        "ours_by_class": Ours(lambda: whitened(4, 8), 128, {"epochs": 2, "batch_size": 32, "move_every": 2, **LAYERS}, True),
        "ours_matched": Ours(
            lambda: whitened(4, 8, marginals=4), 128, {"epochs": 2, "batch_size": 32, "move_every": 2, **LAYERS}, True, True
        ),
        "ours_amortised": Ours(
            lambda: flows.residual(event_shape=SHAPE, blocks=2, hidden=16), 128, {"epochs": 1, "batch_size": 64}
        ),
    },
    4, 2, True,
    {
        "column_mean": {}, "gaussian_pairwise": {"num_samples": 4},
        "gaussian_em": {"shrinkage": 0.1, "max_steps": 1, "num_samples": 4}, "mice": {"rounds": 1, "neighbours": 5},
        "missforest": {"rounds": 1, "trees": 1, "neighbours": 3}, "emflow": {"epochs": 1, "batch_size": 64, "rounds": 1},
        "mcflow": {"epochs": 1}, "gain": {"steps": 2, "num_samples": 4},
        "misgan": {"epochs": 3, "hidden": (32,), "critic_hidden": (32,), "imputer_hidden": (32,), "num_samples": 4},
        "miwae": {"epochs": 1, "hidden": 32, "observation": "bernoulli", "proposals": 16, "num_samples": 4},
    },
)  # fmt: skip
SCALED = Sizes(
    True, 3000, 500,
    {
        "ours": Ours(
            lambda: whitened(16, 128), 30_000,
            {"epochs": 20, "batch_size": 64, "learning_rate": 2e-3, "rank": 128, **LAYERS, "max_seconds": 900},
        ),
        "ours_by_class": Ours(
            lambda: whitened(16, 128), 30_000,
            {"epochs": 20, "batch_size": 64, "learning_rate": 2e-3, "rank": 128, "move_every": 3, **LAYERS, "max_seconds": 600},
            True,
        ),
        "ours_matched": Ours(
            lambda: whitened(16, 128, marginals=16), 30_000,
            {"epochs": 20, "batch_size": 64, "learning_rate": 2e-3, "rank": 128, "move_every": 3, "max_seconds": 1200} | LAYERS,
            True, True,
        ),
        "ours_amortised": Ours(
            lambda: flows.residual(event_shape=SHAPE, blocks=8, hidden=128), 3000,
            {"epochs": 20, "batch_size": 64, "optimizer": flow_before_the_rest(2e-6, 2e-3), **HEAD, "max_seconds": 240},
        ),
    },
    16, 8, False,
    {
        "ours": {"train_rows": 60_000}, "ours_by_class": {"train_rows": 60_000}, "ours_matched": {"train_rows": 60_000},
        "ours_amortised": {"train_rows": 60_000},
        "column_mean": {},
        "gaussian_pairwise": {"train_rows": 60_000}, "gaussian_em": {"train_rows": 1000, "shrinkage": 0.03, "max_steps": 5},
        "mice": {"rounds": 2, "neighbours": 30}, "missforest": {"rounds": 1, "trees": 10, "neighbours": 30},
        "emflow": {"epochs": 2, "batch_size": 64, "train_rows": 2000}, "mcflow": {"epochs": 5}, "gain": {"steps": 2000},
        "misgan": {
            "epochs": 140, "learning_rate": 1e-3, "hidden": (256,), "critic_hidden": (256,), "imputer_hidden": (512,),
        },
        "miwae": {"epochs": 70, "hidden": 256, "latent": 32, "observation": "bernoulli", "proposals": 1000},
    },
)  # fmt: skip
FULL = Sizes(
    False, 60_000, 10_000,
    {
        "ours": Ours(
            lambda: whitened(64, 512), 60_000,
            {"epochs": 60, "batch_size": 256, "learning_rate": 2e-3, **LAYERS, "max_seconds": 200},
        ),
        "ours_by_class": Ours(
            lambda: whitened(64, 512), 60_000,
            {"epochs": 60, "batch_size": 256, "learning_rate": 2e-3, "move_every": 3, **LAYERS, "max_seconds": 200}, True,
        ),
        "ours_matched": Ours(
            lambda: whitened(64, 512, marginals=16), 60_000,
            {"epochs": 60, "batch_size": 256, "learning_rate": 2e-3, "move_every": 3, **LAYERS, "max_seconds": 200}, True, True,
        ),
        "ours_amortised": Ours(
            lambda: flows.residual(event_shape=SHAPE, blocks=8, hidden=512), 60_000,
            {"epochs": 40, "batch_size": 256, "optimizer": flow_before_the_rest(2e-4, 2e-3), **HEAD, "max_seconds": 240},
        ),
    },
    16, 8, True,
    {
        "column_mean": {}, "gaussian_pairwise": {}, "gaussian_em": {"train_rows": 5000, "shrinkage": 0.01, "max_steps": 20},
        "mice": {"rounds": 3, "neighbours": 60, "train_rows": 5000},
        "missforest": {"rounds": 1, "trees": 10, "neighbours": 30, "train_rows": 5000},
        "emflow": {"epochs": 5, "at_once": 256}, "mcflow": {"epochs": 32}, "gain": {}, "misgan": {"epochs": 60},
        "miwae": {"epochs": 40, "hidden": 512, "latent": 50, "observation": "bernoulli"},
    },
)  # fmt: skip


class Trained(NamedTuple):
    """A flow of ours with its classifier, and how it was trained."""

    flow: Flow
    model: IncompleteModel
    seconds: float
    steps: int


def trained(key: jax.Array, flow: Flow, problem: Problem, part: Part, how: Ours, keep: Path | None) -> Trained:
    """`fit_by_moves` with labels, or what the file has; written to it."""
    if keep is not None and keep.exists():
        flow, model, about = load_incomplete(keep)
        return Trained(flow, model, about["seconds"], about["steps"])
    began = time.perf_counter()
    k_start, k_fit = jax.random.split(key)
    start = class_completions(k_start, problem, part, how.fit.get("rank"), how.matched) if how.by_class else None
    gaussian = copula_of(k_start, problem, flow) if how.matched else part.gaussian.with_noise(NOISE**2)
    model, report = fit_by_moves(
        k_fit, flow, part.train, part.train_mask, labels=part.labels, gaussian=gaussian, noise=noisy, completions=start,
        **how.fit,
    )  # fmt: skip
    done = Trained(flow, model, time.perf_counter() - began, report.run.steps)
    if keep is not None:
        keep.parent.mkdir(parents=True, exist_ok=True)
        save_incomplete(keep, flow, model, metadata={"seconds": done.seconds, "steps": done.steps})
    return done


def moved(key: jax.Array, problem: Problem, sizes: Sizes, keep: Path | None, name: str) -> tuple[Imputed, Row]:
    """What was `trained`, and moved draws by `complete`, denoised."""
    how = sizes.ours[name]
    k_fit, k_draw = jax.random.split(key)
    flow = how.flow()
    part = part_of(problem, how.train_rows, flow)
    flow, model, seconds, steps = trained(k_fit, flow, problem, part, how, keep)
    began = time.perf_counter()
    done = complete(
        k_draw, flow, model.params, part.test, part.test_mask, num_samples=DRAWS_A_CHAIN * sizes.chains, chains=sizes.chains,
        weighted=False, moves=MOVES, antithetic=how.by_class,
    )  # fmt: skip
    classes = predict_labels(flow, model, done).argmax(axis=-1)
    about = {
        "accuracy_incomplete": float(np.mean(classes == problem.test_labels)),
        "turns_a_row": steps * how.fit["batch_size"] / len(part.train),
        "acceptance": float(done.info.acceptance.mean()), "completion_seconds": time.perf_counter() - began,
    }  # fmt: skip
    # what was observed has no noise, and counts as it is
    clean = np.where(part.test_mask[:, None], done.samples, denoise(flow, model.params, done.samples, NOISE))
    count = len(problem.test)
    # for coverage those that hardly depend on each other: the last states of all chains come first
    last, first = done.samples[:, : sizes.chains], done.samples[:, -sizes.chains :]
    apart = np.concatenate([last[:, ::2], first[:, ::2]], axis=1) if how.by_class else last
    return Imputed(
        clean.mean(axis=1).reshape(count, -1), clean.reshape(*clean.shape[:2], -1), seconds, steps,
        noisy=apart.reshape(count, sizes.chains, -1),
    ), about  # fmt: skip


def ours_amortised(key: jax.Array, problem: Problem, sizes: Sizes, keep: Path | None) -> tuple[Imputed, Row]:
    """`fit_incomplete` with labels from a Gaussian of pairs, and draws of the posterior by `complete`."""
    del keep
    how = sizes.ours["ours_amortised"]
    flow = how.flow()
    k_start, k_fit, k_draw = jax.random.split(key, 3)
    began = time.perf_counter()
    part = part_of(problem, how.train_rows, flow)
    params = gaussian_start(k_start, flow, part.gaussian.with_noise(NOISE**2))
    model, report = fit_incomplete(
        k_fit, flow, part.train, part.train_mask, labels=part.labels, params=params, noise=noisy, validation=0.02,
        validation_samples=1, **how.fit,
    )  # fmt: skip
    seconds = time.perf_counter() - began
    began = time.perf_counter()
    call = functools.partial(
        complete, k_draw, flow, model.params, part.test, part.test_mask, num_samples=sizes.draws, weighted=False,
        antithetic=True,
    )  # fmt: skip
    # the classifier was trained on draws of the network's posterior
    by_network = call(posterior=model.posterior)
    classes = predict_labels(flow, model, by_network).argmax(axis=-1)
    done = by_network if sizes.amortised else call()
    about = {
        "accuracy_incomplete": float(np.mean(classes == problem.test_labels)),
        "unconverged": float(1 - done.info.converged.mean()), "bound": float(-report.run.validation_losses.min()),
        "completion_seconds": time.perf_counter() - began,
    }  # fmt: skip
    draws = done.solved()[0].reshape(*done.samples.shape[:2], -1)
    return Imputed(
        done.mean.reshape(len(problem.test), -1), draws, seconds, len(report.unconverged), noisy=draws[:, ::2]
    ), about  # fmt: skip


OURS = {
    "ours": functools.partial(moved, name="ours"), "ours_by_class": functools.partial(moved, name="ours_by_class"),
    "ours_matched": functools.partial(moved, name="ours_matched"),
    "ours_amortised": ours_amortised,
}  # fmt: skip


def scores(problem: Problem, done: Imputed) -> Row:
    """Every score of completed test digits but the head's."""
    truth, mask = jnp.asarray(problem.test), jnp.asarray(problem.test_mask)
    mean = np.where(problem.test_mask, problem.test, np.clip(done.mean, 0, 1))
    images = mean.reshape(-1, *SHAPE)
    row: Row = {
        "accuracy_complete_classifier": mnist_accuracy(images, problem.test_labels),
        "rmse_mean": float(rmse_mean(jnp.asarray(mean)[:, None], truth, mask)), "draws": done.samples is not None,
    }  # fmt: skip
    if done.samples is None:
        return row | {"fid_sample": mnist_fid(images)}
    clipped = np.where(problem.test_mask[:, None], problem.test[:, None], np.clip(done.samples, 0, 1))
    # of all but ours as many as of ours
    asked, apart = truth, done.samples[:, ::2]
    if done.noisy is not None:
        asked, apart = truth + NOISE * jax.random.normal(jax.random.key(1), truth.shape), done.noisy
    return row | {
        "fid_sample": mnist_fid(clipped[:, 0].reshape(-1, *SHAPE)),
        "rmse_sample": float(rmse_sample(jnp.asarray(clipped), truth, mask)),
        "coverage_90": float(interval_coverage(jax.random.key(2), jnp.asarray(apart), asked, mask, 0.9)),
    }


def measured(system: str, problem: Problem, missing: float, seed: int, sizes: Sizes, keep: Path | None = None) -> Row:
    """One system at one rate; ``keep`` is a folder for the models of ours that move."""
    options = dict(sizes.systems.get(system, {}))
    rows = options.pop("train_rows", sizes.train_rows)
    part = Problem(*(t[:rows] for t in problem[:3]), *(t[: sizes.test_rows] for t in problem[3:]))
    if system in ("emflow", "mcflow"):
        options["image_shape"] = SHAPE
    key = jax.random.key(seed)
    if system in OURS:
        file = None if keep is None else keep / f"{system}_{missing}_{seed}.safetensors"
        done, about = OURS[system](key, part, sizes, file)
    else:
        done, about = SYSTEMS[system](key, part.train, part.train_mask, part.test, part.test_mask, **options), {}
    return {
        "system": system, "missing": missing, "seed": seed, "scaled": sizes.scaled, **about,
        **scores(part, done), "train_seconds": done.seconds,
        "step_seconds": done.seconds / max(1, done.steps), "device": jax.devices()[0].device_kind,
        "training_rows": len(part.train), "test_rows": len(part.test),
    }  # fmt: skip


def main() -> None:
    """Measure what is not in the results file yet, and write it after every row."""
    names = list(SCALED.systems)
    parser = argparse.ArgumentParser(prog=f"benchmarks.{NAME}", description=__doc__.split("\n")[0])
    parser.add_argument("--data-dir", type=Path, default=os.environ.get("JAXFLOWS_DATA", "../shared/data"))
    parser.add_argument("--output-dir", type=Path, default=RESULTS, help="of the results file")
    parser.add_argument("--missing", type=float, nargs="+", default=list(RATES), choices=RATES)
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="SYSTEM", help=", ".join(names))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--full", action="store_true", help="all images and the papers' sizes, for a GPU")
    parser.add_argument("--max-seconds", type=float, help="of training ours, a rate; that of the sizes when left out")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="of models of ours: one that is there is not trained again")
    parser.add_argument("--again", action="store_true", help="measure anew what the results file has already")
    parser.add_argument("--quick", action="store_true", help="some rows and steps at the first rate; writes to runs/")
    options = parser.parse_args()
    sizes = FULL if options.full else SCALED
    directory = options.output_dir
    if options.quick:
        sizes, directory, options.missing, options.again = QUICK, Path("runs"), options.missing[:1], True
    if options.max_seconds is not None:
        most = {"max_seconds": options.max_seconds}
        sizes = sizes._replace(ours={name: how._replace(fit=how.fit | most) for name, how in sizes.ours.items()})

    def of(row: Row) -> tuple[Any, ...]:
        return tuple(row[key] for key in ("system", "missing", "seed", "scaled"))

    done = {of(row): row for row in read_rows(NAME, directory) if "seed" in row}
    for missing in options.missing:
        problem = problem_of(Path(options.data_dir) / "mnist", missing, options.seed)
        for system in options.only:
            this = (system, missing, options.seed, sizes.scaled)
            if this in done and not options.again:
                continue
            print(f"{system}, {missing} missing", flush=True)
            done[this] = measured(system, problem, missing, options.seed, sizes, options.keep)
            rows = sorted(done.values(), key=lambda row: (row["missing"], names.index(row["system"]), row["scaled"]))
            write_results(NAME, [*rows, *published_rows()], seeds=sorted({row["seed"] for row in rows}), directory=directory)


if __name__ == "__main__":
    main()
