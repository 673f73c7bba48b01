import importlib

import jax
import numpy as np
import pytest

from jaxflows.cli.main import main
from jaxflows.persistence import load


@pytest.fixture
def table(here):
    del here
    rows = np.random.default_rng(0).normal(size=(64, 3)).astype(np.float32)
    np.savetxt("table.csv", rows, delimiter=",", header="a,b,c", comments="")
    return "table.csv"


def train(table, output, *more):
    size = ("--blocks", "1", "--hidden", "4", "--batch-size", "16", "--epochs", "3")
    assert main(["train", table, "--output", output, *size, *more]) == 0


def test_train_saves_a_model_and_goes_on_from_its_checkpoint(table, capsys):
    train(table, "a.safetensors", "--checkpoint", "run", "--noise", "0.1")
    out = capsys.readouterr().out
    assert "9 steps in " in out
    assert out.endswith("nats per dimension held out; wrote a.safetensors\n")
    flow, params, metadata = load("a.safetensors")
    assert flow.event_shape == (3,)
    assert metadata["data"] == "table.csv"
    assert metadata["noise_std"] == 0.1
    assert metadata["training_rows"] == 64
    assert len(metadata["validation_losses"]) == 3
    # the run is over: the same command finds its end, trains no more and saves the same numbers
    train(table, "b.safetensors", "--checkpoint", "run", "--noise", "0.1", "--quiet")
    again = load("b.safetensors")[1]
    jax.tree.map(np.testing.assert_array_equal, params, again)
    # another run's checkpoint is refused
    arguments = ["train", table, "--output", "c.safetensors", "--blocks", "2", "--hidden", "4", "--checkpoint", "run"]
    assert main([*arguments, "--epochs", "3", "--batch-size", "16", "--quiet"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("jaxflows: --checkpoint run: the checkpoint in ")
    assert error.count("\n") == 1


def test_eight_bit_training_data_is_scaled_and_a_failed_fit_is_one_line(here, capsys, monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 256, (32, 2, 2), np.uint8)
    np.save(here / "pixels.npy", pixels)
    seen = []

    def diverge(key, flow, data, *, noise, **settings):
        seen.extend((data, noise(key, np.zeros((1000, 2, 2), np.float32)), settings))
        raise FloatingPointError("the training loss is nan at step 3")

    monkeypatch.setattr(importlib.import_module("jaxflows.training.fit"), "fit", diverge)
    arguments = ["train", "pixels.npy", "--output", "m.safetensors", "--epochs", "7", "--minutes", "2", "--rows", "0:20"]
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == "pixels.npy: 8-bit numbers, divided by 255\n"
    assert err == "jaxflows: pixels.npy: the training loss is nan at step 3\n"
    data, noise, settings = seen
    np.testing.assert_array_equal(data, (pixels[:20] / 255).astype(np.float32))
    # 4,000 draws of N(0, 0.05^2): the standard error of their deviation is 0.05 / sqrt(8000)
    assert abs(np.std(noise) - 0.05) < 5 * 0.05 / np.sqrt(8000)
    assert (settings["epochs"], settings["max_seconds"]) == (7, 120)
    assert not (here / "m.safetensors").exists()


def test_info_prints_events_size_bound_and_metadata(model, capsys):
    assert main(["info", model]) == 0
    lines = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines())
    facts = {name: value.strip() for name, value in lines.items()}
    assert facts["event shape"] == "4 x 4"
    assert facts["residual blocks"] == "2"
    assert facts["parameters"].isdecimal()
    assert 0 < float(facts["Lipschitz bound"].removesuffix(" (certified)")) < 1
    assert facts["losses"] == "0, 1, 2, ..., 8 (9 numbers)"
