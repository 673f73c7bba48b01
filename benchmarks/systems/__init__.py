"""Other systems that complete rows with holes, as comparators: one signature for all.

    impute(key, train_rows, train_mask, test_rows, test_mask, **sizes) -> Imputed

Rows are (n, d) in [0, 1], masks boolean and True where observed, as everywhere in jaxflows; what stands in holes is not looked
at. Each system learns from the incomplete training rows alone and completes the test rows with what it learnt.
"""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.systems import emflow, gain, gaussian, mcflow, misgan, miwae, sklearn_imputers
from benchmarks.systems.imputed import Imputed

SYSTEMS: dict[str, Callable[..., Imputed]] = {
    "column_mean": gaussian.impute_column_mean,
    "gaussian_em": gaussian.impute,
    "gaussian_pairwise": gaussian.impute_pairwise,
    "mice": sklearn_imputers.impute_mice,
    "missforest": sklearn_imputers.impute_missforest,
    "emflow": emflow.impute,
    "mcflow": mcflow.impute,
    "misgan": misgan.impute,
    "gain": gain.impute,
    "miwae": miwae.impute,
}
