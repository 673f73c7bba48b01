"""Make the digits the package ships: the first 300 images of the MNIST test set, with their labels.

    python -m benchmarks.make_digits_sample --data-dir ../shared/data

Writes jaxflows/data/digits/mnist_test_300.npz: ``images`` (300, 28, 28) uint8 and ``labels`` (300,) uint8.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np

from jaxflows.data.arrays import load_array

COUNT = 300
TARGET = Path(__file__).parent.parent / "jaxflows" / "data" / "digits" / "mnist_test_300.npz"


def main() -> None:
    """Read the IDX files and write the sample."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, default=os.environ.get("JAXFLOWS_DATA", "../shared/data"))
    folder = Path(parser.parse_args().data_dir) / "mnist"
    images = load_array(folder / "t10k-images-idx3-ubyte.gz")[:COUNT]
    labels = load_array(folder / "t10k-labels-idx1-ubyte.gz")[:COUNT]
    TARGET.parent.mkdir(exist_ok=True)
    np.savez_compressed(TARGET, images=images, labels=labels)
    print(f"{TARGET}: {len(images)} digits, {TARGET.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
