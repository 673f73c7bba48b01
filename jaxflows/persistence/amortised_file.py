"""Save and load a pre-generator that was trained once: a model file of its conditional flow, the rest in its metadata."""

from __future__ import annotations

import os
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from jaxflows.inverse.amortised_pregenerator import AmortisedPregenerator, measures_alike, measures_of_probe
from jaxflows.observation import LinearMeasurement
from jaxflows.persistence.model_file import ModelFileError, load, save

_KEY = "amortised"


def save_amortised(
    path: str | os.PathLike[str], model: AmortisedPregenerator, *, metadata: dict[str, Any] | None = None
) -> None:
    """Write a pre-generator from `jaxflows.inverse.fit_amortised_pregenerator` to one file, atomically.

    The frozen flow is not in it, and of an operator only what it makes of one event: `load_amortised` is given it again.

    Args:
        path: the file, by convention ``*.safetensors``; replaced when it exists.
        model: the pre-generator.
        metadata: anything JSON can hold.

    Raises:
        ValueError: as `jaxflows.save`, and metadata with an entry of the pre-generator's own, 'amortised'.
        OSError: the folder is missing, full or not writable.
    """
    if _KEY in (metadata or {}):
        raise ValueError(f"expected metadata without the entry {_KEY!r}, which is the pre-generator's own; got one")
    described = {
        "centre": np.asarray(model.centre).tolist(), "spread": np.asarray(model.spread).tolist(),
        "sigma": np.asarray(model.sigma).tolist(), "exact": model.exact,
        "measured": None if model.operator is None else measures_of_probe(model.operator).tolist(),
    }  # fmt: skip
    dtype: Literal["float32", "float64"] = "float64" if model.centre.dtype == jnp.float64 else "float32"
    save(path, model.family, model.theta, metadata={**(metadata or {}), _KEY: described}, dtype=dtype)


def load_amortised(
    path: str | os.PathLike[str], operator: LinearMeasurement | None = None
) -> tuple[AmortisedPregenerator, dict[str, Any]]:
    """Read a file written by `save_amortised`.

    Args:
        path: the file.
        operator: the linear measurement it was trained on; None where that was entries by any mask.

    Returns:
        ``(model, metadata)``.

    Raises:
        ModelFileError: as `jaxflows.load`, and a file of another model.
        ValueError: an operator that is not that of the training, or none where there was one.
    """
    family, theta, metadata = load(path)
    described = metadata.pop(_KEY, None)
    if not isinstance(described, dict):
        raise ModelFileError(f"{path}: holds no pre-generator; read it with jaxflows.load")
    dtype = jnp.result_type(float)
    try:
        centre, spread = (jnp.asarray(described[name], dtype) for name in ("centre", "spread"))
        sigma, exact, measured = jnp.asarray(described["sigma"], dtype), bool(described["exact"]), described["measured"]
    except (KeyError, TypeError, ValueError) as error:
        raise ModelFileError(f"{path}: describes no pre-generator that this version knows ({error!r})") from None
    if (operator is None) != (measured is None):
        expected, got = ("no operator", "one") if measured is None else ("the operator of the training", "none")
        raise ValueError(f"{path}: expected {expected}; got {got}")
    if operator is not None and not measures_alike(operator, centre.shape, np.asarray(measured)):
        raise ValueError(f"{path}: expected the operator of the training; got another")
    return AmortisedPregenerator(family, theta, centre, spread, sigma, exact, operator), metadata
