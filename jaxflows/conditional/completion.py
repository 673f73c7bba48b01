"""What `jaxflows.complete` returns: completed rows and their diagnostics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxflows.conditional.call_record import check_same_call
from jaxflows.conditional.diagnostics import resample, weight_report
from jaxflows.conditional.measured_rows import MeasuredRows
from jaxflows.conditional.partition import PARTITIONS
from jaxflows.conditional.sample import Draws


class RowInfo(NamedTuple):
    """Diagnostics, one entry a row.

    Attributes:
        residual: worst constraint residual max |P_H(g(y) - x_hidden)| over the row's draws.
        bound: lower bound on log p(y_observed) in nats; its standard error follows.
        bound_std_error: of ``bound``.
        iw_bound: importance-weighted bound, tighter.
        ess: effective sample size of the draws, of ``num_samples``.
        pareto_k: above 0.7 the weights cannot be trusted; NaN with fewer than 25 draws.
        converged: share of the draws whose constraint was solved to tolerance.
        evaluations: block evaluations spent.
        partition: the partition of the latent that was used, a name of `jaxflows.conditional.partition.PARTITIONS`.
        overlap: smallest cosine between the free latent and the tangent space at the anchor, in [0, 1]; NaN with a prior.
        acceptance: mean chance of the moves after the draws to be accepted; NaN without moves.
        seconds: wall time, compilation included where it happened.
        done: False for rows that an interrupt left untouched; their samples are NaN where hidden.
    """

    residual: np.ndarray
    bound: np.ndarray
    bound_std_error: np.ndarray
    iw_bound: np.ndarray
    ess: np.ndarray
    pareto_k: np.ndarray
    converged: np.ndarray
    evaluations: np.ndarray
    partition: np.ndarray
    overlap: np.ndarray
    acceptance: np.ndarray
    seconds: np.ndarray
    done: np.ndarray


class Completion(NamedTuple):
    """Completed rows.

    Attributes:
        samples: (rows, S, *event), draws from q, observed entries bit-identical to those given.
        log_weights: (rows, S), log p(y) - log q(y_hidden).
        mean: (rows, *event), mean of the draws that converged.
        std: (rows, *event), their standard deviation; 0 where observed.
        anchor: (rows, *event), the reference's own completion; of moves without weights the mean that they begin about.
        info: `RowInfo`.
        notes: what was decided without being asked, in full sentences.
        call: what was asked, an entry an argument (`jaxflows.conditional.call_record`), so that nothing else goes on from it.
    """

    samples: np.ndarray
    log_weights: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    anchor: np.ndarray
    info: RowInfo
    notes: tuple[str, ...]
    call: Mapping[str, str]

    def chosen(self, rows: np.ndarray) -> Completion:
        """Some rows: numbers of them, or a boolean a row. Arrays are copies."""
        picked = jax.tree.map(lambda leaf: leaf[rows], self._replace(notes=(), call={}))
        return picked._replace(notes=self.notes, call=self.call)

    def resampled(self, key: jax.Array, num_samples: int) -> np.ndarray:
        """(rows, num_samples, *event): self-normalised resampling by the importance weights."""
        keys = jax.random.split(key, len(self.samples))
        pick = jax.vmap(lambda k, s, w: resample(k, s, w, num_samples))
        return np.asarray(pick(keys, jnp.asarray(self.samples), jnp.asarray(self.log_weights)))

    def reweighted(self, log_factors: np.ndarray) -> Completion:
        """The same draws, weighed for a posterior that has another factor: p(y) p(seen | y) in place of p(y).

        Such as log p(mask | y) where the mask tells of the values (`jaxflows.networks.self_masking`), or of a measurement
        with noise beside the entries observed. Bounds, effective sample size and Pareto k are those of the new weights,
        where the old ones were known; mean and std stay those of the draws themselves.

        Args:
            log_factors: (rows, S), in nats.

        Raises:
            ValueError: another shape, or NaN or plus infinity for a draw that was solved.
        """
        factors = np.asarray(log_factors)
        if factors.shape != self.log_weights.shape:
            raise ValueError(f"expected log_factors of shape {self.log_weights.shape}; got {factors.shape}")
        solved = np.isfinite(self.log_weights)
        bad = factors[solved & ~(factors < np.inf)]
        if bad.size:
            raise ValueError(
                f"expected log_factors below infinity for every solved draw; got {'NaN' if np.isnan(bad[0]) else 'inf'}"
            )
        log_weights = np.where(solved, self.log_weights + factors, self.log_weights)
        report = jax.vmap(weight_report)(jnp.asarray(log_weights))
        unknown = np.isnan(self.info.bound)
        fresh = {name: np.where(unknown, getattr(self.info, name), new) for name, new in report._asdict().items()}
        return self._replace(log_weights=log_weights, info=self.info._replace(**fresh))

    def solved(self) -> tuple[np.ndarray, np.ndarray]:
        """The draws with those whose constraint was not solved replaced by the row's others in turn.

        Returns:
            (rows, S, *event), and (rows,) boolean: False for a row with no solved draw, whose draws are as they were.
        """
        good = np.isfinite(self.log_weights)
        first = np.argsort(~good, axis=1, kind="stable")
        count = good.sum(axis=1, keepdims=True)
        turn = np.take_along_axis(first, np.arange(good.shape[1]) % np.maximum(count, 1), axis=1)
        pick = np.where(good | (count == 0), np.arange(good.shape[1]), turn)
        samples = np.take_along_axis(self.samples, pick.reshape(pick.shape + (1,) * (self.samples.ndim - 2)), axis=1)
        return samples, count[:, 0] > 0


def blank(measured: MeasuredRows, num_samples: int, call: Mapping[str, str]) -> Completion:
    """A completion with no row done: NaN where hidden; rows with nothing hidden are done, no work being needed."""
    count = len(measured.given)
    whole = measured.hidden_counts == 0
    start = np.where(measured.seen, measured.given, np.nan).astype(measured.given.dtype)
    start[whole] = measured.given[whole]
    samples = np.repeat(start[:, None], num_samples, axis=1)
    scores = {name: np.full(count, np.nan) for name in RowInfo._fields}
    scores |= {"evaluations": np.zeros(count, np.int64), "done": whole.copy(), "seconds": np.zeros(count)}
    scores |= {"converged": np.where(whole, 1.0, np.nan), "partition": np.full(count, "", "<U7")}
    std = np.where(np.isnan(start), np.nan, 0.0).astype(start.dtype)
    log_weights = np.zeros((count, num_samples), start.dtype)
    return Completion(samples, log_weights, start.copy(), std, start.copy(), RowInfo(**scores), (), call)


def checked_resume(resume: Completion, call: Mapping[str, str]) -> Completion:
    """A copy of an interrupted result, to go on from; raises ValueError when it is of another call."""
    check_same_call(resume.call, call)
    return resume.chosen(np.arange(len(resume.samples)))._replace(notes=(), call=call)


def store(result: Completion, measured: MeasuredRows, batch: np.ndarray, drawn: Draws, seconds: float) -> None:
    """Write a batch of rows into the result's arrays."""
    kept = len(batch)
    drawn = jax.tree.map(lambda leaf: np.asarray(leaf)[:kept], drawn)
    seen, given = measured.seen[batch], measured.given[batch]
    result.samples[batch] = np.where(seen[:, None], given[:, None], drawn.samples)
    result.log_weights[batch] = drawn.log_weights
    # draws whose constraint was not solved are not completions: they stay visible in samples, flagged by their weight
    good = np.isfinite(drawn.log_weights)
    good = np.where(good.any(axis=1, keepdims=True), good, True)
    weights = (good / good.sum(axis=1, keepdims=True)).reshape(good.shape + (1,) * (given.ndim - 1))
    mean = np.sum(weights * drawn.samples, axis=1)
    spread = np.sqrt(np.sum(weights * (drawn.samples - mean[:, None]) ** 2, axis=1))
    result.mean[batch] = np.where(seen, given, mean)
    result.std[batch] = np.where(seen, 0.0, spread)
    result.anchor[batch] = np.where(seen, given, drawn.anchor)
    for name, values in drawn.report._asdict().items():
        getattr(result.info, name)[batch] = values
    result.info.residual[batch] = drawn.solve.residual
    result.info.converged[batch] = drawn.solve.converged
    result.info.evaluations[batch] = drawn.solve.evaluations
    result.info.partition[batch] = np.asarray(PARTITIONS)[drawn.partition]
    result.info.overlap[batch] = drawn.overlap
    result.info.acceptance[batch] = drawn.acceptance
    result.info.seconds[batch] = seconds / kept
    result.info.done[batch] = True
