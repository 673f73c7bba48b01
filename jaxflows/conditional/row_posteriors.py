"""The posteriors of a batch of rows, by whatever family: what the front doors do before they draw."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from jaxflows.bijectors.base import Params
from jaxflows.conditional.amortised import Amortised, mean_fields
from jaxflows.conditional.fit_posterior import Fitted, begin, fit_posterior
from jaxflows.conditional.measured_rows import MeasuredRows
from jaxflows.conditional.partition import check_partition
from jaxflows.conditional.posteriors import Posterior, gauss_newton, mean_field
from jaxflows.flows import Flow
from jaxflows.observation import LinearMeasurement, Observation
from jaxflows.solvers.equation import ConstraintSolver


class PosteriorChoice(NamedTuple):
    """A posterior as the user named it, resolved.

    Attributes:
        family: static.
        amortised: what gives each row its parameters; None where each starts at the family's own.
        partition: of the latent.
        fit_steps: for a trainable family.
    """

    family: Posterior
    amortised: Amortised | None
    partition: str
    fit_steps: int


def posterior_choice(
    posterior: Posterior | Amortised | None, observed: Any, partition: str, fit_steps: int | None
) -> PosteriorChoice:
    """Resolve the defaults, which are those of `jaxflows.complete`.

    Raises:
        ValueError: an unknown partition; an amortised posterior with a linear measurement or another partition than its own.
    """
    check_partition(partition)
    if not isinstance(posterior, Amortised):
        family = gauss_newton() if posterior is None else posterior
        return PosteriorChoice(family, None, partition, 200 if fit_steps is None else fit_steps)
    if isinstance(observed, LinearMeasurement) or partition not in ("auto", "same"):
        raise ValueError(
            "expected masks and the partition 'same' with an amortised posterior, whose network knows no other; got "
            f"{type(observed).__name__} and {partition!r}"
        )
    return PosteriorChoice(mean_field(start="prior"), posterior, "same", 0 if fit_steps is None else fit_steps)


def hidden_slots(measured: MeasuredRows, size: int) -> int:
    """Slots for the hidden entries of any of the rows.

    Rounded up to a sixteenth of the event, so that batches of similar masks share one compiled program.
    """
    return rounded_slots(int(np.max(measured.hidden_counts, initial=1)), size)


def observed_slots(measured: MeasuredRows, size: int) -> int:
    """Slots for the observed entries of any of the rows with something hidden, rounded likewise."""
    hidden_counts = measured.hidden_counts[measured.hidden_counts > 0]
    return rounded_slots(int(size - np.min(hidden_counts, initial=size)), size)


def rounded_slots(most: int, size: int) -> int:
    """Slots for ``most`` entries of ``size``."""
    unit = max(1, size // 16)
    return int(min(size, -(-most // unit) * unit))


def amortised_theta(choice: PosteriorChoice, max_hidden: int, observations: Observation, known: jax.Array) -> Any:
    """The family's parameters for each row, as the network says; None without one."""
    return None if choice.amortised is None else mean_fields(choice.amortised, max_hidden, observations, known)


def row_posteriors(
    family: Posterior,
    partition: str,
    fit_steps: int,
    max_hidden: int,
    flow: Flow,
    params: Params,
    keys: jax.Array,
    observations: Observation,
    known: jax.Array,
    theta: Any,
    solver: ConstraintSolver | None,
    mesh: Mesh | None = None,
) -> Fitted:
    """The posterior of each row: the family's start, or ``theta``, and for a trainable family what a fit makes of it.

    Rows are shared out over ``mesh``, each with its key: none depends on another.

    Raises:
        KeyboardInterrupt: the fit was interrupted.
    """
    trainable = jax.tree.leaves(jax.eval_shape(lambda k: family.init(k, max_hidden), keys[0]))
    if not trainable or (theta is not None and fit_steps == 0):
        return begin(flow, family, partition, max_hidden, params, observations, known, keys, theta, mesh)
    fitted, trace = fit_posterior(
        jax.vmap(lambda k: jax.random.fold_in(k, 1))(keys), flow, params, observations, known, posterior=family, theta=theta,
        steps=fit_steps, solver=solver, partition=partition, max_hidden=max_hidden, progress=False,
        devices=None if mesh is None else list(mesh.devices.flat),
    )  # fmt: skip
    if trace.interrupted:
        raise KeyboardInterrupt
    return fitted
