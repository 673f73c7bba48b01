"""Reading data files, the shipped digits, masks by name or from a file, and mechanisms of missingness."""

from jaxflows.data.arrays import DataFileError, load_array
from jaxflows.data.digits_sample import load_digits_sample
from jaxflows.data.images import load_images
from jaxflows.data.masks import MASK_NAMES, load_mask, named_mask
from jaxflows.data.missingness import block, mar, mcar, mnar

__all__ = [
    "MASK_NAMES",
    "DataFileError",
    "block",
    "load_array",
    "load_digits_sample",
    "load_images",
    "load_mask",
    "mar",
    "mcar",
    "mnar",
    "named_mask",
]
