"""Checkpoints of a training run, by orbax: written aside and renamed, so that a kill at any moment loses only steps.

A checkpoint holds the state, whatever changes from step to step, the traces so far and a description of the run. Restoring
into a run that differs in any part of the description raises one error naming the parts. Orbax, slow to import, is imported
when first used.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax

State = TypeVar("State")


class Progress(NamedTuple):
    """Where a run stands besides its state; plain numbers and lists, kept as JSON.

    Attributes:
        step: steps done.
        seconds: training time spent, over all the processes the run has had.
        losses: the training loss of every step done.
        validation: ``[step, loss]`` of every validation done.
        stale: validations since the best one.
        finished: why the run ended, None while it goes on.
        others: what else was measured in every step done, by name; None in checkpoints older than this field.
    """

    step: int
    seconds: float
    losses: list[float]
    validation: list[list[float]]
    stale: int
    finished: str | None
    others: dict[str, list[float]] | None = None


class ForeignCheckpointError(ValueError):
    """A checkpoint of another model, other data or other settings; the message names the parts that differ."""


def structure(state: Any) -> str:
    """Names, shapes and dtypes of all arrays of a state, one line; equal exactly when a checkpoint fits."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return "; ".join(f"{jax.tree_util.keystr(path)} {leaf.shape} {leaf.dtype}" for path, leaf in leaves)


class Checkpoints:
    """Checkpoints of one run in one folder; the newest two are kept.

    Enter it as a context, which closes orbax's own threads.
    """

    def __init__(self, directory: str | os.PathLike[str], description: Mapping[str, Any]) -> None:
        """Open ``directory``, made when missing; ``description`` says what the run is, in JSON values."""
        import orbax.checkpoint as ocp

        self._ocp = ocp
        self._directory = Path(directory).resolve()
        self._description = dict(description)
        options = ocp.CheckpointManagerOptions(max_to_keep=2, enable_async_checkpointing=False)
        self._manager = ocp.CheckpointManager(self._directory, options=options)

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *error: object) -> None:
        self._manager.close()

    def save(self, state: Any, progress: Progress) -> None:
        """Write a checkpoint; it exists as a whole when this returns, and not at all before.

        Raises:
            OSError: the disk is full or not writable; the checkpoint before is as it was.
        """
        args = self._ocp.args
        about = {"description": self._description, "progress": progress._asdict()}
        content = args.Composite(state=args.StandardSave(state), about=args.JsonSave(about))
        try:
            self._manager.save(progress.step, args=content, force=True)
        # what orbax's storage library makes of a failed write depends on the file
        except (OSError, ValueError, RuntimeError) as error:
            raise OSError(
                f"the checkpoint of step {progress.step} could not be written to {self._directory}, where the one before is "
                f"as it was: is the disk full? ({' '.join(str(error).split())[:200]})"
            ) from error

    def restore(self, state: State) -> tuple[State, Progress] | None:
        """The newest checkpoint, in the structure of ``state``; None when the folder holds none.

        Raises:
            ForeignCheckpointError: it belongs to another model, other data or other settings.
        """
        step = self._manager.latest_step()
        if step is None:
            return None
        args = self._ocp.args
        about = self._manager.restore(step, args=args.Composite(about=args.JsonRestore()))["about"]
        self._compare(about["description"])
        abstract = jax.tree.map(self._ocp.utils.to_shape_dtype_struct, state)
        restored = self._manager.restore(step, args=args.Composite(state=args.StandardRestore(abstract)))["state"]
        return restored, Progress(**about["progress"])

    def _compare(self, found: Mapping[str, Any]) -> None:
        names = sorted(set(found) | set(self._description))
        differing = [name for name in names if found.get(name) != self._description.get(name)]
        if differing:
            parts = [(name, _brief(self._description.get(name)), _brief(found.get(name))) for name in differing]
            detail = "; ".join(f"expected {name} {ours}; got {theirs}" for name, ours, theirs in parts)
            raise ForeignCheckpointError(f"the checkpoint in {self._directory} belongs to another run ({detail})")


def _brief(value: Any, limit: int = 160) -> str:
    text = str(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."
