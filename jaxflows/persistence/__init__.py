"""Models as one file each: a JSON description and safetensors, read without running any code from the file."""

from jaxflows.persistence.atomic_write import atomic_write
from jaxflows.persistence.model_file import FORMAT_VERSION, ModelFileError, load, save

__all__ = ["FORMAT_VERSION", "ModelFileError", "atomic_write", "load", "save"]
