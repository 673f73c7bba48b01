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
``ours_matched`` is that behind a map of grey levels (`jaxflows.metrics.fit_nonparanormal`); its first completions, and in the
end its draws, though not their mean, have the levels of observed pixels (`jaxflows.match_levels`). Its classifier reads what
was observed of a digit, and no completion (`jaxflows.fit_classifier`).
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
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

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
from benchmarks.mnist_sizes import FULL, QUICK, SCALED, Ours, Sizes
from benchmarks.published_mnist import RATES, published_rows
from benchmarks.results_file import RESULTS, Row, read_rows, write_results
from benchmarks.systems import SYSTEMS
from benchmarks.systems.imputed import Imputed
from jaxflows import (
    complete,
    denoise,
    fit_by_moves,
    fit_classifier,
    fit_incomplete,
    gaussian_start,
    load_incomplete,
    match_levels,
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


class Trained(NamedTuple):
    """A flow of ours with its classifier, and how it was trained."""

    flow: Flow
    model: IncompleteModel
    seconds: float
    steps: int


def trained(key: jax.Array, flow: Flow, problem: Problem, part: Part, how: Ours, keep: Path | None) -> Trained:
    """`fit_by_moves` and a classifier, or what the file has; written to it."""
    if keep is not None and keep.exists():
        flow, model, about = load_incomplete(keep)
        return Trained(flow, model, about["seconds"], about["steps"])
    began = time.perf_counter()
    k_start, k_fit, k_classes = jax.random.split(key, 3)
    start = class_completions(k_start, problem, part, how.fit.get("rank"), how.matched) if how.by_class else None
    gaussian = copula_of(k_start, problem, flow) if how.matched else part.gaussian.with_noise(NOISE**2)
    model, report = fit_by_moves(
        k_fit, flow, part.train, part.train_mask, labels=None if how.classifier else part.labels, gaussian=gaussian,
        noise=noisy, completions=start, **how.fit,
    )  # fmt: skip
    if how.classifier is not None:
        rows, masks = (t.reshape(-1, *SHAPE, 1) for t in (problem.train, problem.train_mask))
        classifier, _ = fit_classifier(k_classes, rows, masks, problem.train_labels, **how.classifier)
        model = model._replace(head=classifier)
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
    classes = predict_labels(flow, model, done, part.test_mask).argmax(axis=-1)
    about = {
        "accuracy_incomplete": float(np.mean(classes == problem.test_labels)),
        "turns_a_row": steps * how.fit["batch_size"] / len(part.train),
        "acceptance": float(done.info.acceptance.mean()), "completion_seconds": time.perf_counter() - began,
    }  # fmt: skip
    # what was observed has no noise, and counts as it is
    clean = np.where(part.test_mask[:, None], done.samples, denoise(flow, model.params, done.samples, NOISE))
    mean, count = clean.mean(axis=1), len(problem.test)
    if how.matched:
        clean = match_levels(clean, part.test_mask, part.train[part.train_mask])
    # for coverage those that hardly depend on each other: the last states of all chains come first
    last, first = done.samples[:, : sizes.chains], done.samples[:, -sizes.chains :]
    apart = np.concatenate([last[:, ::2], first[:, ::2]], axis=1) if how.by_class else last
    return Imputed(
        mean.reshape(count, -1), clean.reshape(*clean.shape[:2], -1), seconds, steps,
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
