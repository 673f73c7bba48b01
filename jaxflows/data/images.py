"""A folder of images of one size as one array, sheets of tiles cut apart."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from jaxflows.data.arrays import IMAGE_ENDINGS, DataFileError, load_array


def load_images(folder: str | os.PathLike[str], *, pattern: str = "*", tile: int | None = None) -> np.ndarray:
    """Every image of a folder, in the order of the files' names.

    Args:
        folder: holds images of one size; other files are passed over, and so are folders in it.
        pattern: which files, as ``train_*``.
        tile: the images are sheets of square images of this side, row by row.

    Returns:
        (n, height, width), uint8, where no image has a colour, otherwise (n, height, width, 3).

    Raises:
        DataFileError: no image, a damaged one, one of another size, or sides that ``tile`` does not divide.
    """
    folder = Path(folder)
    files = sorted(path for path in folder.glob(pattern) if path.suffix.lower() in IMAGE_ENDINGS and path.is_file())
    if not files:
        raise DataFileError(
            f"{folder}: expected images, {pattern!r} named {', '.join('*' + e for e in IMAGE_ENDINGS)}; got none"
        )
    images: list[np.ndarray] = []
    for path in files:
        image = load_array(path, colour=True)
        if images and image.shape != images[0].shape:
            wanted, got = (f"{height} x {width}" for height, width, _ in (images[0].shape, image.shape))
            raise DataFileError(f"{path}: expected an image of {wanted} pixels, as {files[0].name}; got {got}")
        images.append(image)
    whole = np.stack(images)
    if tile is not None:
        _, height, width, _ = whole.shape
        if height % tile or width % tile:
            raise DataFileError(f"{folder}: expected sheets with sides divisible by {tile}; got {height} x {width}")
        cut = whole.reshape(-1, height // tile, tile, width // tile, tile, 3)
        whole = cut.transpose(0, 1, 3, 2, 4, 5).reshape(-1, tile, tile, 3)
    grey = bool((whole[..., :1] == whole[..., 1:]).all())
    return np.ascontiguousarray(whole[..., 0]) if grey else whole
