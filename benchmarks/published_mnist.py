"""What papers report on the MNIST test set with pixels missing by chance: numbers of theirs, none of ours.

Their protocols differ and are told in part only: errors are of the missing pixels in [0, 1]; classifiers are trained on
complete digits, except IVCNF's, trained with the flow on incomplete ones; the networks behind their Frechet distances were
never published, so that those compare with nothing measured here.
"""

from __future__ import annotations

from typing import Any

RATES = (0.5, 0.6, 0.7, 0.8, 0.9)
IVCNF = "Moens et al. 2021, Tables 1 to 3"
EMFLOW = "Ma and Ghosh 2021, MNIST table"

# (system, key, source, a value a rate)
VALUES: tuple[tuple[str, str, str, tuple[float | None, ...]], ...] = (
    ("IVCNF", "accuracy_incomplete", IVCNF, (0.9616, 0.9588, 0.9485, 0.9355, 0.886)),
    ("IVCNF", "fid_sample", IVCNF, (0.2692, 0.4398, 0.7823, 1.5491, 7.315)),
    ("IVCNF", "rmse_mean", IVCNF, (0.1127, 0.1221, 0.1340, 0.1470, 0.1924)),
    ("MCFlow", "accuracy_complete_classifier", IVCNF, (0.985, 0.979, 0.963, 0.905, 0.705)),
    ("MCFlow", "fid_sample", IVCNF, (0.8366, 0.9082, 1.951, 6.765, 15.11)),
    ("MCFlow", "rmse_mean", IVCNF, (0.10045, 0.11255, 0.12996, 0.15806, 0.20801)),
    ("MisGAN", "accuracy_complete_classifier", IVCNF, (0.968, 0.945, 0.872, 0.690, 0.334)),
    ("MisGAN", "fid_sample", IVCNF, (0.3634, 0.8870, 1.324, 2.334, 6.325)),
    ("MisGAN", "rmse_sample", IVCNF, (0.12174, 0.13393, 0.15445, 0.19455, 0.27806)),
    ("PL-MCMC", "fid_sample", IVCNF, (None, 5.7, None, None, 87.0)),
    ("PL-MCMC", "rmse_sample", IVCNF, (None, 0.1585, None, None, 0.261)),
    ("EMFlow", "accuracy_complete_classifier", EMFLOW, (0.9860, 0.9824, 0.9696, 0.9253, 0.7502)),
    ("EMFlow", "rmse_mean", EMFLOW, (0.0986, 0.1100, 0.1260, 0.1504, 0.1951)),
    ("GAIN", "rmse_mean", EMFLOW, (0.1723, 0.1794, 0.2167, 0.2200, 0.2710)),
)


def published_rows(rates: tuple[float, ...] = RATES) -> list[dict[str, Any]]:
    """A row a system and rate, with the keys that its paper reports, and ``source``."""
    rows: dict[tuple[str, float], dict[str, Any]] = {}
    for system, key, source, values in VALUES:
        for rate, value in zip(RATES, values, strict=True):
            if rate in rates and value is not None:
                row = rows.setdefault((system, rate), {"system": f"{system} (published)", "missing": rate, "source": source})
                row[key] = value
    return list(rows.values())
