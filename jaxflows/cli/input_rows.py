"""Rows of a data file in the shape and scale of a model, and the masks laid over them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxflows.cli.errors import CommandError
from jaxflows.data import MASK_NAMES, DataFileError, load_array, load_digits_sample, load_images, load_mask, named_mask

SHIPPED = "shipped MNIST test digits"
NAN_MASK = "NaN"


class Rows(NamedTuple):
    """Selected rows of a file.

    Attributes:
        source: the file, for messages.
        values: (rows, *event), floating point, on the model's scale.
        numbers: (rows,), each row's number in the file.
        total: rows in the file.
        notes: what was decided without being asked.
    """

    source: str
    values: np.ndarray
    numbers: np.ndarray
    total: int
    notes: tuple[str, ...]


def read_data(
    path: Path | None, key: str | None, *, files: str = "*", tile: int | None = None, colour: bool = False
) -> np.ndarray:
    """The array of a data file as it is, the shipped digits without one; CommandError where it cannot be read.

    Args:
        path: the file, or a folder of images.
        key: which array of an .npz.
        files, tile: as `jaxflows.data.load_images`, of a folder.
        colour: whether a single image is read in colour rather than as grey.
    """
    if path is None:
        return load_digits_sample()[0]
    try:
        return load_images(path, pattern=files, tile=tile) if path.is_dir() else load_array(path, key=key, colour=colour)
    except DataFileError as error:
        raise CommandError(str(error)) from None


def fit_rows(
    array: np.ndarray, path: Path | None, event_shape: tuple[int, ...], chosen: slice, pixel_scale: float, owner: str
) -> Rows:
    """Bring an array to rows of events of ``event_shape``, floating point; raises CommandError where it does not fit.

    Args:
        array: (rows, *event), one event, or rows flattened or not where the model has them the other way.
        path: its file, for messages; None for the shipped digits.
        event_shape: of the model.
        chosen: rows wanted.
        pixel_scale: what 8-bit numbers are divided by.
        owner: whose event shape it is, for messages.
    """
    source = SHIPPED if path is None else str(path)
    size = int(np.prod(event_shape))
    if array.shape == event_shape:
        array = array[None]
    if event_shape[2:] == (1,) and array.shape[1:] == event_shape[:2]:
        array = array[..., None]
    flat = array.ndim == 2 or len(event_shape) == 1
    if array.shape[1:] != event_shape and flat and array.ndim > 1 and int(np.prod(array.shape[1:])) == size:
        array = array.reshape(len(array), *event_shape)
    if array.shape[1:] != event_shape:
        wanted = ", ".join(map(str, event_shape))
        raise CommandError(f"{source}: expected rows of shape ({wanted}), the events of {owner}; got {array.shape}")
    total, notes = len(array), []
    if not total:
        raise CommandError(f"{source}: holds no rows")
    numbers = np.arange(total)[chosen]
    if not len(numbers) or (chosen.stop is not None and chosen.stop > total):
        raise CommandError(f"--rows: expected rows from 0 to {total - 1}, those of {source}; got {_range(chosen)}")
    array = array[numbers]
    if array.dtype == np.uint8:
        array = (array / pixel_scale).astype(np.float32)
        notes.append(f"{source}: 8-bit numbers, divided by {pixel_scale:g}")
    elif array.dtype.kind in "iub":
        notes.append(f"{source}: numbers of type {array.dtype} taken as they are, not scaled")
        array = array.astype(np.float32)
    return Rows(source, array, numbers, total, tuple(notes))


def check_finite(rows: Rows) -> None:
    """Raise CommandError where anything is missing or infinite."""
    bad = np.argwhere(~np.isfinite(rows.values))
    if len(bad):
        row, *position = (int(i) for i in bad[0])
        raise CommandError(
            f"{rows.source}, row {rows.numbers[row]}: expected complete rows of finite numbers; "
            f"got {rows.values[(row, *position)]} at position {tuple(position)}"
        )


def _range(chosen: slice) -> str:
    return f"{chosen.start}:{'' if chosen.stop is None else chosen.stop}"


def is_named_mask(text: str) -> bool:
    """Whether a mask is given by name, its argument checked as far as it can be without an event shape."""
    kinds = {name.partition(":")[0] for name in MASK_NAMES}
    if text.partition(":")[0] not in kinds:
        return False
    if ":" in text:
        try:
            named_mask(text, (4096,))
        except ValueError as error:
            raise CommandError(f"--mask {text}: {error}") from None
    return True


def check_mask(text: str) -> None:
    """Raise CommandError for a mask that is neither a name nor a file."""
    if not is_named_mask(text) and not Path(text).is_file():
        raise CommandError(f"--mask {text}: neither a file nor one of {', '.join(MASK_NAMES)}")


def observed_entries(
    mask: str, rows: Rows, shape: tuple[int, ...], seed: int, *, key: str | None = None, option: str = "--mask"
) -> np.ndarray:
    """A mask for every row, True where observed: (rows, *event). Random masks differ from row to row.

    A row's mask depends on the seed and on its number in the file, not on the rows chosen beside it.

    Args:
        mask: a name, a file, or `NAN_MASK`.
        rows: the rows.
        shape: of an event, or of the picture that it is flattened from.
        seed: of random masks.
        key: which array of a mask file.
        option: what named the mask, for messages.
    """
    event_shape = rows.values.shape[1:]
    if mask == NAN_MASK:
        observed = ~np.isnan(rows.values)
    elif is_named_mask(mask):
        seeds = [int(np.random.SeedSequence([seed, number]).generate_state(1)[0]) for number in rows.numbers]
        try:
            observed = np.stack([named_mask(mask, shape, one) for one in seeds])
        except ValueError as error:
            raise CommandError(f"--mask {mask}: {error}") from None
        observed = observed.reshape(len(rows.values), *event_shape)
    else:
        observed = _mask_from_file(mask, rows, event_shape, key)
    bad = observed & ~np.isfinite(rows.values)
    if bad.any():
        row, *position = (int(i) for i in np.argwhere(bad)[0])
        value = rows.values[(row, *position)]
        where = "or NaN for missing" if mask == NAN_MASK else f"where {option} {mask if key is None else key} observes"
        hint = f"; leave {option} out to take NaN entries as missing" if np.isnan(value) else ""
        raise CommandError(
            f"{rows.source}, row {rows.numbers[row]}: expected finite numbers {where}; "
            f"got {value} at position {tuple(position)}{hint}"
        )
    return observed


def _mask_from_file(mask: str, rows: Rows, event_shape: tuple[int, ...], key: str | None) -> np.ndarray:
    try:
        observed = load_mask(mask, event_shape, key=key)
    except DataFileError as error:
        raise CommandError(str(error)) from None
    if observed.shape == event_shape:
        return np.repeat(observed[None], len(rows.values), axis=0)
    if len(observed) == rows.total:
        return observed[rows.numbers]
    if len(observed) == len(rows.values):
        return observed
    raise CommandError(f"{mask}: expected {rows.total} masks, one for each row of {rows.source}; got {len(observed)}")


def read_labels(path: Path, key: str | None, rows: Rows) -> np.ndarray:
    """The class of each of the rows, (rows,) integers from 0, or -1 where unknown (empty cells and NaN too).

    Args:
        path: a data file of one number for each row of the rows' file, or for each of the rows.
        key: which array of an .npz.
        rows: the rows.
    """
    array = read_data(path, key)
    values = array.reshape(-1)
    if array.ndim == 0 or values.size != len(array) or values.size not in (rows.total, len(rows.values)):
        raise CommandError(
            f"--labels {path}: expected {rows.total} labels, one for each row of {rows.source}; got shape {array.shape}"
        )
    if len(values) == rows.total:
        values = values[rows.numbers]
    labels = np.where(np.isnan(values), -1, values)
    wrong = np.flatnonzero((labels != np.round(labels)) | (labels < -1) | np.isinf(labels))
    if wrong.size:
        row = rows.numbers[wrong[0]]
        raise CommandError(
            f"--labels {path}, row {row}: expected a whole number from 0, or nothing where unknown; got {labels[wrong[0]]}"
        )
    return labels.astype(int)


def describe_mask(mask: str) -> str:
    """A mask's name in words, for the head of a picture."""
    kind, _, argument = mask.partition(":")
    if kind == "missing" and re.fullmatch(r"[0-9.]+", argument):
        return f"{100 * float(argument):g}% missing at random"
    if kind == "centre":
        return f"centre {argument} x {argument} missing"
    if kind in ("left", "right", "top", "bottom"):
        return f"{kind} half missing"
    words = {"all": "everything observed", "none": "nothing observed", NAN_MASK: "missing entries of the data"}
    return words.get(kind, f"mask {Path(mask).name}")
