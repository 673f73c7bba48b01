"""Folders of images: one array in the order of the names, sheets cut apart, and what is wrong is named."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from jaxflows.data import DataFileError, load_images


def save(folder, name, pixels):
    Image.fromarray(np.asarray(pixels, np.uint8)).save(folder / name)


def test_grey_images_come_without_channels_and_colour_with_them(tmp_path):
    grey = np.arange(24).reshape(2, 3, 4)
    save(tmp_path, "b.png", grey[1])
    save(tmp_path, "a.png", grey[0])
    (tmp_path / "labels.csv").write_text("1")
    np.testing.assert_array_equal(load_images(tmp_path), grey)
    colour = np.random.default_rng(0).integers(0, 256, (3, 4, 3))
    save(tmp_path, "c.png", colour)
    whole = load_images(tmp_path)
    assert whole.shape == (3, 3, 4, 3)
    np.testing.assert_array_equal(whole[2], colour)
    np.testing.assert_array_equal(load_images(tmp_path, pattern="c*"), colour[None])


def test_sheets_are_cut_row_by_row(tmp_path):
    tiles = np.arange(2 * 6 * 2 * 2).reshape(12, 2, 2)
    for number, name in enumerate(("one.png", "two.png")):
        sheet = tiles[6 * number : 6 * number + 6].reshape(2, 3, 2, 2).transpose(0, 2, 1, 3).reshape(4, 6)
        save(tmp_path, name, sheet)
    np.testing.assert_array_equal(load_images(tmp_path, tile=2), tiles)
    with pytest.raises(DataFileError, match="sheets with sides divisible by 4; got 4 x 6"):
        load_images(tmp_path, tile=4)


def test_no_images_and_a_damaged_one_are_named(tmp_path):
    with pytest.raises(DataFileError, match=r"expected images, '\*' named .*png.*; got none"):
        load_images(tmp_path)
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(DataFileError, match=r"a\.png: not an image"):
        load_images(tmp_path)
