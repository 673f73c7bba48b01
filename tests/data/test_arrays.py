"""Loading files: every format comes back as it was written, and every bad file is named with what is wrong."""

from __future__ import annotations

import gzip
import io
import itertools
import pickle
import struct

import numpy as np
import pytest
from PIL import Image

from jaxflows.data import DataFileError, load_array, load_digits_sample

IMAGES = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)


def idx(array, code=0x08):
    header = bytes([0, 0, code, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


def npy(array, **options):
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


def npz(**arrays):
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def picture(array, kind, **options):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind, **options)
    return buffer.getvalue()


def assert_refused(path, reason, **options):
    with pytest.raises(DataFileError, match=reason) as caught:
        load_array(path, **options)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("t-idx3-ubyte", idx(IMAGES), IMAGES),
        ("t-idx3-ubyte.gz", gzip.compress(idx(IMAGES), mtime=0), IMAGES),
        ("t.idx", idx(np.array([-1, 300], np.int16), 0x0B), np.array([-1, 300], np.int16)),
        ("t.idx", idx(np.array([[0.5], [-2.0]], np.float32), 0x0D), np.array([[0.5], [-2.0]], np.float32)),
        ("t.npy", npy(IMAGES), IMAGES),
        ("t.npz", npz(only=IMAGES), IMAGES),
        ("t.npz", npz(labels=np.ones(2), images=IMAGES), IMAGES),
        ("t.png", picture(IMAGES[0], "PNG"), IMAGES[0]),
        ("T.PNG", picture(IMAGES[0], "PNG"), IMAGES[0]),
        ("t.webp", picture(np.stack([IMAGES[0]] * 3, -1), "WEBP", lossless=True), IMAGES[0]),
        ("t.csv", b"a,b\n1,2\n,nan\n3.5,-1e3\n", np.array([[1, 2], [np.nan, np.nan], [3.5, -1e3]])),
        ("t.csv", b"\xef\xbb\xbf1,2\r\n\r\n?,4\r\n", np.array([[1, 2], [np.nan, 4.0]])),
    ],
    ids=itertools.count(),
)
def test_a_good_file_comes_back(tmp_path, name, content, expected):
    path = tmp_path / name
    path.write_bytes(content)
    array = load_array(path)
    assert array.dtype == expected.dtype
    np.testing.assert_array_equal(array, expected)


def test_options_choose_an_array_and_colour(tmp_path):
    path = tmp_path / "t.npz"
    path.write_bytes(npz(a=IMAGES, b=np.ones(3)))
    np.testing.assert_array_equal(load_array(path, key="b"), np.ones(3))
    assert_refused(path, "expected one array, or one named 'data', 'images' or 'x'; got \\['a', 'b'\\]")
    assert_refused(path, "expected an array named 'c'", key="c")
    colours = np.arange(36, dtype=np.uint8).reshape(3, 4, 3)
    path = tmp_path / "t.png"
    path.write_bytes(picture(colours, "PNG"))
    np.testing.assert_array_equal(load_array(path, colour=True), colours)
    assert load_array(path).shape == (3, 4)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.idx", idx(IMAGES)),
        ("t-idx3-ubyte.gz", gzip.compress(idx(IMAGES), mtime=0)),
        ("t.npy", npy(IMAGES)),
        ("t.npz", npz(data=IMAGES)),
        ("t.png", picture(np.random.default_rng(0).integers(0, 255, (40, 40), np.uint8), "PNG")),
        ("t.jpg", picture(np.random.default_rng(0).integers(0, 255, (40, 40), np.uint8), "JPEG")),
        ("t.webp", picture(np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8), "WEBP", lossless=True)),
    ],
    ids=["idx", "idx.gz", "npy", "npz", "png", "jpg", "webp"],
)
@pytest.mark.parametrize("kept", [0.0, 0.3, 0.7, 0.95])
def test_a_truncated_file_is_refused(tmp_path, name, content, kept):
    path = tmp_path / name
    path.write_bytes(content[: int(kept * len(content))])
    assert_refused(path, "truncated|not an? (IDX|image|NumPy)")


class Trap:
    """Would end the process if it were unpickled."""

    def __reduce__(self):
        return (exec, ("raise SystemExit('unpickled')",))


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("t.npy", npy(np.array([Trap()], object), allow_pickle=True), "not a NumPy array of numbers"),
        ("t.npz", pickle.dumps(Trap()), "not a NumPy archive of numbers"),
        ("t.npz", npy(IMAGES), "not a NumPy archive"),
        ("t.npy", npy(np.array(["a"])), "expected numbers; got dtype <U1"),
        ("t.idx", b"\x89PNG\r\n\x1a\n", "not an IDX file .its first bytes are 89 50 4e 47"),
        ("t.idx", idx(IMAGES) + b"\0", "expected 24 bytes of data for shape .2, 3, 4.; got 25"),
        ("t.png", b"GIF without a picture", "not an image that Pillow knows"),
        ("t.csv", b"a,b\n1,2\n3\n", "line 3: expected 2 columns; got 1"),
        ("t.csv", b"a,b\n1,2\n3,four\n", "line 3: expected numbers, or nothing where one is missing; got 'four'"),
        ("t.csv", b"a,b\n", "expected rows of numbers; got none"),
        ("t.csv", b"\xff\xfe\x00", "not a text file"),
        ("t.dat", b"", "expected a file named .*; got 't.dat'"),
    ],
    ids=itertools.count(),
)
def test_a_foreign_file_is_refused(tmp_path, name, content, reason):
    path = tmp_path / name
    path.write_bytes(content)
    assert_refused(path, reason)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    assert_refused(tmp_path / "none.npy", "cannot be read .No such file")
    (tmp_path / "folder.npy").mkdir()
    assert_refused(tmp_path / "folder.npy", "cannot be read .Is a directory")


def test_the_shipped_digits_are_whole():
    images, labels = load_digits_sample()
    assert (images.shape, images.dtype) == ((300, 28, 28), np.uint8)
    assert (labels.shape, labels.dtype) == ((300,), np.uint8)
    assert images.max() == 255
    assert images[:, 0].max() == 0
    # the first test digits of MNIST are known: 7 2 1 0 4 1 4 9 5 9
    np.testing.assert_array_equal(labels[:10], [7, 2, 1, 0, 4, 1, 4, 9, 5, 9])
    np.testing.assert_array_equal(np.bincount(labels), [24, 41, 32, 24, 37, 29, 24, 34, 21, 34])
