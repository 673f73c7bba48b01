"""What training on rows with holes leaves: a flow's parameters, its amortised posterior and a classifier."""

from __future__ import annotations

from typing import NamedTuple

from jaxflows.bijectors.base import Params
from jaxflows.conditional.amortised import Amortised
from jaxflows.conditional.row_classifier import RowClassifier
from jaxflows.networks.prediction_head import PredictionHead
from jaxflows.networks.self_masking import SelfMasking


class IncompleteModel(NamedTuple):
    """A flow and what was trained together with it.

    Attributes:
        params: the flow's parameters.
        posterior: q; ``jaxflows.complete(key, flow, model.params, rows, observed, posterior=model.posterior)`` draws from
            it, solves and weighs, and with ``fit_steps`` above 0 refines it row by row first. None where no network was
            trained, as by `jaxflows.fit_by_moves`.
        head: the classifier, of completions or their latents; or of what was observed, put there by
            ``model._replace(head=classifier)`` from `jaxflows.fit_classifier`. None when no labels were given.
        mask: the model of the mask given the data; None when it was not asked for.
    """

    params: Params
    posterior: Amortised | None
    head: PredictionHead | RowClassifier | None
    mask: SelfMasking | None = None

    @property
    def network_params(self) -> Params:
        """The inference network's parameters; None where there is none."""
        return None if self.posterior is None else self.posterior.params
