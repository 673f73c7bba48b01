"""The benchmark that trains the shipped whitened flows, on a few small images of each kind; and what is shipped."""

from __future__ import annotations

import gzip
import json

import jax
import numpy as np
import pytest
from PIL import Image

from benchmarks import train_whitened_flow
from benchmarks.results_file import read_rows
from benchmarks.train_whitened_flow import DATA
from jaxflows import flows, persistence


@pytest.fixture
def images(tmp_path):
    """A folder of data sets: sheets of 4 x 4 smooth images of 32 x 32 pixels, and files of 16 smooth digits."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "data"
    for name in ("cifar10", "mnist"):
        (folder / name).mkdir(parents=True)
    for sheet, digits in (("train", "train"), ("test", "t10k")):
        coarse = Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8))
        smooth = coarse.resize((128, 128), Image.Resampling.BILINEAR)
        smooth.save(folder / "cifar10" / f"{sheet}_00.webp", lossless=True)
        grey = np.asarray(smooth.convert("L").crop((0, 0, 112, 112)))
        tiles = grey.reshape(4, 28, 4, 28).swapaxes(1, 2).reshape(16, 28, 28)
        header = b"\0\0\x08\x03" + b"".join(side.to_bytes(4, "big") for side in tiles.shape)
        (folder / "mnist" / f"{digits}-images-idx3-ubyte.gz").write_bytes(gzip.compress(header + tiles.tobytes()))
    return folder


@pytest.mark.long
@pytest.mark.parametrize(
    ("data", "shape", "noise", "dense"), [("cifar10", (32, 32, 3), 0.02, 0), ("mnist", (28, 28, 1), 0.05, 4)]
)
def test_a_flow_is_trained_scored_and_saved_as_it_is_shipped(data, shape, noise, dense, images, tmp_path):
    runs = tmp_path / "runs"
    train_whitened_flow.main(["--data", data, "--quick", "--data-dir", str(images), "--run-dir", str(runs), "--epochs", "2"])
    here = runs / "quick"
    flow, params, about = persistence.load(here / DATA[data].model.name)
    assert flow == flows.whitened_image(event_shape=shape, layers=4, hidden=4, dense=dense)
    assert (about["pixel_scale"], about["noise_std"], about["training_rows"]) == (255, noise, 16)
    rows = json.loads((here / f"train_whitened_flow_{data}.json").read_text())["rows"]
    assert [row["model"] for row in rows] == ["flow", "gaussian"]
    assert np.isfinite(rows[0]["nats_per_dim"])
    assert rows[0]["parameters"] == sum(leaf.size for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize(("data", "most_bytes"), [("cifar10", 500_000), ("mnist", 2_000_000)])
def test_the_shipped_flow_is_that_of_the_results_file_and_beats_the_gaussian(data, most_bytes):
    model = DATA[data].model
    flow, params, about = persistence.load(model)
    rows = {row["model"]: row for row in read_rows(f"train_whitened_flow_{data}")}
    assert about["test"][0]["nats_per_dim"] == rows["flow"]["nats_per_dim"]
    assert rows["flow"]["parameters"] == sum(leaf.size for leaf in jax.tree.leaves(params))
    assert rows["flow"]["nats_per_dim"] > rows["gaussian"]["nats_per_dim"] + 0.1
    assert flow.bijector.explicit
    assert model.stat().st_size < most_bytes
