"""Save and load a flow with its parameters: one safetensors file whose header holds a JSON description.

The header's metadata has one key, ``jaxflows``, holding the JSON text

    {"description": {"format": 1, "event_shape": [...], "bijector": {...}, "written_by": "0.1.0", "metadata": {...}},
     "sha256": "..."}

where the checksum covers the description and every tensor's name, type, shape and bytes. A tensor is named by its path
in the parameters' tree ("1/0/weight"). Loading rebuilds the flow from the registry of bijectors and the tree from the
flow's own ``init``, so a file can hold nothing but numbers and options: no code in it is run, nothing is unpickled.

Format 2 has an "inference" entry too, and tensors named "flow/...", "network/..." and so on: what `jaxflows.fit_incomplete`
trains beside the flow (`jaxflows.persistence.incomplete_file`). `load` takes the flow out of either.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from jaxflows.bijectors.base import Params
from jaxflows.bijectors.registry import from_spec
from jaxflows.conditional.incomplete_model import IncompleteModel
from jaxflows.flows import Flow, flow_of
from jaxflows.persistence.atomic_write import atomic_write
from jaxflows.version import __version__

# the newest that is read; a flow alone is written in format 1
FORMAT_VERSION = 2
_KEY = "jaxflows"
_STORED = {"float16": "F16", "float32": "F32", "float64": "F64"}
_SETTLING_STEPS = 20


class ModelFileError(ValueError):
    """A model file that cannot be loaded; the message names the file and what is wrong with it."""


def save(
    path: str | os.PathLike[str],
    flow: Flow,
    params: Params,
    *,
    metadata: dict[str, Any] | None = None,
    dtype: Literal["float16", "float32", "float64"] = "float32",
) -> None:
    """Write a flow, its parameters (power-iteration vectors included) and ``metadata`` to one file, atomically.

    Args:
        path: the file, by convention ``*.safetensors``; replaced when it exists.
        flow: the flow.
        params: its parameters, of the tree and shapes that ``flow.init`` gives.
        metadata: anything JSON can hold: test scores, training options, the scaling of the data.
        dtype: how numbers are stored. 'float16' halves the file; `load` then projects the widened weights back into the
            Lipschitz constraint, which rounding may have left by about 1e-4.

    Raises:
        ValueError: a flow with a layer that the registry does not know (`jaxflows.adapters`); parameters of another flow,
            not finite or beyond the range of ``dtype``; metadata that is not JSON.
        OSError: the folder is missing, full or not writable.
    """
    if dtype not in _STORED:
        raise ValueError(f"expected dtype to be one of {sorted(_STORED)}; got {dtype!r}")
    if isinstance(params, IncompleteModel):
        raise ValueError("expected a flow's parameters; got what fit_incomplete returns: keep all of it with save_incomplete")
    _check_flow(flow)
    _check_tree("params as flow.init gives them", params, _template(flow))
    write_file(path, flow, params, {}, metadata, dtype)


def write_file(
    path: str | os.PathLike[str],
    flow: Flow,
    tree: Any,
    inference: dict[str, Any],
    metadata: dict[str, Any] | None,
    dtype: str,
) -> None:
    """Write a checked tree of arrays with its description; ``inference`` describes what stands in it beside the flow."""
    tensors = {}
    for name, leaf in _named_leaves(tree):
        with np.errstate(over="ignore"):
            # not ascontiguousarray, which makes an array of one of a number
            tensors[name] = np.asarray(leaf, dtype, order="C")
        if not np.all(np.isfinite(tensors[name])):
            raise ValueError(f"expected finite parameters within the range of {dtype}; got others in {name!r}")
    description = {
        "format": 2 if inference else 1,
        "event_shape": list(flow.event_shape),
        "bijector": json.loads(flow.bijector.spec),
        "written_by": __version__,
        "metadata": {} if metadata is None else metadata,
        **({"inference": inference} if inference else {}),
    }
    try:
        # through text once, so that tuples and integer keys are checksummed as they will be read
        description = json.loads(json.dumps(description, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(f"expected metadata that JSON can hold; got {metadata!r} ({error})") from None
    header = {"description": description, "sha256": _checksum(description, tensors)}
    atomic_write(path, safetensors.numpy.save(tensors, {_KEY: _canonical(header)}))


def check_saved(flow: Flow, tree: Any, inference: dict[str, Any]) -> None:
    """Raise ValueError unless a file with this description would give the tree back."""
    _check_flow(flow)
    _check_tree("a model as fit_incomplete returns it", tree, _template(flow, inference))


def _check_flow(flow: Flow) -> None:
    try:
        from_spec(flow.bijector.spec)
    except ValueError as error:
        raise ValueError(
            "expected a flow of jaxflows' own layers, which a file describes by name and options; got a layer whose code is "
            f"the caller's own and would not be in the file ({error}): save its parameters with the library they come from"
        ) from None


def _check_tree(what: str, tree: Any, template: Any) -> None:
    shapes = {name: np.shape(leaf) for name, leaf in _named_leaves(tree)}
    expected = {name: leaf.shape for name, leaf in _named_leaves(template)}
    if not _same_structure(tree, template) or shapes != expected:
        raise ValueError(f"expected {what}, {expected}; got {shapes}")


def load(path: str | os.PathLike[str]) -> tuple[Flow, Params, dict[str, Any]]:
    """Read the flow of a file written by `save` or `jaxflows.save_incomplete`.

    Returns:
        ``(flow, params, metadata)``; parameters have the dtypes that ``flow.init`` gives now (float32 unless in 64-bit
        mode), whatever they were stored in, and are bit-identical to those saved unless stored in fewer bits.

    Raises:
        ModelFileError: missing, unreadable, truncated, tampered with, not a model, or from a newer version.
    """
    contents = read_file(path)
    return contents.flow, contents.params, contents.metadata


class Contents(NamedTuple):
    """What a model file holds.

    Attributes:
        flow: the flow.
        params: its parameters.
        inference: the description of what was trained beside it; empty where there is nothing.
        beside: the arrays of that, by name.
        metadata: as given to `save`.
    """

    flow: Flow
    params: Params
    inference: dict[str, Any]
    beside: dict[str, Any]
    metadata: dict[str, Any]


def read_file(path: str | os.PathLike[str]) -> Contents:
    """All of a model file; raises ModelFileError as `load` does."""
    path = Path(path)
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            description, sha256 = _read_header(path, file.metadata())
            flow, template = _rebuild(path, description)
            tensors = _read_tensors(path, file, template)
    except safetensors.SafetensorError as error:
        raise ModelFileError(f"{path}: truncated, or not a jaxflows model ({error})") from None
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read ({error.strerror or error})") from None
    if _checksum(description, tensors) != sha256:
        raise ModelFileError(f"{path}: its checksum is wrong: the file was damaged or edited after it was saved")
    leaves = [jnp.asarray(tensors[name], leaf.dtype) for name, leaf in _named_leaves(template)]
    tree = jax.tree.unflatten(jax.tree.structure(template), leaves)
    inference = description.get("inference", {})
    params = tree["flow"] if inference else tree
    if any(leaf.dtype == np.float16 for leaf in tensors.values()):
        params = _settle(flow, params)
    beside = {name: part for name, part in tree.items() if name != "flow"} if inference else {}
    return Contents(flow, params, inference, beside, description["metadata"])


@functools.partial(jax.jit, static_argnums=0)
def _settle(flow: Flow, params: Params) -> Params:
    return jax.lax.fori_loop(0, _SETTLING_STEPS, lambda _, p: flow.bijector.constrain(p), params)


def _template(flow: Flow, inference: dict[str, Any] | None = None) -> Any:
    params = jax.eval_shape(flow.init, jax.random.key(0))
    if not inference:
        return params
    # only files with a network pay for importing flax
    from jaxflows.persistence.inference_part import inference_template

    return {"flow": params, **inference_template(inference, flow)}


def _named_leaves(params: Params) -> list[tuple[str, Any]]:
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return [(jax.tree_util.keystr(path, simple=True, separator="/"), leaf) for path, leaf in leaves]


def _same_structure(left: Params, right: Params) -> bool:
    structure: Any = jax.tree.structure(left)
    return bool(structure == jax.tree.structure(right))


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _checksum(description: dict[str, Any], tensors: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256(_canonical(description).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"\n{name} {tensor.dtype} {tensor.shape}\n".encode())
        digest.update(tensor.tobytes())
    return digest.hexdigest()


def _read_header(path: Path, metadata: dict[str, str] | None) -> tuple[dict[str, Any], str]:
    text = (metadata or {}).get(_KEY)
    if text is None:
        raise ModelFileError(f"{path}: a safetensors file, but not a jaxflows model (its header has no {_KEY!r} entry)")
    try:
        header = json.loads(text)
        description, sha256 = header["description"], header["sha256"]
        version = int(description["format"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelFileError(f"{path}: its description is damaged ({error!r})") from None
    if version > FORMAT_VERSION:
        raise ModelFileError(
            f"{path}: written in format {version} by jaxflows {description.get('written_by')}; this version, "
            f"{__version__}, reads up to format {FORMAT_VERSION}: upgrade jaxflows"
        )
    return description, sha256


def _rebuild(path: Path, description: dict[str, Any]) -> tuple[Flow, Any]:
    try:
        flow = flow_of(description["event_shape"], from_spec(json.dumps(description["bijector"], sort_keys=True)))
        return flow, _template(flow, description.get("inference"))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelFileError(f"{path}: describes no flow that this version knows ({_brief(error)})") from None


def _brief(error: Exception) -> str:
    return " ".join(str(error).split())[:600]


def _read_tensors(path: Path, file: Any, template: Any) -> dict[str, np.ndarray]:
    expected = {name: list(leaf.shape) for name, leaf in _named_leaves(template)}
    slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (a file is no mapping)
    found = {name: part.get_shape() for name, part in slices.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise ModelFileError(
                f"{path}: expected tensor {name!r} of shape {expected.get(name, 'none')}; got {found.get(name, 'none')}"
            )
        if slices[name].get_dtype() not in _STORED.values():
            raise ModelFileError(f"{path}: expected floating-point tensors; got {slices[name].get_dtype()} in {name!r}")
    return {name: file.get_tensor(name) for name in found}
