"""A completion with everything it came from, as one ``.npz`` file that an interrupted run goes on from."""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxflows.cli.errors import CommandError
from jaxflows.conditional.completion import Completion, RowInfo
from jaxflows.persistence import atomic_write

# wall time is left out, so that equal seeds write equal files
_INFO = tuple(name for name in RowInfo._fields if name != "seconds")
_ARRAYS = ("samples", "log_weights", "mean", "std", "anchor")


class Task(NamedTuple):
    """What is to be completed, and how.

    Attributes:
        rows: (rows, *event), as read; hidden entries hold the truth where it is known.
        observed: boolean, of the same shape.
        numbers: (rows,), row numbers in the data file.
        mask_of: (rows,), which of the masks each row has.
        settings: ``seed``, ``samples``, ``posterior``, ``steps``, ``model``, its ``fingerprint``, ``source`` (the data
            file) and ``masks`` (names): all that the result depends on besides the arrays.
    """

    rows: np.ndarray
    observed: np.ndarray
    numbers: np.ndarray
    mask_of: np.ndarray
    settings: dict[str, Any]


def write_completed(path: Path, task: Task, completion: Completion) -> None:
    """Write one ``.npz``, whole or not at all; the same task gives the same bytes."""
    arrays = {name: getattr(completion, name) for name in _ARRAYS}
    arrays |= {name: getattr(completion.info, name) for name in _INFO}
    arrays |= {"rows": task.rows, "observed": task.observed, "numbers": task.numbers, "mask_of": task.mask_of}
    content = io.BytesIO()
    # the fingerprint of the model's file stands for its parameters, whose last bits differ between machines
    call = {name: value for name, value in completion.call.items() if name != "params"}
    for name, text in (("settings", task.settings), ("call", call)):
        arrays[name] = np.asarray(json.dumps(text, sort_keys=True))
    np.savez(content, **arrays)
    atomic_write(path, content.getvalue())


def read_completed(path: Path) -> tuple[Task, Completion]:
    """Read what `write_completed` wrote; raises CommandError for any other file."""
    try:
        content = path.read_bytes()
        if not content.startswith(b"PK"):
            raise zipfile.BadZipFile("it does not start as a zip archive does")
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except OSError as error:
        raise CommandError(f"--resume {path}: cannot be read ({error.strerror or error})") from None
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise CommandError(f"--resume {path}: truncated, or not a NumPy archive ({' '.join(str(error).split())})") from None
    expected = {*_ARRAYS, *_INFO, "rows", "observed", "numbers", "mask_of", "settings", "call"}
    if set(arrays) != expected:
        raise CommandError(f"--resume {path}: not a result of 'jaxflows complete --save'")
    settings, call = (json.loads(str(arrays[name])) for name in ("settings", "call"))
    task = Task(arrays["rows"], arrays["observed"], arrays["numbers"], arrays["mask_of"], settings)
    info = RowInfo(**{name: arrays[name] for name in _INFO}, seconds=np.zeros(len(task.rows)))
    samples, log_weights, mean, std, anchor = (arrays[name] for name in _ARRAYS)
    return task, Completion(samples, log_weights, mean, std, anchor, info, (), call)
