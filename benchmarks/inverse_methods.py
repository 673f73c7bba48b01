"""The methods of `benchmarks.inverse_problems`, each with its published settings or a stated share of the published work."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks.inverse_tasks import DATA, INPAINTING, Pixels, operator_of, training_masks
from benchmarks.train_cifar_flow import pixel_moments
from jaxflows import flows, inverse, metrics, persistence
from jaxflows.bijectors.base import Params
from jaxflows.flows import PAPER_SIZES, Flow
from jaxflows.inverse.method import Method
from jaxflows.metrics import Gaussian

# rows and masks that an amortised pre-generator is trained on, and its own settings where nothing is cut down
AMORTISED_ROWS, AMORTISED_MASKS = 10_000, 2_048
AMORTISED_STEPS, AMORTISED_BATCH = 5_000, 256


class Sizes(NamedTuple):
    """How much is done.

    Attributes:
        count: test images an entry.
        samples: an image, of methods that draw any.
        steps: of methods that take steps, at most; None for the published number.
        draws: of a step of variational inference, at most; None for the published number.
    """

    count: int
    samples: int
    steps: int | None
    draws: int | None


class Problem(NamedTuple):
    """A task on a data set, with the flow that is conditioned.

    Attributes:
        data, task: names.
        flow, params: the flow.
        pixels: how pixels become its events.
        checksum: of its file.
        sizes: how much is done.
        data_dir: folder of all data sets.
        run_dir: where what was prepared once is kept.
    """

    data: str
    task: str
    flow: Flow
    params: Params
    pixels: Pixels
    checksum: str
    sizes: Sizes
    data_dir: Path
    run_dir: Path

    @property
    def images(self) -> str:
        """What the papers call the data set."""
        return DATA[self.data].images

    def cut(self, published: int) -> int:
        """Steps: the published number, or as many as the sizes allow."""
        return published if self.sizes.steps is None else min(published, self.sizes.steps)


class Chosen(NamedTuple):
    """A method with its options.

    Attributes:
        method: the method.
        scaled: the share of the published work that its options are.
        prepared: seconds spent once, before any image of the task.
    """

    method: Method
    scaled: float
    prepared: float = 0.0


def gaussian_of_data(problem: Problem) -> Gaussian:
    """The Gaussian of the events of training images, noise included; of CIFAR-10 fitted once and kept."""
    shape, variance = problem.flow.event_shape, problem.pixels.variance()
    if problem.images == "mnist":
        return metrics.load_mnist_gaussian()._replace(event_shape=shape).with_noise(variance)
    kept = problem.run_dir / f"gaussian_{problem.data}_{problem.pixels.bits}_{variance:.3g}.npz"
    if not kept.exists():
        mean, covariance = pixel_moments(DATA[problem.data].train(problem.data_dir), problem.pixels.clean, variance)
        kept.parent.mkdir(parents=True, exist_ok=True)
        np.savez(kept, mean=mean, factor=np.linalg.cholesky(covariance).astype(np.float32))
    with np.load(kept, allow_pickle=False) as archive:
        return Gaussian(shape, archive["mean"], archive["factor"].astype(np.float64))


def _gaussian(problem: Problem) -> Chosen:
    began = time.perf_counter()
    distribution = gaussian_of_data(problem)
    return Chosen(inverse.gaussian(distribution), 1.0, time.perf_counter() - began)


def _image_sizes(problem: Problem) -> dict[str, int] | None:
    """Of a convolutional pre-generator (Table 4), or scaled down; None where the latent is not that of a multi-scale flow."""
    height, width, channels = (*problem.flow.event_shape, 1)[:3]
    if problem.flow.latent_shape != (height // 2, width // 2, 4 * channels):
        return None
    paper = PAPER_SIZES[problem.images].pregenerator
    return paper if problem.sizes.draws is None else {"scales": 2, "layers": 2, "blocks": 1, "hidden": 16}


def _variational(factory: Callable[..., Method], family: Flow | None, problem: Problem) -> Chosen:
    # the supplement, C.3 to C.5: compressed sensing takes four times the steps; half the rate but for inpainting of MNIST
    published = 4000 if problem.task.startswith("compressed") else 1000
    most = PAPER_SIZES[problem.images].draws
    draws = most if problem.sizes.draws is None else min(most, problem.sizes.draws)
    steps = problem.cut(published)
    rate = 1e-3 if problem.images == "mnist" and problem.task in INPAINTING else 5e-4
    # a fit cut short at the published rate has not left the prior
    rate = rate if steps == published else 1e-2
    method = factory(family=family, steps=steps, num_draws=draws, learning_rate=rate)
    return Chosen(method, steps * draws / (published * most))


def _pregenerator(problem: Problem) -> Chosen:
    sizes = _image_sizes(problem)
    family = None if sizes is None else flows.realnvp_latent(latent_shape=problem.flow.latent_shape, **sizes)
    return _variational(inverse.pregenerator, family, problem)


def _ambient(problem: Problem) -> Chosen:
    sizes = _image_sizes(problem)
    family = None if sizes is None else flows.realnvp_image(event_shape=problem.flow.event_shape, **sizes)
    return _variational(inverse.ambient, family, problem)


def _amortised(problem: Problem) -> Chosen:
    """One pre-generator for all masks, one for each operator, trained on training images once and kept."""
    masks = problem.task in INPAINTING
    operator = None if masks else operator_of(problem.task, problem.flow.event_shape, 0)
    cut = problem.sizes.steps is not None
    # a step is a small fraction of a fit's: no gradient passes through the flow
    steps, batch = (10 * problem.cut(AMORTISED_STEPS // 10), 64) if cut else (AMORTISED_STEPS, AMORTISED_BATCH)
    label = f"{problem.data}_{'inpainting' if masks else problem.task}_{problem.checksum}_{steps}_{batch}"
    kept = problem.run_dir / f"amortised_{label}.safetensors"
    if not kept.exists():
        began = time.perf_counter()
        images = DATA[problem.data].train(problem.data_dir)[:AMORTISED_ROWS].reshape(-1, *problem.flow.event_shape)
        measured = training_masks(AMORTISED_MASKS, problem.flow.event_shape) if operator is None else operator
        model, losses = inverse.fit_amortised_pregenerator(
            jax.random.key(0), problem.flow, problem.params, measured, data=problem.pixels.events(images, seed=1),
            steps=steps, batch_size=batch, progress=False,
        )  # fmt: skip
        about: dict[str, Any] = {"seconds": time.perf_counter() - began, "loss": float(np.mean(losses[-20:]))}
        kept.parent.mkdir(parents=True, exist_ok=True)
        persistence.save_amortised(kept, model, metadata=about)
    model, about = persistence.load_amortised(kept, operator)
    share = steps * batch / (AMORTISED_STEPS * AMORTISED_BATCH)
    return Chosen(inverse.amortised(model), share, about["seconds"])


def _stepped(factory: Callable[..., Method], published: int, problem: Problem, **options: Any) -> Chosen:
    steps = problem.cut(published)
    return Chosen(factory(steps=steps, **options), steps / published)


def _chains(factory: Callable[..., Method], warm_up: int, steps: int, share: float, problem: Problem) -> Chosen:
    """Chains with a warm-up; where steps are cut, each to this share of what other methods are left."""
    most = None if problem.sizes.steps is None else max(1, round(share * problem.sizes.steps))
    taken = [number if most is None else min(number, most) for number in (warm_up, steps)]
    return Chosen(factory(warm_up=taken[0], steps=taken[1]), sum(taken) / (warm_up + steps))


def _plmcmc(problem: Problem) -> Chosen:
    sizes = problem.sizes
    if sizes.steps is not None and not problem.flow.bijector.explicit:
        # two exact log-determinants a step, of Jacobians
        problem = problem._replace(sizes=sizes._replace(steps=min(20, sizes.steps)))
    return _stepped(inverse.plmcmc, 2000, problem)


# name -> the method for a problem
METHODS: dict[str, Callable[[Problem], Chosen]] = {
    "constraint": lambda problem: Chosen(inverse.constraint(), 1.0),
    "gaussian": _gaussian,
    "sparse_dct": lambda problem: Chosen(inverse.sparse(), 1.0),
    "sparse_haar": lambda problem: Chosen(inverse.sparse(basis="haar"), 1.0),
    "csgm": lambda problem: _stepped(inverse.csgm, 1000, problem),
    "asim": lambda problem: _stepped(inverse.asim, 600, problem),
    "map": lambda problem: _stepped(inverse.most_probable, 400, problem),
    "langevin": lambda problem: _stepped(inverse.langevin, 4000 if problem.images == "mnist" else 1000, problem),
    "mala": lambda problem: _chains(inverse.mala, 1000, 1000, 0.5, problem),
    "hmc": lambda problem: _chains(inverse.hmc, 500, 100, 0.1, problem),
    "nuts": lambda problem: _chains(inverse.nuts, 500, 100, 0.1, problem),
    "pregenerator": _pregenerator,
    "amortised": _amortised,
    "ambient": _ambient,
    "plmcmc": _plmcmc,
}
# one point, however many samples are asked for
POINTS = ("csgm", "asim", "map", "sparse_dct", "sparse_haar")
