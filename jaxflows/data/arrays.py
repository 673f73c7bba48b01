"""Read an array from a file, the format told by the name: IDX, images, NumPy and CSV. Every error names the file."""

from __future__ import annotations

import gzip
import io
import math
import os
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp")

_IDX_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


class DataFileError(ValueError):
    """A data file that cannot be read; the message names the file and what is wrong with it."""


def load_array(path: str | os.PathLike[str], *, key: str | None = None, colour: bool = False) -> np.ndarray:
    """Read one array; nothing in the file is executed or unpickled.

    ======================= ======================================= ===========================================
    name                    read as                                 shape, dtype
    ======================= ======================================= ===========================================
    ``*idx?-ubyte``, ``.gz``  IDX, gzipped or not (MNIST's format)    as stored
    ``.png .jpg .webp`` ... an image                                (height, width) or (height, width, 3), uint8
    ``.npy``                NumPy                                   as stored
    ``.npz``                the array ``key`` of a NumPy archive    as stored
    ``.csv``                numbers; a header is skipped            (rows, columns), float64, NaN where empty
    ======================= ======================================= ===========================================

    Args:
        path: the file.
        key: which array of an ``.npz``; not needed when there is only one, or one named 'data', 'images' or 'x'.
        colour: read images as RGB instead of grey.

    Raises:
        DataFileError: missing, unreadable, truncated, of a format not listed or not numeric.
    """
    path = Path(path)
    name = path.name.lower()
    read = next((reader for ending, reader in _READERS.items() if name.removesuffix(".gz").endswith(ending)), None)
    if read is None:
        raise DataFileError(
            f"{path}: expected a file named {', '.join(f'*{ending}' for ending in _READERS)}; got {path.name!r}"
        )
    try:
        content = path.read_bytes()
        if name.endswith(".gz"):
            content = gzip.decompress(content)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataFileError(f"{path}: truncated, or not gzip ({error})") from None
    except OSError as error:
        raise DataFileError(f"{path}: cannot be read ({error.strerror or error})") from None
    array = read(path, content, key, colour)
    if array.dtype.kind not in "biuf":
        raise DataFileError(f"{path}: expected numbers; got dtype {array.dtype}")
    return array


def _read_idx(path: Path, content: bytes, key: str | None, colour: bool) -> np.ndarray:
    del key, colour
    rank = content[3] if len(content) >= 4 else 0
    if content[:2] != b"\0\0" or len(content) < 4 + 4 * rank or content[2] not in _IDX_TYPES:
        raise DataFileError(f"{path}: not an IDX file (its first bytes are {content[:4].hex(' ') or 'missing'})")
    dtype = np.dtype(_IDX_TYPES[content[2]])
    shape = struct.unpack(f">{rank}I", content[4 : 4 + 4 * rank])
    expected = math.prod(shape) * dtype.itemsize
    got = len(content) - 4 - 4 * rank
    if got != expected:
        raise DataFileError(f"{path}: expected {expected} bytes of data for shape {shape}; got {got}: truncated or damaged")
    return np.frombuffer(content, dtype, offset=4 + 4 * rank).reshape(shape).astype(dtype.newbyteorder("="))


def _read_image(path: Path, content: bytes, key: str | None, colour: bool) -> np.ndarray:
    del key
    # only image files pay for importing Pillow
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(content)) as image:
            return np.asarray(image.convert("RGB" if colour else "L"))
    except UnidentifiedImageError:
        raise DataFileError(f"{path}: not an image that Pillow knows") from None
    # Pillow reports a damaged file by any of these, depending on the format
    except (OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError) as error:
        raise DataFileError(f"{path}: a truncated or damaged image ({error})") from None


def _read_npy(path: Path, content: bytes, key: str | None, colour: bool) -> np.ndarray:
    del key, colour
    try:
        return np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise DataFileError(f"{path}: truncated, or not a NumPy array of numbers ({_one_line(error)})") from None


def _read_npz(path: Path, content: bytes, key: str | None, colour: bool) -> np.ndarray:
    del colour
    try:
        if not content.startswith(b"PK"):
            raise zipfile.BadZipFile("it does not start as a zip archive does")
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            names = archive.files
            preferred = [name for name in ("data", "images", "x") if name in names]
            chosen = key or (names[0] if len(names) == 1 else next(iter(preferred), None))
            if chosen not in names:
                wanted = "one array, or one named 'data', 'images' or 'x'" if key is None else f"an array named {key!r}"
                raise DataFileError(f"{path}: expected {wanted}; got {names}")
            return archive[chosen]
    except DataFileError:
        raise
    except (ValueError, EOFError, OSError, zipfile.BadZipFile, zlib.error) as error:
        raise DataFileError(f"{path}: truncated, or not a NumPy archive of numbers ({_one_line(error)})") from None


def _read_csv(path: Path, content: bytes, key: str | None, colour: bool) -> np.ndarray:
    del key, colour
    try:
        lines = content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataFileError(f"{path}: not a text file ({error.reason} at byte {error.start})") from None
    cells = [(number, line.split(",")) for number, line in enumerate(lines, 1) if line.strip()]
    if cells and _row(cells[0][1]) is None:
        cells = cells[1:]
    if not cells:
        raise DataFileError(f"{path}: expected rows of numbers; got none")
    width = len(cells[0][1])
    rows = []
    for number, line in cells:
        row = _row(line)
        if len(line) != width:
            raise DataFileError(f"{path}, line {number}: expected {width} columns; got {len(line)}")
        if row is None:
            bad = next(cell for cell in line if _number(cell) is None)
            raise DataFileError(
                f"{path}, line {number}: expected numbers, or nothing where one is missing; got {bad.strip()!r}"
            )
        rows.append(row)
    return np.asarray(rows)


def _number(cell: str) -> float | None:
    cell = cell.strip().strip('"')
    if cell.lower() in ("", "na", "nan", "null", "?"):
        return math.nan
    try:
        return float(cell)
    except ValueError:
        return None


def _row(cells: list[str]) -> list[float] | None:
    numbers = [_number(cell) for cell in cells]
    return None if None in numbers else numbers  # type: ignore[return-value]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


_Reader = Callable[[Path, bytes, "str | None", bool], np.ndarray]
_READERS: dict[str, _Reader] = {
    "ubyte": _read_idx,
    ".idx": _read_idx,
    **dict.fromkeys(IMAGE_ENDINGS, _read_image),
    ".npy": _read_npy,
    ".npz": _read_npz,
    ".csv": _read_csv,
}
