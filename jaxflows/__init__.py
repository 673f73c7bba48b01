"""jaxflows: calibrated samples of what is missing given what was seen, from a normalizing flow trained once.

The public API, in full; each name is imported when it is first used, so importing the package costs little more than
importing JAX.

========== ============== ==========================================================================================
for        name           what
========== ============== ==========================================================================================
flows      flows          factories of whole flows: ``flows.residual``, ``flows.residual_image``, ``flows.flow_of``
           Flow           a bijector from data to latent and a standard normal base
           bijectors      the layers, one module a family
           log_det        estimators of log-determinants
           adapters       flows from outside: ``adapters.from_functions``, ``from_flowjax``, ``from_distrax``
training   fit            maximum likelihood on complete data
           fit_incomplete maximum likelihood, by its bound, on rows with holes, with an amortised posterior
           fit_by_em      the same by completing and fitting in turn
           fit_by_moves   the same with completions that move along with the flow: for explicit flows
           fit_classifier classes of rows with holes from what was observed, without a flow
           gaussian_start parameters with which a dense residual or a fully whitened flow begins as a Gaussian
           gaussian_completions rows filled by draws of a Gaussian: where completions may begin
           predict_labels classes of incomplete rows, where `fit_incomplete` was given labels
models     save, load     one file a model, no code in it; ``save_incomplete`` and ``load_incomplete`` with the network and
                          classifier that `fit_incomplete` trained, ``save_amortised`` and ``load_amortised`` of a
                          pre-generator trained once
conditions complete       samples, mean and diagnostics of the missing part, row by row
           match_levels   draws given the levels that observed entries have
           denoise        draws of a flow without the noise it was trained with
           complete_by_mcmc the same by exact Markov chains: the reference for any posterior, slower
           observe        ``observe.mask`` and ``observe.linear``
           measurements   entries, random projections, pooling, grey-scale, blur, cosine and Fourier transforms
           Observation    what was measured, as an orthogonal projector
           solve          one completion for given free latents, differentiable
           posteriors     families of posteriors on the free latents
           fit_posterior  fit one of them by its variational bound
           solvers        the constraint solvers behind ``solve``
inverse    infer          draws from p(y | b) for any noisy measurement b of an event, by any of fourteen methods
           inverse        noisy measurements, noise models and the methods
limit      hardness       the flow whose conditional samples would solve Boolean satisfiability
results    data           reading files, shipped digits, named masks
           metrics        scores of completions and the Gaussian baseline
           plotting       pictures of completions
========== ============== ==========================================================================================
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jaxflows.lazy import lazy_names
from jaxflows.version import __version__

if TYPE_CHECKING:
    from jaxflows import adapters, bijectors, data, flows, hardness, inverse, log_det, measurements, metrics, plotting, solvers
    from jaxflows import observation as observe
    from jaxflows.conditional import posteriors
    from jaxflows.conditional.complete import complete
    from jaxflows.conditional.complete_by_mcmc import complete_by_mcmc
    from jaxflows.conditional.constraint import solve
    from jaxflows.conditional.denoise import denoise
    from jaxflows.conditional.fit_posterior import fit_posterior
    from jaxflows.conditional.match_levels import match_levels
    from jaxflows.flows import Flow
    from jaxflows.inverse.infer import infer
    from jaxflows.observation import Observation
    from jaxflows.persistence import load, load_amortised, load_incomplete, save, save_amortised, save_incomplete
    from jaxflows.training.fit import fit
    from jaxflows.training.fit_by_moves import fit_by_moves
    from jaxflows.training.fit_classifier import fit_classifier
    from jaxflows.training.fit_incomplete import fit_incomplete
    from jaxflows.training.gaussian_completions import gaussian_completions
    from jaxflows.training.gaussian_start import gaussian_start
    from jaxflows.training.monte_carlo_em import fit_by_em
    from jaxflows.training.predict_labels import predict_labels

__all__ = [
    "Flow",
    "Observation",
    "__version__",
    "adapters",
    "bijectors",
    "complete",
    "complete_by_mcmc",
    "data",
    "denoise",
    "fit",
    "fit_by_em",
    "fit_by_moves",
    "fit_classifier",
    "fit_incomplete",
    "fit_posterior",
    "flows",
    "gaussian_completions",
    "gaussian_start",
    "hardness",
    "infer",
    "inverse",
    "load",
    "load_amortised",
    "load_incomplete",
    "log_det",
    "match_levels",
    "measurements",
    "metrics",
    "observe",
    "plotting",
    "posteriors",
    "predict_labels",
    "save",
    "save_amortised",
    "save_incomplete",
    "solve",
    "solvers",
]

# name -> module, or module:attribute
_PLACES = {
    "Flow": "jaxflows.flows:Flow",
    "Observation": "jaxflows.observation:Observation",
    "adapters": "jaxflows.adapters",
    "bijectors": "jaxflows.bijectors",
    "complete": "jaxflows.conditional.complete:complete",
    "complete_by_mcmc": "jaxflows.conditional.complete_by_mcmc:complete_by_mcmc",
    "data": "jaxflows.data",
    "denoise": "jaxflows.conditional.denoise:denoise",
    "fit": "jaxflows.training.fit:fit",
    "fit_by_em": "jaxflows.training.monte_carlo_em:fit_by_em",
    "fit_by_moves": "jaxflows.training.fit_by_moves:fit_by_moves",
    "fit_classifier": "jaxflows.training.fit_classifier:fit_classifier",
    "fit_incomplete": "jaxflows.training.fit_incomplete:fit_incomplete",
    "fit_posterior": "jaxflows.conditional.fit_posterior:fit_posterior",
    "gaussian_completions": "jaxflows.training.gaussian_completions:gaussian_completions",
    "gaussian_start": "jaxflows.training.gaussian_start:gaussian_start",
    "flows": "jaxflows.flows",
    "hardness": "jaxflows.hardness",
    "infer": "jaxflows.inverse.infer:infer",
    "inverse": "jaxflows.inverse",
    "load": "jaxflows.persistence:load",
    "load_amortised": "jaxflows.persistence:load_amortised",
    "load_incomplete": "jaxflows.persistence:load_incomplete",
    "log_det": "jaxflows.log_det",
    "match_levels": "jaxflows.conditional.match_levels:match_levels",
    "measurements": "jaxflows.measurements",
    "metrics": "jaxflows.metrics",
    "observe": "jaxflows.observation",
    "plotting": "jaxflows.plotting",
    "posteriors": "jaxflows.conditional.posteriors",
    "predict_labels": "jaxflows.training.predict_labels:predict_labels",
    "save": "jaxflows.persistence:save",
    "save_amortised": "jaxflows.persistence:save_amortised",
    "save_incomplete": "jaxflows.persistence:save_incomplete",
    "solve": "jaxflows.conditional.constraint:solve",
    "solvers": "jaxflows.solvers",
}

__getattr__, __dir__ = lazy_names(__name__, _PLACES, __all__)
