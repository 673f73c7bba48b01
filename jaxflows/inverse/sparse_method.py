"""Sparse recovery in a fixed orthonormal basis (Tibshirani 1996; Candes, Romberg and Tao 2006): a point, without any flow.

``pip install jaxflows[sparse]`` brings scikit-learn and, for wavelets, PyWavelets.
"""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxflows.bijectors.base import Params, Shape
from jaxflows.factory import factory
from jaxflows.flows import Flow
from jaxflows.inverse.method import Method, Outcome, check_positive, refuse_unless_linear, unweighted
from jaxflows.inverse.noise_extension import operator_matrix
from jaxflows.inverse.noisy_measurements import NoisyMeasurement

# between the last two scales PyWavelets may cut: an approximation of fewer entries than this is not split further
_LEAST_SIDE = 4


@factory
def sparse(*, basis: str = "dct", penalty: float = 1e-4, steps: int = 10_000) -> Method:
    """The event of few coefficients in an orthonormal basis D, by the Lasso; ONE point, however many samples are asked for.

        argmin_a  |A D^T a - b|^2 / (2 m) + penalty |a|_1,   y = D^T a

    Coordinate descent by scikit-learn. With Gaussian noise of several widths the squares are weighed by 1 / sigma^2, scaled to
    a mean of 1. The flow is not looked at, and b is met only as far as the penalty lets it.

    Args:
        basis: 'dct', the discrete cosine transform of every channel; or an orthogonal wavelet of PyWavelets, as 'haar' or
            'db4', periodic at the edges, for images whose sides are even.
        penalty: of a unit of coefficient; much above |D A^T b|_inf / m nothing is left.
        steps: sweeps through the coordinates, at most; the notes say when they ran out.

    Serves linear measurements, exact or with Gaussian noise. Cost: O(m d) a sweep, no block evaluations.
    """
    check_positive(penalty=penalty, steps=steps)

    def refuse(flow: Flow, measurement: NoisyMeasurement) -> str | None:
        return refuse_unless_linear(measurement) or _refuse_basis(basis, flow.event_shape)

    def run(key: jax.Array, flow: Flow, params: Params, measurement: NoisyMeasurement, num_samples: int) -> Outcome:
        del key, params, num_samples
        coefficients, converged = _lasso(basis, penalty, steps, flow.event_shape, measurement)
        event = _synthesis(basis, coefficients.reshape(1, *flow.event_shape))
        used = int(np.sum(coefficients != 0))
        notes = [f"one point of {used} coefficients other than zero, of {coefficients.size}: not a sample of a posterior"]
        if not converged:
            notes.append(f"the coordinate descent had not converged after {steps} sweeps")
        return unweighted(measurement, jnp.asarray(event, measurement.values.dtype), jnp.zeros((), jnp.int32), *notes)

    return Method("sparse", refuse, run)


def _refuse_basis(basis: str, event_shape: Shape) -> str | None:
    if importlib.util.find_spec("sklearn") is None:
        return "expected scikit-learn to be installed, `pip install jaxflows[sparse]`; got no such module"
    if basis == "dct":
        return None
    if importlib.util.find_spec("pywt") is None:
        return (
            f"expected PyWavelets to be installed for the basis {basis!r}, `pip install jaxflows[sparse]`; got no such module"
        )
    pywt = importlib.import_module("pywt")
    if basis not in pywt.wavelist(kind="discrete") or not pywt.Wavelet(basis).orthogonal:
        return f"expected the basis 'dct' or an orthogonal wavelet of PyWavelets, as 'haar' or 'db4'; got {basis!r}"
    if _levels(event_shape) == 0:
        return f"expected events with even sides of at least {2 * _LEAST_SIDE} for a wavelet; got {event_shape}"
    return None


def _axes(event_shape: Shape) -> tuple[int, ...]:
    """The spatial axes of a batch of events: all of a vector's and a grey image's, not the channels of a third."""
    return tuple(range(1, 1 + min(2, len(event_shape))))


def _levels(event_shape: Shape) -> int:
    """How often all sides can be halved, which keeps the periodic transform orthonormal, down to `_LEAST_SIDE`."""
    sides, levels = list(event_shape[:2]), 0
    while all(side % 2 == 0 and side >= 2 * _LEAST_SIDE for side in sides):
        sides, levels = [side // 2 for side in sides], levels + 1
    return levels


def _analysis(basis: str, events: np.ndarray) -> np.ndarray:
    """D of every event (n, *event), the same shape."""
    axes = _axes(events.shape[1:])
    if basis == "dct":
        result: np.ndarray = importlib.import_module("scipy.fft").dctn(events, axes=axes, norm="ortho")
        return result
    pywt = importlib.import_module("pywt")
    parts = pywt.wavedecn(events, basis, mode="periodization", level=_levels(events.shape[1:]), axes=axes)
    packed: np.ndarray = pywt.coeffs_to_array(parts, axes=axes)[0]
    return packed


def _synthesis(basis: str, coefficients: np.ndarray) -> np.ndarray:
    """D^T of every array of coefficients (n, *event)."""
    axes = _axes(coefficients.shape[1:])
    if basis == "dct":
        result: np.ndarray = importlib.import_module("scipy.fft").idctn(coefficients, axes=axes, norm="ortho")
        return result
    pywt = importlib.import_module("pywt")
    template = pywt.wavedecn(
        np.zeros_like(coefficients), basis, mode="periodization", level=_levels(coefficients.shape[1:]), axes=axes
    )
    slices = pywt.coeffs_to_array(template, axes=axes)[1]
    parts = pywt.array_to_coeffs(coefficients, slices, output_format="wavedecn")
    events: np.ndarray = pywt.waverecn(parts, basis, mode="periodization", axes=axes)
    return events


def _lasso(
    basis: str, penalty: float, steps: int, event_shape: Shape, measurement: NoisyMeasurement
) -> tuple[np.ndarray, bool]:
    """The coefficients (d,), and whether they converged."""
    assert measurement.linear is not None
    rows = operator_matrix(measurement.linear).astype(float)
    design = _analysis(basis, rows.reshape(-1, *event_shape)).reshape(len(rows), -1)
    sigma, weights = measurement.noise.sigma, None
    if sigma is not None and sigma.ndim:
        weights = np.asarray(sigma, float) ** -2
    linear_model: Any = importlib.import_module("sklearn.linear_model")
    lasso = linear_model.Lasso(alpha=penalty, fit_intercept=False, max_iter=steps, tol=1e-6)
    exceptions = importlib.import_module("sklearn.exceptions")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        lasso.fit(design, np.asarray(measurement.values, float), sample_weight=weights)
    converged = True
    for warning in caught:
        if issubclass(warning.category, exceptions.ConvergenceWarning):
            converged = False
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    return np.asarray(lasso.coef_, float), converged
