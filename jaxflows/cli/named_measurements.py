"""Measurements as named on the command line, of images in whatever shape a model has them."""

from __future__ import annotations

import jax
import numpy as np

from jaxflows import measurements
from jaxflows.cli.argument_types import MeasurementChoice
from jaxflows.cli.errors import CommandError
from jaxflows.data import named_mask
from jaxflows.inverse.noise_extension import operator_matrix
from jaxflows.observation import LinearMeasurement, is_mask, linear


def named_measurement(
    choice: MeasurementChoice, image_shape: tuple[int, ...], event_shape: tuple[int, ...], seed: int
) -> LinearMeasurement:
    """The operator; raises CommandError where images of this shape cannot be measured so.

    Args:
        choice: what was asked for.
        image_shape: (height, width) or (height, width, 3).
        event_shape: of the model's events, of as many entries.
        seed: of a random mask or matrix, one for all rows.
    """
    number = int(choice.number)
    try:
        if choice.kind == "mask":
            return measurements.entries(named_mask(choice.text, image_shape, seed).reshape(event_shape))
        operator = {
            "pool": lambda: measurements.average_pooling(image_shape, number),
            "gaussian": lambda: measurements.gaussian(image_shape, number, seed=seed),
            "grey": lambda: measurements.grey_scale(image_shape),
            "blur": lambda: measurements.blur(image_shape, choice.number),
            "dct": lambda: measurements.cosine(image_shape, number),
            "fourier": lambda: measurements.fourier(image_shape, choice.number, seed=seed),
        }[choice.kind]()
    except ValueError as error:
        raise CommandError(f"--measurement {choice.text}: {error}") from None
    return operator if image_shape == event_shape else linear(operator_matrix(operator), event_shape)


def hidden_entries(operator: LinearMeasurement) -> np.ndarray:
    """Boolean, event-shaped: entries that a mask hides; none where entries are measured together."""
    observed = np.asarray(operator.observation.observed)
    return ~observed if is_mask(operator.observation) else np.zeros_like(observed)


def pictured(choice: MeasurementChoice, values: np.ndarray, observations: np.ndarray) -> np.ndarray:
    """What to show of measurements: grey as grey, where the image of least norm that has these levels is green; else A^+ b.

    Args:
        choice: what was measured.
        values: b, (rows, m).
        observations: A^+ b, (rows, *image_shape).
    """
    if choice.kind != "grey":
        return observations
    return np.broadcast_to(values.reshape(*observations.shape[:-1], 1), observations.shape)


def describe_measurement(choice: MeasurementChoice, noise: float) -> str:
    """It in words, for the head of a picture."""
    from jaxflows.cli.input_rows import describe_mask

    number = choice.number
    words = {
        "mask": describe_mask(choice.text),
        "pool": f"mean of {number:g} x {number:g} pixels",
        "gaussian": f"{number:g} random projections",
        "grey": "grey levels",
        "blur": f"blur of {number:g} pixels",
        "dct": f"{number:g} lowest cosines",
        "fourier": f"{100 * number:g}% of the frequencies",
    }[choice.kind]
    return f"{words}, noise {noise:g}" if noise else words


def simulated(operator: LinearMeasurement, events: np.ndarray, noise: float, numbers: np.ndarray, seed: int) -> np.ndarray:
    """b = A y + noise e of every event, (rows, m); the noise of a row depends on the seed and its number alone."""
    values = np.asarray(jax.jit(jax.vmap(operator.measure))(events))
    drawn = [np.random.default_rng([seed, int(number), 1]).standard_normal(values.shape[1]) for number in numbers]
    return (values + noise * np.stack(drawn)).astype(values.dtype)
