"""Reading data files, the shipped digits, and masks by name or from a file."""

from jaxflows.data.arrays import DataFileError, load_array
from jaxflows.data.digits_sample import load_digits_sample
from jaxflows.data.masks import MASK_NAMES, load_mask, named_mask

__all__ = ["MASK_NAMES", "DataFileError", "load_array", "load_digits_sample", "load_mask", "named_mask"]
