"""The benchmark that trains the shipped flow of colour images, on a few small sheets; and what is shipped."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest
from PIL import Image

from benchmarks import train_whitened_flow
from benchmarks.results_file import read_rows
from benchmarks.train_whitened_flow import MODEL
from jaxflows import flows, persistence


@pytest.fixture
def sheets(tmp_path):
    """A folder of data sets with sheets of 4 x 4 smooth images of 32 x 32 pixels."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "data" / "cifar10"
    folder.mkdir(parents=True)
    for part in ("train", "test"):
        coarse = rng.integers(0, 256, (16, 16, 3), np.uint8)
        Image.fromarray(coarse).resize((128, 128), Image.Resampling.BILINEAR).save(folder / f"{part}_00.webp", lossless=True)
    return tmp_path / "data"


@pytest.mark.long
def test_a_flow_is_trained_scored_and_saved_as_it_is_shipped(sheets, tmp_path):
    train_whitened_flow.main(["--quick", "--data-dir", str(sheets), "--run-dir", str(tmp_path / "runs"), "--epochs", "2"])
    here = tmp_path / "runs" / "quick"
    flow, params, about = persistence.load(here / MODEL.name)
    assert flow == flows.whitened_image(event_shape=(32, 32, 3), layers=4, hidden=4)
    assert (about["pixel_scale"], about["noise_std"], about["training_rows"]) == (255, 0.02, 16)
    rows = json.loads((here / "train_whitened_flow.json").read_text())["rows"]
    assert [row["model"] for row in rows] == ["flow", "gaussian"]
    assert np.isfinite(rows[0]["nats_per_dim"])
    assert rows[0]["parameters"] == sum(leaf.size for leaf in jax.tree.leaves(params))


def test_the_shipped_flow_is_that_of_the_results_file_and_beats_the_gaussian():
    flow, params, about = persistence.load(MODEL)
    rows = {row["model"]: row for row in read_rows("train_whitened_flow")}
    assert about["test"][0]["nats_per_dim"] == rows["flow"]["nats_per_dim"]
    assert rows["flow"]["parameters"] == sum(leaf.size for leaf in jax.tree.leaves(params))
    assert rows["flow"]["nats_per_dim"] > rows["gaussian"]["nats_per_dim"] + 0.1
    assert flow.bijector.explicit
    assert MODEL.stat().st_size < 500_000
