"""Models by name or file, as the commands take them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from jaxflows.cli import argument_types as types
from jaxflows.cli.errors import CommandError

if TYPE_CHECKING:
    from jaxflows.conditional.amortised import Amortised
    from jaxflows.conditional.incomplete_model import IncompleteModel
    from jaxflows.conditional.posteriors import Posterior
    from jaxflows.flows import Flow
    from jaxflows.metrics import Gaussian


class Packaged(NamedTuple):
    """A model that comes with the package: its file, and the shape of its events as pictures."""

    file: str
    image_shape: tuple[int, ...]


PACKAGED = {
    "mnist": Packaged("mnist_residual.safetensors", (28, 28)),
    "digits": Packaged("digits_residual.safetensors", (8, 8)),
    "cifar10": Packaged("cifar10_whitened.safetensors", (32, 32, 3)),
    "mnist_whitened": Packaged("mnist_whitened.safetensors", (28, 28)),
}
DEFAULT_MODEL = "mnist"
# models of the images whose Gaussian is packaged too
_DIGITS = ("mnist", "mnist_whitened")
AMORTISED = "amortised"


class Model(NamedTuple):
    """A model that was loaded.

    Attributes:
        name: as given on the command line.
        flow: the flow.
        params: its parameters.
        metadata: from the file.
        fingerprint: of the file's bytes.
        baseline: makes the Gaussian of the data it was trained on; None where there is none.
        incomplete: what was trained on rows with holes, network, classifier and all; None for a flow alone.
    """

    name: str
    flow: Flow
    params: Any
    metadata: dict[str, Any]
    fingerprint: str
    baseline: Callable[[], Gaussian] | None
    incomplete: IncompleteModel | None

    @property
    def image_shape(self) -> tuple[int, ...] | None:
        """(height, width) or (height, width, 3) when its events are pictures, None when they are vectors."""
        if self.name in PACKAGED:
            return PACKAGED[self.name].image_shape
        shape = tuple(int(side) for side in self.metadata.get("image_shape", self.flow.event_shape))
        if shape[2:] == (1,):
            shape = shape[:2]
        pictures = len(shape) == 2 or shape[2:] == (3,)
        return shape if pictures and math.prod(shape) == self.flow.size else None

    @property
    def in_colour(self) -> bool:
        """Whether its events are pictures in colour, so that a picture is read as one."""
        return (self.image_shape or ())[2:] == (3,)

    @property
    def pixel_scale(self) -> float:
        """What 8-bit pixels are divided by."""
        return float(self.metadata.get("pixel_scale", 255))


def model_path(name: str) -> Path:
    """The file of a packaged model or of a path, or CommandError when there is none."""
    packaged = PACKAGED.get(name)
    path = Path(name) if packaged is None else Path(__file__).parents[1] / "data" / "models" / packaged.file
    if path.is_file():
        return path
    if packaged is not None:
        raise CommandError(f"--model {name}: this installation lacks its file, {path}")
    raise CommandError(f"--model {name}: neither a file nor one of {', '.join(PACKAGED)}")


def load_model(name: str) -> Model:
    """Load a model by name or file; raises CommandError where it cannot be."""
    from jaxflows.metrics import load_mnist_gaussian
    from jaxflows.persistence import ModelFileError
    from jaxflows.persistence.model_file import read_file

    path = model_path(name)
    try:
        contents = read_file(path)
    except ModelFileError as error:
        raise CommandError(str(error)) from None
    incomplete = None
    if contents.inference:
        from jaxflows.persistence.incomplete_file import incomplete_model

        incomplete = incomplete_model(contents)
    fingerprint = hashlib.sha256(path.read_bytes()).hexdigest()
    shape = contents.flow.event_shape
    baseline = (lambda: load_mnist_gaussian()._replace(event_shape=shape)) if name in _DIGITS else None
    return Model(name, contents.flow, contents.params, contents.metadata, fingerprint, baseline, incomplete)


def named_posterior(text: str) -> Posterior:
    """A posterior by name, but the amortised one, which belongs to a model."""
    from jaxflows.conditional import posteriors

    choice = types.posterior(text)
    if choice.family == "householder":
        return posteriors.householder(num_reflections=choice.reflections)
    others = {
        "gauss_newton": posteriors.gauss_newton, "prior": posteriors.prior, "mean_field": posteriors.mean_field,
        "full_rank": posteriors.full_rank,
    }  # fmt: skip
    return others[choice.family]()


def posterior_of(text: str, model: Model) -> Posterior | Amortised:
    """A posterior by name, the model's own where it is 'amortised'; CommandError where the model has none."""
    if text != AMORTISED:
        return named_posterior(text)
    posterior = None if model.incomplete is None else model.incomplete.posterior
    if posterior is None:
        raise CommandError(
            f"--posterior amortised: --model {model.name} holds no network; 'jaxflows train --incomplete' trains one with a "
            "residual flow"
        )
    return posterior


def fit_steps_of(posterior: str, given: int | None) -> int:
    """Gradient steps for a row: as given, else 200, or none where a network has the answer."""
    if given is not None:
        return given
    return 0 if posterior == AMORTISED else 200
