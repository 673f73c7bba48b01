"""What a training run did."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from jaxflows.training.loop import Ended


class FitReport(NamedTuple):
    """What a training run did. Losses are in nats per dimension, -mean log p(y) / d, estimated.

    Attributes:
        losses: (steps,) the loss of every step on its mini-batch, before the step.
        validation_steps: (validations,) steps done when the average was validated.
        validation_losses: (validations,) loss of the averaged parameters on the rows held out, always with the same
            noise and probes.
        steps: steps done, those before a resume included.
        seconds: time spent in steps and validations, compilation included, over all processes the run has had.
        lipschitz: certified Lipschitz bound of the returned parameters.
        stopped: why it ended: 'epochs', 'patience' or 'max_seconds'.
        resumed_at: the step a checkpoint was taken up from; 0 for a fresh run.
        micro_batches: parts that each step took its batch in, one after another; 1 without a memory limit.
        step_bytes: memory of a step on one device, as compiled; None without a memory limit.
    """

    losses: np.ndarray
    validation_steps: np.ndarray
    validation_losses: np.ndarray
    steps: int
    seconds: float
    lipschitz: float
    stopped: str
    resumed_at: int
    micro_batches: int
    step_bytes: int | None


def fit_report(ended: Ended, lipschitz: float) -> FitReport:
    """The report of a run that has ended."""
    done = ended.done
    return FitReport(
        losses=np.asarray(done.losses),
        validation_steps=np.asarray([number for number, _ in done.validation], int),
        validation_losses=np.asarray([value for _, value in done.validation]),
        steps=done.step,
        seconds=done.seconds,
        lipschitz=lipschitz,
        stopped=str(done.finished),
        resumed_at=ended.resumed_at,
        micro_batches=ended.parts,
        step_bytes=ended.bytes,
    )
