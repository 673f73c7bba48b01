"""Complete the centre of CIFAR-10 test images, after training, beside PL-MCMC on the same flow (IVCNF Sec. 4.2.2).

    python -m benchmarks.cifar_centre --model runs/cifar/cifar_residual.safetensors --images 64 --batch 16 --max-seconds 100
    python -m benchmarks.cifar_centre --quick      # the flow of train_cifar_flow --quick, two images; all in --run-dir

The square of 8 x 8 pixels at the centre is missing, all three channels: 192 entries of 3,072. What is observed is a test image
with the noise the flow was trained with. Systems, all of the same flow but the last:

    ours_householder     the paper's: from the prior on the free latent, 50 Householder reflections, Adam at 1e-2, 8 draws a
                         step, 500 steps, NLADE, the same coordinates of the latent free
    ours_gauss_newton    `jaxflows.complete` as it is by default
    plmcmc_published     PL-MCMC with its authors' widths, 4 chains, log-determinants in its ratio
    plmcmc_tuned         with those widths of a few that have the least CRPS after a quarter of the steps on the first batch
    gaussian             the conditional of one Gaussian of the training images

Errors are an image's: the root mean square over its missing entries, of every draw against the pixels without noise. Row keys:
system, rmse_mean and rmse_std (mean and deviation over images, as the paper prints them), rmse_of_mean (mean over images of
the error of the mean of the draws), rmse_first_iteration and rmse_first_std (of ours_householder, of draws before the first
step, from the standard normal on the free latent), seconds (an image, compilation left out), evaluations (an image: block
evaluations of decodes, encodes and solves; those of a fit are its solves at the mean of a draw's before and after it; Jacobian
products are timed, not counted), images, draws; of PL-MCMC also acceptance, steps and widths. Rows of kind 'paired' test one
of ours against one of theirs on the same images: difference and its standard error (ours less theirs, of both errors), p of a
t test whether it is below zero. The paper's own figures, of another flow, come last.

Log-determinants of convolutions cannot be taken exactly at this size, 3,072 Jacobian columns a block. Weights, bounds and
PL-MCMC's ratio take those of a power series with probes that never change (`jaxflows.flows.fixed_probes`); the fit's gradients,
by NLADE, do not need them. Dense blocks have them exactly, by as many columns as they have hidden units (--terms 0). Batches of
images are worked one after another; each image's scores are kept in --run-dir, and a second start goes on from there. Writes
cifar_centre.json and cifar_centre.png.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

from benchmarks import cifar_systems
from benchmarks.cifar_systems import (
    OURS,
    PLMCMC,
    SYSTEMS,
    THIN,
    Drawn,
    Problem,
    best_widths,
    gaussian,
    image_rmse,
    ours_gauss_newton,
    ours_householder,
    plmcmc,
)  # fmt: skip
from benchmarks.completion_speed import CHAINS, PUBLISHED
from benchmarks.results_file import RESULTS, Row, write_results
from benchmarks.train_cifar_flow import MODEL, QUICK_MODEL, SHAPE, cifar_images, noisy_pixels, pixel_moments
from jaxflows import persistence
from jaxflows.conditional.completion import blank
from jaxflows.conditional.measured_rows import measured_rows
from jaxflows.flows import Flow
from jaxflows.flows.fixed_probes import estimated_density
from jaxflows.inverse.plmcmc_method import PlmcmcOptions
from jaxflows.log_det.estimators import power_series
from jaxflows.metrics import Gaussian
from jaxflows.persistence.atomic_write import atomic_write
from jaxflows.plotting import completion_figure, save_figure

PUBLISHED_ROWS: tuple[Row, ...] = tuple(
    {
        "kind": "published",
        "system": system,
        "rmse_mean": mean,
        "rmse_std": std,
        "source": "Moens et al. 2021, Sec. 4.2.2",
        **first,
    }
    for system, mean, std, first in (
        ("IVCNF, NLADE (published)", 0.2291, 0.1570, {"rmse_first_iteration": 0.2802, "rmse_first_std": 0.1188}),
        ("IVCNF, CLADE (published)", 0.2320, 0.1793, {}),
        ("PL-MCMC (published)", 0.2287, 0.1961, {}),
    )
)
PICTURED = 4


def warmed_up(problem: Problem, wanted: Sequence[str]) -> None:
    """Compile what the systems run on batches of this size, on the sizes that are least work."""
    short = problem._replace(fit_steps=1, chain_steps=1)
    began = time.perf_counter()
    for name, run in (("ours_householder", ours_householder), ("ours_gauss_newton", ours_gauss_newton)):
        if name in wanted:
            run(short)
            print(f"compiled {name}: {time.perf_counter() - began:.1f} s so far", flush=True)
    if set(PLMCMC) & set(wanted):
        plmcmc(PUBLISHED, short)
        print(f"compiled PL-MCMC: {time.perf_counter() - began:.1f} s so far", flush=True)


def scored(problem: Problem, run: Callable[[Problem], Drawn]) -> tuple[list[Row], np.ndarray]:
    """A row an image of the batch, and the draws."""
    began = time.perf_counter()
    drawn = run(problem)
    seconds = (time.perf_counter() - began) / len(problem.numbers)
    columns = {
        "rmse": image_rmse(drawn.samples, problem.pixels),
        "rmse_of_mean": image_rmse(drawn.samples.mean(axis=1), problem.pixels),
        "evaluations": drawn.evaluations, **drawn.more,
    }  # fmt: skip
    images = [{key: float(values[i]) for key, values in columns.items()} for i in range(len(problem.numbers))]
    return [{**image, "seconds": seconds} for image in images], drawn.samples


def system_row(system: str, images: Sequence[Row], draws: int, more: Row) -> Row:
    """The mean over images of everything that was kept of them."""
    means = {key: float(np.mean([image[key] for image in images])) for key in images[0] if key != "rmse"}
    errors = [image["rmse"] for image in images]
    row = {"kind": "system", "system": system, "rmse_mean": float(np.mean(errors)), "rmse_std": float(np.std(errors))}
    if "rmse_first_iteration" in images[0]:
        row["rmse_first_std"] = float(np.std([image["rmse_first_iteration"] for image in images]))
    return {**row, **means, "images": len(images), "draws": draws, **more}


def paired_row(ours: str, theirs: str, kept: dict[str, list[Row]]) -> Row:
    """One-sided t tests of the differences on the same images."""
    row: Row = {"kind": "paired", "system": ours, "against": theirs, "images": len(kept[ours])}
    for error, suffix in (("rmse", ""), ("rmse_of_mean", "_of_mean")):
        difference = np.array([a[error] - b[error] for a, b in zip(kept[ours], kept[theirs], strict=True)])
        test = scipy.stats.ttest_1samp(difference, 0.0, alternative="less")
        row |= {
            f"difference{suffix}": float(difference.mean()),
            f"difference{suffix}_std_error": float(scipy.stats.sem(difference)), f"p_value{suffix}": float(test.pvalue),
        }  # fmt: skip
    return row


def results_rows(kept: dict[str, list[Row]], draws: int, more: dict[str, Row]) -> list[Row]:
    """The rows of the file, of lists of images in the same order."""
    systems = [system_row(name, images, draws, more.get(name, {})) for name, images in kept.items()]
    enough = len(next(iter(kept.values()))) > 1
    pairs = [(a, b) for a in OURS for b in (*PLMCMC, "gaussian") if a in kept and b in kept] if enough else []
    return [*systems, *(paired_row(a, b, kept) for a, b in pairs), *PUBLISHED_ROWS]


def picture(flow: Flow, pixels: np.ndarray, samples: dict[str, np.ndarray], path: Path) -> None:
    """Some images by every system: original, hole, draws, mean and deviation."""
    every = np.concatenate(list(samples.values()))
    truth = np.tile(pixels, (len(samples), 1, 1, 1))
    observed = np.broadcast_to(cifar_systems.MASK, truth.shape)
    start = blank(measured_rows(flow, truth, observed), every.shape[1], {})
    done = start._replace(samples=every, mean=every.mean(axis=1), std=every.std(axis=1))
    groups = np.repeat(np.arange(len(samples)), len(pixels))
    titles = [name.replace("_", " ") for name in samples]
    path.parent.mkdir(parents=True, exist_ok=True)
    save_figure(completion_figure(truth, observed, done, groups=groups, titles=titles, num_samples=4), path)


class Kept:
    """The scores of each image and the draws of the first few, in a folder of one model and one set of options."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder

    def store(self, system: str, number: int, row: Row, samples: np.ndarray) -> None:
        """Keep an image's scores by a system, after its draws."""
        if number < PICTURED:
            np.save(self._folder / f"{system}_{number}.npy", samples.astype(np.float32))
        atomic_write(self._folder / f"{system}_{number}.json", json.dumps(row).encode())

    def row(self, system: str, number: int) -> Row | None:
        """An image's scores by a system; None where there are none yet."""
        path = self._folder / f"{system}_{number}.json"
        row: Row | None = json.loads(path.read_text()) if path.exists() else None
        return row

    def samples(self, system: str, number: int) -> np.ndarray:
        """The draws of one of the first images."""
        return np.asarray(np.load(self._folder / f"{system}_{number}.npy"))


def main(arguments: Sequence[str] | None = None) -> None:
    """Complete, score, test, draw the picture, write the results."""
    parser = argparse.ArgumentParser(prog="benchmarks.cifar_centre", description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, help=f"as train_cifar_flow writes it (default: {MODEL})")
    parser.add_argument("--data-dir", type=Path, default=Path(os.environ.get("JAXFLOWS_DATA", "/work/shared/data")))
    parser.add_argument("--images", type=int, default=64, help="the first so many test images")
    parser.add_argument("--batch", type=int, default=16, help="images at once")
    parser.add_argument("--max-seconds", type=float, default=float("inf"), help="start no batch after so long")
    parser.add_argument("--fit-steps", type=int, default=500, help="of ours_householder")
    parser.add_argument("--chain-steps", type=int, default=2000, help="of each of PL-MCMC's chains")
    parser.add_argument("--draws", type=int, default=16)
    parser.add_argument("--terms", type=int, default=16, help="of fixed probes; 0 for exact log-determinants (dense flows)")
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=SYSTEMS, help="some; kept ones need no second run")
    parser.add_argument("--run-dir", type=Path, default=Path("runs/cifar_centre"))
    parser.add_argument("--output-dir", type=Path, default=RESULTS, help="of the results file and the picture")
    parser.add_argument("--quick", action="store_true", help=f"two images, few steps, {QUICK_MODEL}; all in --run-dir")
    options = parser.parse_args(arguments)
    began = time.perf_counter()
    if options.quick:
        options.images = options.batch = 2
        options.fit_steps, options.chain_steps, options.draws, options.terms = 20, 100, 4, 2
        options.run_dir = options.run_dir / "quick"
        options.output_dir = options.run_dir
    if options.model is None:
        options.model = QUICK_MODEL if options.quick else MODEL
    if options.draws % CHAINS or options.chain_steps < 2 * THIN * options.draws // CHAINS:
        raise SystemExit(
            f"expected --draws divisible by {CHAINS}, the chains, and --chain-steps that keep as many, one in {THIN} of their "
            f"second halves; got {options.draws} and {options.chain_steps}"
        )
    with jax.default_matmul_precision("highest"):
        measured(options, began)


def measured(options: argparse.Namespace, began: float) -> None:
    """All that `main` does once the options are settled."""
    try:
        plain, params, _ = persistence.load(options.model)
    except persistence.ModelFileError as error:
        raise SystemExit(f"{error}: python -m benchmarks.train_cifar_flow writes one") from None
    if plain.event_shape != SHAPE:
        raise SystemExit(f"{options.model}: expected a flow of events {SHAPE}; got {plain.event_shape}")
    flow = estimated_density(plain, estimator=power_series(terms=options.terms)) if options.terms else plain
    test = cifar_images(options.data_dir / "cifar10", "test")[: options.images]
    pixels = (test / 255.0).astype(np.float32)
    # an image's noise does not depend on how many there are
    noise_keys = jax.vmap(functools.partial(jax.random.fold_in, jax.random.key(6)))(jnp.arange(len(test)))
    events = np.asarray(jax.vmap(noisy_pixels)(noise_keys, test.astype(np.float32)))
    checksum = hashlib.sha256(options.model.read_bytes()).hexdigest()[:16]
    tag = f"{checksum}_{options.fit_steps}_{options.chain_steps}_{options.draws}_{options.terms}"
    kept = Kept(options.run_dir / tag)

    def problem(numbers: np.ndarray) -> Problem:
        sizes = (options.fit_steps, options.chain_steps, options.draws)
        return Problem(flow, params, numbers, pixels[numbers], events[numbers], *sizes)

    def unfinished(number: int) -> bool:
        return any(kept.row(system, number) is None for system in options.systems)

    left = np.array([i for i in range(len(test)) if unfinished(i)], int)
    batches = [left[first : first + options.batch] for first in range(0, len(left), options.batch)]
    # one compiled size: a short last batch is filled up with its own images
    batches = [np.resize(batch, options.batch) for batch in batches]
    widths_path = options.run_dir / tag / "widths.json"
    runs: dict[str, Callable[[Problem], Drawn]] = {
        "ours_householder": ours_householder,
        "ours_gauss_newton": ours_gauss_newton,
        "plmcmc_published": functools.partial(plmcmc, PUBLISHED),
    }
    if batches:
        warmed_up(problem(batches[0]), options.systems)
        if "gaussian" in options.systems:
            mean, covariance = pixel_moments(cifar_images(options.data_dir / "cifar10", "train"))
            runs["gaussian"] = functools.partial(gaussian, Gaussian(SHAPE, mean, np.linalg.cholesky(covariance)))
    if "plmcmc_tuned" in options.systems:
        if not widths_path.exists():
            widths_path.write_text(json.dumps(best_widths(problem(batches[0]))._asdict()))
        runs["plmcmc_tuned"] = functools.partial(plmcmc, PlmcmcOptions(**json.loads(widths_path.read_text())))
    for count, batch in enumerate(batches):
        if time.perf_counter() - began > options.max_seconds:
            print(
                f"out of time: {len(batches) - count} of {len(batches)} batches are left; the same command goes on", flush=True
            )
            break
        for system in options.systems:
            if all(kept.row(system, number) is not None for number in batch):
                continue
            rows, samples = scored(problem(batch), runs[system])
            for number, row, drawn in zip(batch.tolist(), rows, samples, strict=True):
                kept.store(system, number, row, drawn)
            shown = f"RMSE {np.mean([row['rmse'] for row in rows]):.4f}, {rows[0]['seconds']:.2f} s an image"
            print(f"[{time.perf_counter() - began:.0f} s] batch {count + 1}/{len(batches)} {system}: {shown}", flush=True)

    done = [i for i in range(len(test)) if not unfinished(i)]
    if not done:
        raise SystemExit("no image was finished: pass a larger --max-seconds or a smaller --batch")
    of_images: dict[str, list[Any]] = {system: [kept.row(system, i) for i in done] for system in options.systems}
    steps = {"chain_steps": options.chain_steps}
    more: dict[str, Row] = {
        "ours_householder": {"fit_steps": options.fit_steps},
        "plmcmc_published": {**steps, **PUBLISHED._asdict()},
    }
    if "plmcmc_tuned" in options.systems:
        more["plmcmc_tuned"] = {**steps, **json.loads(widths_path.read_text())}
    write_results("cifar_centre", results_rows(of_images, options.draws, more), seeds=range(7), directory=options.output_dir)
    first = [i for i in done if i < PICTURED]
    if first:
        drawn = {system: np.stack([kept.samples(system, i) for i in first]) for system in options.systems}
        picture(flow, pixels[first], drawn, options.output_dir / "cifar_centre.png")


if __name__ == "__main__":
    main()
