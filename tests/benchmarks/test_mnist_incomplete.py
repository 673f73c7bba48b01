"""Ours on incomplete MNIST, on the shipped digits: every score a row promises, and better than the means of columns."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.incomplete_digits import Problem
from benchmarks.mnist_incomplete import measured
from benchmarks.mnist_sizes import QUICK
from benchmarks.systems import SYSTEMS
from jaxflows.data import load_digits_sample, mcar


@pytest.fixture(scope="module")
def problem():
    images, labels = load_digits_sample()
    rows = images.reshape(len(images), -1).astype(np.float32) / 255
    masks = mcar(len(rows), rows.shape[1:], 0.5, seed=0)
    train, test = slice(0, 128), slice(128, 136)
    return Problem(*(part[train] for part in (rows, masks, labels)), *(part[test] for part in (rows, masks, labels)))


@pytest.mark.parametrize(
    ("system", "own"),
    [
        ("ours", ("turns_a_row", "acceptance")),
        ("ours_by_class", ("turns_a_row", "acceptance")),
        ("ours_matched", ("turns_a_row", "acceptance")),
        ("ours_amortised", ("unconverged", "bound")),
    ],
)
def test_ours_complete_better_than_columns_and_their_rows_are_whole(problem, system, own):
    row = measured(system, problem, 0.5, 0, QUICK)
    bare = measured("column_mean", problem, 0.5, 0, QUICK)
    # the Gaussian of 128 digits, or sixteen of its principal components
    assert row["rmse_mean"] < 0.9 * bare["rmse_mean"]
    assert row["rmse_mean"] < row["rmse_sample"]
    assert row["draws"] is True
    assert row["training_rows"] == 128
    assert row["test_rows"] == 8
    scores = [
        row[name]
        for name in (
            "accuracy_incomplete", "accuracy_complete_classifier", "fid_sample", "coverage_90", "train_seconds", "step_seconds",
            *own,
        )
    ]  # fmt: skip
    assert np.isfinite(scores).all()
    if system != "ours_amortised":
        assert row["turns_a_row"] == 2.0
        assert 0 < row["acceptance"] <= 1
    else:
        assert row["unconverged"] == 0
    assert "coverage_90" not in bare


def test_every_size_names_systems_that_exist():
    assert set(QUICK.systems) <= set(SYSTEMS)
