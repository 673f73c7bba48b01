"""Models as one file each: a JSON description and safetensors, read without running any code from the file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jaxflows.lazy import lazy_names
from jaxflows.persistence.atomic_write import atomic_write
from jaxflows.persistence.model_file import FORMAT_VERSION, ModelFileError, load, save

if TYPE_CHECKING:
    from jaxflows.persistence.amortised_file import load_amortised, save_amortised
    from jaxflows.persistence.incomplete_file import load_incomplete, save_incomplete

__all__ = [
    "FORMAT_VERSION",
    "ModelFileError",
    "atomic_write",
    "load",
    "load_amortised",
    "load_incomplete",
    "save",
    "save_amortised",
    "save_incomplete",
]

_PLACES = {
    f"{verb}_{what}": f"{__name__}.{what}_file:{verb}_{what}"
    for verb in ("load", "save")
    for what in ("amortised", "incomplete")
}

__getattr__, __dir__ = lazy_names(__name__, _PLACES, __all__)
