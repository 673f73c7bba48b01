"""Save and load what training on rows with holes returns: a model file with inference network and classifier in it."""

from __future__ import annotations

import os
from typing import Any, Literal

from jaxflows.conditional.amortised import Amortised
from jaxflows.conditional.incomplete_model import IncompleteModel
from jaxflows.flows import Flow
from jaxflows.networks.inference_network import network_from
from jaxflows.networks.self_masking import SelfMasking
from jaxflows.persistence.inference_part import describe_inference, inference_arrays
from jaxflows.persistence.model_file import Contents, ModelFileError, check_saved, read_file, write_file


def save_incomplete(
    path: str | os.PathLike[str],
    flow: Flow,
    model: IncompleteModel,
    *,
    metadata: dict[str, Any] | None = None,
    dtype: Literal["float32", "float64"] = "float32",
) -> None:
    """Write a flow and all that was trained beside it to one file, atomically.

    The file holds numbers and options, no code: the network has to be one of `jaxflows.networks.inference_network`, which
    a file describes by name. `jaxflows.load` and ``jaxflows complete --model`` take the flow alone from it.

    Args:
        path: the file, by convention ``*.safetensors``; replaced when it exists.
        flow: the flow.
        model: from `jaxflows.fit_incomplete`, or from `jaxflows.fit_by_moves` with labels; its head may be one of
            `jaxflows.fit_classifier`.
        metadata: anything JSON can hold.
        dtype: how numbers are stored.

    Raises:
        ValueError: as `jaxflows.save`, a network whose code is the caller's own, and a model of nothing but a flow.
        OSError: the folder is missing, full or not writable.

    Example:
        >>> model, report = jaxflows.fit_incomplete(key, flow, table, observed)
        >>> jaxflows.save_incomplete("model.safetensors", flow, model)
        >>> flow, model, metadata = jaxflows.load_incomplete("model.safetensors")
    """
    if dtype not in ("float32", "float64"):
        raise ValueError(f"expected dtype to be 'float32' or 'float64'; got {dtype!r}")
    inference = describe_inference(model)
    if not inference:
        raise ValueError("expected a model with a network or a classifier; got a flow alone: save it with jaxflows.save")
    tree = {"flow": model.params, **inference_arrays(model)}
    check_saved(flow, tree, inference)
    write_file(path, flow, tree, inference, metadata, dtype)


def load_incomplete(path: str | os.PathLike[str]) -> tuple[Flow, IncompleteModel, dict[str, Any]]:
    """Read a file written by `save_incomplete`.

    Returns:
        ``(flow, model, metadata)``; the arrays' dtypes are those that training would give now.

    Raises:
        ModelFileError: as `jaxflows.load`, and a file that holds a flow alone.
    """
    contents = read_file(path)
    if not contents.inference:
        raise ModelFileError(f"{path}: holds a flow without network or classifier; read it with jaxflows.load")
    return contents.flow, incomplete_model(contents), contents.metadata


def incomplete_model(contents: Contents) -> IncompleteModel:
    """The model of a file that has an inference network, a classifier or both."""
    beside, posterior = contents.beside, None
    if "network" in beside:
        others = ("classes", "head_hidden", "head_rank", "mask")
        network = network_from({name: value for name, value in contents.inference.items() if name not in others})
        posterior = Amortised(network, beside["network"], beside["centre"], beside["spread"])
    masking = SelfMasking(beside["mask"], beside["centre"], beside["spread"]) if "mask" in beside else None
    return IncompleteModel(contents.params, posterior, beside.get("head"), masking)
