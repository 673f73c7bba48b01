import importlib

import jax
import numpy as np
import pytest
from PIL import Image

from jaxflows import flows
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


@pytest.mark.long
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


def folder_of_images(here, count=12, size=(8, 4), colours=3):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (count, *size, colours), np.uint8)
    (here / "faces").mkdir()
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(here / "faces" / f"{number:02}.png")
    return pixels


@pytest.mark.long
def test_a_folder_of_images_trains_an_explicit_flow_in_bits_per_dimension(here, capsys):
    pixels = folder_of_images(here)
    options = ("--flow", "realnvp", "--bits", "5", "--scales", "1", "--hidden", "4", "--blocks", "1", "--validation", "0.4")
    arguments = ["train", "faces", "--output", "m.safetensors", "--epochs", "2", "--batch-size", "4", *options]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert out.startswith("faces: pixels of 5 bits, spread evenly over their cells of [0, 1]\n")
    flow, _, metadata = load("m.safetensors")
    assert flow.event_shape == pixels.shape[1:]
    assert flow.bijector.explicit
    assert (metadata["bits"], metadata["pixel_scale"]) == (5, 256)
    bits = metadata["validation_losses"][-1] / np.log(2) + 5
    assert metadata["bits_per_dimension"] == pytest.approx(bits)
    assert f"{bits:.4f} bits per dimension of 5-bit pixels; wrote m.safetensors" in out
    # noise has no better code than its own five bits
    assert bits > 5


def test_pixels_of_few_bits_fill_their_cells_and_the_paper_gives_what_is_not_given(here, monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 256, (32, 8, 8), np.uint8)
    np.save(here / "pixels.npy", pixels)
    seen = []

    def stop(key, flow, data, *, noise, **settings):
        seen.extend((flow, data, noise(key, np.zeros((500, 8, 8, 1), np.float32)), settings))
        raise FloatingPointError("enough")

    monkeypatch.setattr(importlib.import_module("jaxflows.training.fit"), "fit", stop)
    arguments = ["train", "pixels.npy", "--output", "m.safetensors", "--paper", "mnist", "--bits", "3", "--scales", "2"]
    assert main(arguments) == 2
    flow, data, noise, settings = seen
    np.testing.assert_array_equal(data, (pixels // 32)[..., None] / np.float32(8))
    assert noise.min() >= 0
    assert 0.124 < noise.max() < 0.125
    assert (settings["batch_size"], settings["learning_rate"]) == (128, 1e-3)
    assert flow is flows.realnvp_image(event_shape=(8, 8, 1), scales=2, blocks=8, hidden=32)
    seen.clear()
    whitened = ["train", "pixels.npy", "--output", "m.safetensors", "--flow", "whitened", "--hidden", "6"]
    assert main(whitened) == 2
    flow, data, noise, settings = seen
    np.testing.assert_allclose(data * np.float32(255), pixels[..., None], atol=1e-4)
    assert (settings["batch_size"], settings["learning_rate"]) == (64, 2e-3)
    assert flow is flows.whitened_image(event_shape=(8, 8, 1), layers=4, hidden=6, blocks=1)
    seen.clear()
    assert main([*whitened, "--dense", "5", "--marginals", "9"]) == 2
    assert seen[0] is flows.whitened_image(event_shape=(8, 8, 1), layers=4, hidden=6, blocks=1, dense=5, marginals=9)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--bits", "9"), "expected at most 8 bits; got '9'"),
        (("--bits", "5", "--noise", "0.1"), "--noise: not with --bits"),
        (("--paper", "mnist", "--scale", "2"), "--scale: not with --bits"),
        (("--scales", "2"), "--scales: only with --flow realnvp"),
        (("--flow", "realnvp", "--dense", "4"), "--dense: only with --flow whitened"),
        (("--marginals", "4"), "--marginals: only with --flow whitened"),
        (("--flow", "realnvp", "--hidden", "4,4"), "--hidden: expected one number of channels"),
        (("--flow", "whitened", "--scales", "2"), "--scales: only with --flow realnvp"),
        (("--flow", "whitened", "--paper", "mnist"), "--paper mnist: only with --flow realnvp"),
        (("--flow", "whitened"), "--flow whitened: expected images"),
        (("--flow", "residual", "--paper", "mnist"), "--paper mnist: only with --flow realnvp"),
        (("--tile", "8"), "--tile: expected a folder of images; got table.csv"),
        (("--bits", "5"), "--bits 5: expected 8-bit images; got numbers of type float64"),
        (("--flow", "realnvp"), "--flow realnvp: expected images"),
    ],
)
def test_options_of_image_flows_at_odds_are_one_line(table, capsys, more, message):
    try:
        status = main(["train", table, "--output", "m.safetensors", *more])
    except SystemExit as ended:
        status = ended.code
    assert status == 2
    assert message in capsys.readouterr().err


def test_images_that_scales_do_not_divide_and_an_odd_one_are_named(here, capsys):
    folder_of_images(here, size=(6, 4))
    arguments = ["train", "faces", "--output", "m.safetensors", "--flow", "realnvp"]
    assert main(arguments) == 2
    assert "--scales 3: cannot divide images of faces" in capsys.readouterr().err
    assert main([*arguments[:-1], "whitened"]) == 2
    assert "--flow whitened: cannot divide images of faces" in capsys.readouterr().err
    Image.fromarray(np.zeros((5, 5), np.uint8)).save(here / "faces" / "05.png")
    assert main(arguments) == 2
    assert "05.png: expected an image of 6 x 4 pixels, as 00.png; got 5 x 5" in capsys.readouterr().err
