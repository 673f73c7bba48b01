"""The benchmark that trains base flows: the command it gives, the score of what comes out, and a second start."""

from __future__ import annotations

import gzip
import json
import struct

import jax
import numpy as np
import pytest

from benchmarks import train_base_flows
from benchmarks.train_base_flows import PAPER, SCALED, Sizes, dequantised, whole_sizes
from jaxflows import persistence

SIDE = 8


@pytest.fixture
def digits(tmp_path):
    """A folder of data sets with small 'digits': dark but for one bright corner."""
    rng = np.random.default_rng(0)
    (tmp_path / "data" / "mnist").mkdir(parents=True)
    for part, count in (("train", 400), ("t10k", 30)):
        images = rng.integers(0, 3, (count, SIDE, SIDE), np.uint8)
        images[:, :4, :4] += rng.integers(0, 200, (count, 4, 4), np.uint8)
        content = b"\0\0\x08\x03" + struct.pack(">3I", *images.shape) + images.tobytes()
        (tmp_path / "data" / "mnist" / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(content))
    return tmp_path / "data"


def test_a_flow_is_trained_by_the_command_and_scored_in_bits_beside_the_published(tmp_path, digits, capsys):
    def start():
        folders = ["--data-dir", str(digits), "--run-dir", str(tmp_path / "runs"), "--output-dir", str(tmp_path)]
        train_base_flows.main(["--quick", "--only", "mnist", "--minutes", "0.03", "--test-images", "30", *folders])
        return json.loads((tmp_path / "base_flows.json").read_text())["rows"]

    (row,) = start()
    assert "--paper mnist" in capsys.readouterr().out
    flow, params, about = persistence.load(tmp_path / "runs" / "quick" / "mnist.safetensors")
    assert flow.event_shape == (SIDE, SIDE, 1)
    assert (row["data"], row["bits"], row["published"], row["test_images"]) == ("mnist", 8, 1.053, 30)
    assert (row["scales"], row["blocks"], row["hidden"], row["batch_size"]) == (2, 1, 4, 16)
    assert row["parameters"] == sum(leaf.size for leaf in jax.tree.leaves(params))
    assert row["steps"] == about["steps"] >= 1
    # far fewer than eight bits: most pixels have three levels
    images = train_base_flows.TEST_FILES["mnist"](digits)[..., None]
    nats = jax.vmap(lambda y: flow.log_prob(params, y))(dequantised(jax.random.key(1), images, 8)) / SIDE**2
    np.testing.assert_allclose(row["bits_per_dim"], 8 - np.mean(nats) / np.log(2), rtol=1e-4)
    assert row["bits_per_dim"] < 8
    # the run is over: the same command finds its end, and scores the same model; another data set's row stays
    other = {"data": "cifar10", "bits_per_dim": 2.0}
    (tmp_path / "base_flows.json").write_text(json.dumps({"rows": [other, {**row, "bits_per_dim": 0.0}]}))
    assert start() == [row, other]


def test_pixels_of_few_bits_are_spread_over_their_cells():
    images = np.arange(256, dtype=np.uint8).reshape(4, 8, 8)
    values = np.asarray(dequantised(jax.random.key(0), images, 5))
    np.testing.assert_array_equal(np.floor(values * 32), images // 8)
    assert np.std(values * 32 - images // 8) == pytest.approx(12**-0.5, rel=0.1)


def test_what_is_not_scaled_is_the_papers(tmp_path, monkeypatch, capsys):
    assert whole_sizes("cifar10", PAPER) == {"scales": 6, "blocks": 12, "hidden": 64, "batch_size": 64}
    assert whole_sizes("mnist", Sizes(None, 1, None, None)) == {"scales": 3, "blocks": 1, "hidden": 32, "batch_size": 128}
    assert SCALED.keys() == train_base_flows.FILES.keys() == train_base_flows.TEST_FILES.keys()
    monkeypatch.setattr(train_base_flows, "jaxflows_command", lambda arguments: 2)
    with pytest.raises(SystemExit, match="2"):
        train_base_flows.main(["--quick", "--only", "cifar10", "--run-dir", str(tmp_path)])
    for wrong, message in ((["--full", "--quick"], "give one of them"), (["--minutes", "0"], "minutes > 0")):
        with pytest.raises(SystemExit):
            train_base_flows.main(wrong)
        assert message in capsys.readouterr().err
