"""Write a file whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path


def atomic_write(path: str | os.PathLike[str], content: bytes) -> None:
    """Write ``content`` to a neighbour of ``path``, flush it to disk and rename: readers see the old file or the new.

    Args:
        path: where to write; its folder must exist.
        content: the whole file.

    Raises:
        OSError: the folder is missing, full or not writable; ``path`` is then as it was.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with open(partial, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
