"""Masks by name and from files: what is hidden, the randomness of the random one, and refusals."""

from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image

from jaxflows.data import DataFileError, load_mask, named_mask


@pytest.mark.parametrize("shape", [(6,), (4, 6), (4, 6, 3)])
def test_all_and_none(shape):
    assert named_mask("all", shape).shape == shape
    assert named_mask("all", shape).all()
    assert not named_mask("none", shape).any()


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("left", (slice(None), slice(0, 3))),
        ("right", (slice(None), slice(3, 6))),
        ("top", (slice(0, 2), slice(None))),
        ("bottom", (slice(2, 4), slice(None))),
        ("centre:2", (slice(1, 3), slice(2, 4))),
        ("centre:4", (slice(0, 4), slice(1, 5))),
    ],
)
@pytest.mark.parametrize("channels", [(), (3,)])
def test_regions_of_an_image(name, missing, channels):
    observed = np.ones((4, 6, *channels), bool)
    observed[missing] = False
    np.testing.assert_array_equal(named_mask(name, (4, 6, *channels)), observed)


def test_halves_of_odd_lengths_are_complements():
    np.testing.assert_array_equal(named_mask("left", (5,)), ~named_mask("right", (5,)))
    assert named_mask("left", (5,)).tolist() == [False, False, True, True, True]


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_random_masks_miss_the_asked_fraction(fraction):
    shape = (200, 100)
    observed = named_mask(f"missing:{fraction}", shape, 3)
    error = 5 * math.sqrt(fraction * (1 - fraction) / observed.size)
    assert abs(1 - observed.mean() - fraction) <= error


def test_random_masks_follow_the_seed_and_keep_channels_together():
    shape = (8, 8, 3)
    observed = named_mask("missing:0.5", shape, 1)
    np.testing.assert_array_equal(observed, named_mask("missing:0.5", shape, 1))
    assert (observed != named_mask("missing:0.5", shape, 2)).any()
    np.testing.assert_array_equal(observed, np.repeat(observed[..., :1], 3, -1))


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("middle", (4, 4), "expected a mask of all, none, missing:FRACTION, .*; got 'middle'"),
        ("missing", (4, 4), "expected a number after the colon"),
        ("missing:half", (4, 4), "expected a number after the colon"),
        ("missing:nan", (4, 4), "expected a finite number"),
        ("missing:1.5", (4, 4), r"missing fraction in \[0, 1\]"),
        ("centre:2.5", (4, 4), "expected a number after the colon"),
        ("centre:0", (4, 4), "a side from 1 to 4"),
        ("centre:5", (4, 6), "a side from 1 to 4"),
        ("top", (4,), "expected an image for the mask 'top'"),
    ],
)
def test_bad_names_are_refused(name, shape, message):
    with pytest.raises(ValueError, match=message):
        named_mask(name, shape)


OBSERVED = np.array([[True, False, True], [False, True, True]])


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.float32])
def test_a_numpy_mask_file_comes_back(tmp_path, dtype):
    np.save(tmp_path / "mask.npy", OBSERVED.astype(dtype))
    np.testing.assert_array_equal(load_mask(tmp_path / "mask.npy", (2, 3)), OBSERVED)
    np.savez(tmp_path / "mask.npz", OBSERVED.astype(dtype))
    np.testing.assert_array_equal(load_mask(tmp_path / "mask.npz", (2, 3)), OBSERVED)


def test_a_picture_is_split_at_mid_grey_and_spread_over_channels(tmp_path):
    Image.fromarray(np.where(OBSERVED, 200, 60).astype(np.uint8)).save(tmp_path / "mask.png")
    np.testing.assert_array_equal(load_mask(tmp_path / "mask.png", (2, 3)), OBSERVED)
    np.testing.assert_array_equal(load_mask(tmp_path / "mask.png", (2, 3, 2)), np.stack([OBSERVED] * 2, -1))


def test_a_mask_a_row_comes_back(tmp_path):
    rows = np.stack([OBSERVED, ~OBSERVED])
    np.save(tmp_path / "mask.npy", rows)
    np.testing.assert_array_equal(load_mask(tmp_path / "mask.npy", (2, 3)), rows)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (OBSERVED.T, r"expected a mask of shape \(2, 3\), or one such a row; got \(3, 2\)"),
        (np.ones((1, 1, 2, 3)), "got \\(1, 1, 2, 3\\)"),
        (np.array([[0, 1, 2], [0, 1, 1]]), "zeros and ones; got values from 0 to 2"),
        (np.array([[0, 1, np.nan], [0, 1, 1]]), "zeros and ones"),
    ],
)
def test_bad_mask_files_are_refused(tmp_path, array, message):
    path = tmp_path / "mask.npy"
    np.save(path, array)
    with pytest.raises(DataFileError, match=message) as caught:
        load_mask(path, (2, 3))
    assert str(caught.value).startswith(f"{path}: ")
