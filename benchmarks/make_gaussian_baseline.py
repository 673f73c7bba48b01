"""Make the Gaussian baseline the package ships, and measure what its compression costs.

    python -m benchmarks.make_gaussian_baseline --data-dir ../shared/data [--quick]

Fits mean and covariance to the 60,000 MNIST training digits, stores the Cholesky factor's lower triangle in float16 as
jaxflows/data/models/mnist_gaussian.npz, and compares the RMSE of the conditional mean with the float64 fit's on the
300 shipped test digits at 50 to 90% missing. Row keys: missing, rmse_float64, rmse_shipped, excess_fraction, kilobytes.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np

from benchmarks.results_file import write_results
from jaxflows.data import load_array, load_digits_sample, named_mask
from jaxflows.metrics import Gaussian, fit_gaussian, gaussian_conditional, load_mnist_gaussian

TARGET = Path(__file__).parent.parent / "jaxflows" / "data" / "models" / "mnist_gaussian.npz"


def rmse(gaussian: Gaussian, images: np.ndarray, observed: np.ndarray) -> float:
    """Root mean squared error of the conditional mean over missing pixels, pooled."""
    error = gaussian_conditional(gaussian, images, observed).mean - images
    return float(np.sqrt(np.mean(error[~observed] ** 2)))


def main() -> None:
    """Fit, ship, measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, default=os.environ.get("JAXFLOWS_DATA", "../shared/data"))
    parser.add_argument("--quick", action="store_true", help="measure on 30 digits, write nothing")
    options = parser.parse_args()
    full = fit_gaussian(load_array(Path(options.data_dir) / "mnist" / "train-images-idx3-ubyte.gz") / 255)
    if not options.quick:
        TARGET.parent.mkdir(exist_ok=True)
        triangle = full.factor[np.tril_indices(full.mean.size)].astype(np.float16)
        np.savez_compressed(TARGET, mean=full.mean.astype(np.float32), triangle=triangle)
    shipped = load_mnist_gaussian()
    images = load_digits_sample()[0][: 30 if options.quick else 300] / 255
    rows = []
    for percent in (50, 60, 70, 80, 90):
        observed = np.stack([named_mask(f"missing:{percent / 100}", (28, 28), seed) for seed in range(len(images))])
        exact, approximate = rmse(full, images, observed), rmse(shipped, images, observed)
        rows.append(
            {
                "missing": percent / 100,
                "digits": len(images),
                "rmse_float64": exact,
                "rmse_shipped": approximate,
                "excess_fraction": approximate / exact - 1,
                "kilobytes": TARGET.stat().st_size / 1000,
            }
        )
    if options.quick:
        print(*rows, sep="\n")
    else:
        write_results("make_gaussian_baseline", rows, seeds=range(len(images)))


if __name__ == "__main__":
    main()
