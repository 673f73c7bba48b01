"""Classes of incomplete rows, by the classifier of a model of incomplete rows (IVCNF Sec. 4.2.1)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxflows.conditional.completion import Completion
from jaxflows.conditional.incomplete_model import IncompleteModel
from jaxflows.conditional.row_classifier import RowClassifier
from jaxflows.flows import Flow
from jaxflows.networks.prediction_head import reads_events


def predict_labels(
    flow: Flow, model: IncompleteModel, completion: Completion, observed: np.ndarray | None = None
) -> np.ndarray:
    """Chances of the classes, averaged over the draws of each row.

        P(class | y_observed) ~ mean over draws of softmax(logits)

    of their latents, or of the draws themselves where the head has hidden layers, over the draws that were solved, or over all
    where none was. A head of `jaxflows.fit_incomplete` was trained on draws of q, not on weighted ones, and so they count
    alike; one of `jaxflows.fit_by_moves` on completions as the flow has them, and draws count by their weights.

    A classifier of `jaxflows.fit_classifier` reads what was observed, and draws nothing: its chances are
    ``model.head.chances(rows, observed)`` whatever was drawn.

    Args:
        flow: the flow.
        model: trained with labels.
        completion: of the rows, from ``jaxflows.complete(..., posterior=model.posterior)``, the posterior being None of a model
            without a network.
        observed: (rows, *event) boolean, for a classifier of what was observed; not looked at by others.

    Returns:
        (rows, classes), each row summing to 1.

    Raises:
        ValueError: a model trained without labels, or a classifier of what was observed that is not told what was.
    """
    if model.head is None:
        raise ValueError("expected a model trained with labels=; got one without a head")
    if isinstance(model.head, RowClassifier):
        if observed is None:
            raise ValueError("expected observed= for a classifier of what was observed; got none")
        return model.head.chances(completion.samples[:, 0], observed)
    head = model.head

    def row(y: jax.Array) -> jax.Array:
        t = y if reads_events(head.params) else jax.vmap(lambda t: flow.encode(model.params, t).reshape(-1))(y)
        return jax.nn.softmax(head.logits(t))

    chances = np.asarray(jax.jit(lambda samples: jax.lax.map(row, samples))(jnp.asarray(completion.samples)))
    solved = np.isfinite(completion.log_weights)
    counted = np.where(solved.any(axis=1, keepdims=True), solved, True).astype(float)
    if model.posterior is None:
        highest = np.max(completion.log_weights, axis=1, keepdims=True, where=solved, initial=-np.inf)
        counted = np.where(solved, np.exp(completion.log_weights - np.where(np.isfinite(highest), highest, 0.0)), counted)
    return np.sum(chances * counted[..., None], axis=1) / np.sum(counted, axis=1, keepdims=True)
