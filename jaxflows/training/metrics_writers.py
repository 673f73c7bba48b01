"""Where the numbers of a training run go as they come: a file of JSON lines, TensorBoard event files, or a writer of your own.

A writer is a function ``(run, done) -> context manager``; entered, it gives ``write(step, numbers)``, which the run calls after
every step. ``run`` is a checksum of what the run is (model, data, options), and ``done`` the step it goes on from: whatever was
written of later steps belongs to a process that was killed, and is taken back, so that no step is there twice.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from jaxflows.persistence.atomic_write import atomic_write

Write = Callable[[int, Mapping[str, float]], None]
MetricsWriter = Callable[[str, int], AbstractContextManager[Write]]

_FOREIGN = "expected metrics, a JSON object with run and step a line; got something else in {path}, line {number}"


def json_lines(path: str | os.PathLike[str]) -> MetricsWriter:
    """One JSON object a step, ``{"run": ..., "step": ..., "loss": ...}``, a line each, on disk when the step is done.

    Lines of other runs in the same file are left alone: ``pandas.read_json(path, lines=True)`` reads all, "run" parts them.
    Numbers that are not finite are null.

    Args:
        path: the file, by convention ``*.jsonl``; made when missing, in a folder that exists.

    Raises:
        ValueError: a path where no file can be, or a file of something else; before the run starts.
    """
    path = Path(path)
    if path.is_dir() or not path.parent.is_dir():
        raise ValueError(f"expected metrics in a file of an existing folder; got {path}")
    _whole_lines(path)

    @contextlib.contextmanager
    def opened(run: str, done: int) -> Iterator[Write]:
        kept, torn = _whole_lines(path)
        lines = [text for text, line in kept if line["run"] != run or line["step"] <= done]
        if torn or len(lines) < len(kept):
            atomic_write(path, "".join(lines).encode())
        with open(path, "a", encoding="utf-8") as file:

            def write(step: int, numbers: Mapping[str, float]) -> None:
                finite = {name: value if math.isfinite(value) else None for name, value in numbers.items()}
                file.write(json.dumps({"run": run, "step": step, **finite}) + "\n")
                # a killed process then loses nothing of a step that a checkpoint counts
                file.flush()

            yield write

    return opened


def tensorboard(folder: str | os.PathLike[str]) -> MetricsWriter:
    """TensorBoard event files, ``FOLDER/RUN/events.out.tfevents.*``; ``tensorboard --logdir FOLDER`` draws them.

    A process that goes on from step n writes "start at n + 1", at which TensorBoard drops what a killed one wrote beyond.

    Args:
        folder: made when missing.

    Raises:
        ImportError: without the package tensorboardX, ``pip install "jaxflows[tensorboard]"``.
    """
    try:
        import tensorboardX  # noqa: F401
    except ImportError:
        raise ImportError('expected the package tensorboardX: pip install "jaxflows[tensorboard]"') from None

    @contextlib.contextmanager
    def opened(run: str, done: int) -> Iterator[Write]:
        from tensorboardX import RecordWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.proto.summary_pb2 import Summary

        place = Path(folder) / run
        place.mkdir(parents=True, exist_ok=True)
        # not its SummaryWriter, whose thread loses what it holds when the process is killed, and whose flush does not wait
        name = f"events.out.tfevents.{time.time_ns()}.{done}"
        with contextlib.closing(RecordWriter(str(place / name))) as records:

            def put(event: Any) -> None:
                records.write(event.SerializeToString())

            put(Event(wall_time=time.time(), file_version="brain.Event:2"))
            put(Event(wall_time=time.time(), step=done + 1, session_log=SessionLog(status=SessionLog.START)))

            def write(step: int, numbers: Mapping[str, float]) -> None:
                values = [Summary.Value(tag=name, simple_value=value) for name, value in numbers.items()]
                put(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))
                records.flush()

            yield write

    return opened


def metrics_writer(metrics: str | os.PathLike[str] | MetricsWriter | None) -> MetricsWriter | None:
    """What was given for ``metrics=`` as a writer: a path is a file of JSON lines."""
    return json_lines(metrics) if isinstance(metrics, str | os.PathLike) else metrics


@contextlib.contextmanager
def writing(metrics: MetricsWriter | None, description: Mapping[str, Any], done: int) -> Iterator[Write]:
    """``write(step, numbers)`` for the run described, which goes on from step ``done``; it does nothing without a writer."""
    if metrics is None:
        yield lambda step, numbers: None
        return
    run = hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()[:8]
    with metrics(run, done) as write:
        yield write


def _whole_lines(path: Path) -> tuple[list[tuple[str, dict[str, Any]]], bool]:
    """Every finished line with what it holds, and whether a kill left half a line after them."""
    try:
        text = path.read_text(encoding="utf-8") if path.exists() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"expected a readable file of metrics; got {path} ({error})") from None
    *finished, rest = text.split("\n")
    lines = []
    for number, piece in enumerate(finished, 1):
        try:
            line = json.loads(piece)
        except ValueError:
            line = None
        if not isinstance(line, dict) or not isinstance(line.get("step"), int) or "run" not in line:
            raise ValueError(_FOREIGN.format(path=path, number=number))
        lines.append((piece + "\n", line))
    if rest and not lines and not rest.startswith("{"):
        raise ValueError(_FOREIGN.format(path=path, number=1))
    return lines, bool(rest)
