"""Whole runs of ``jaxflows infer`` on a tiny flow, by a method that is cheap on it, and what is refused."""

from __future__ import annotations

import re

import numpy as np
import pytest
from PIL import Image

from jaxflows import flows, measurements, persistence
from jaxflows.cli.argument_types import measurement
from jaxflows.cli.errors import CommandError
from jaxflows.cli.main import main
from jaxflows.cli.named_measurements import hidden_entries, named_measurement, pictured, simulated

# Gauss-Newton compiles for half a minute on the tiny flow, a search for some seconds, sparse recovery not at all
SEARCH = ("--method", "csgm", "--steps", "20", "--samples", "2")
SPARSE = ("--method", "sparse")


def run(*arguments):
    assert main(["infer", *arguments]) == 0


def test_picture_table_and_result(here, capsys, rows_file, data, model):
    run(rows_file, "--measurement", "pool:2", *SEARCH, "--model", model, "--save", "result.npz", "--rows", "1:4")
    notes, head, line, wrote = capsys.readouterr().out.splitlines()
    assert notes == "rows 1, 2, 3: 2 of 3 restarts, least loss first: points, not samples of a posterior"
    assert re.split(r"\s{2,}", head)[:6] == ["measurement", "method", "rows", "samples", "RMSE mean", "RMSE sample"]
    cells = re.split(r"\s{2,}", line)
    assert cells[:4] == ["pool:2", "csgm", "3", "2"]
    assert wrote == "wrote inference.png and result.npz"
    assert (here / "inference.png").read_bytes().startswith(b"\x89PNG")
    result = np.load("result.npz")
    assert result["samples"].shape == (3, 2, 4, 4)
    np.testing.assert_array_equal(result["truth"], data[1:4])
    pooled = data[1:4].reshape(3, 2, 2, 2, 2).mean((2, 4))
    np.testing.assert_allclose(result["values"], pooled.reshape(3, 4), rtol=1e-6)
    np.testing.assert_allclose(result["observations"], pooled.repeat(2, 1).repeat(2, 2), atol=1e-6)
    error = np.sqrt(np.mean((result["samples"].mean(1) - data[1:4]) ** 2))
    assert float(cells[4]) == pytest.approx(error, abs=1e-4)
    again = ("--model", model, "--save", "again.npz", "--rows", "1:4", "--quiet")
    run(rows_file, "--measurement", "pool:2", *SEARCH, *again)
    assert capsys.readouterr() == ("", "")
    assert (here / "again.npz").read_bytes() == (here / "result.npz").read_bytes()


def test_a_picture_in_colour_is_read_as_the_model_has_it_and_its_grey_is_shown_as_grey(here, random_params):
    flow = flows.realnvp(event_shape=(4, 4, 3), layers=2, hidden=4)
    persistence.save("colour.safetensors", flow, random_params(flow))
    pixels = np.random.default_rng(0).integers(0, 256, (4, 4, 3), np.uint8)
    Image.fromarray(pixels).save(here / "photo.png")
    run("photo.png", "--measurement", "grey", *SPARSE, "--model", "colour.safetensors", "--save", "result.npz", "--quiet")
    result = np.load("result.npz")
    np.testing.assert_allclose(result["truth"][0], pixels / 255, atol=1e-6)
    shown = pictured(measurement("grey"), result["values"], result["observations"])
    np.testing.assert_allclose(
        shown, np.repeat(result["truth"] @ np.array(measurements.LUMINANCE)[:, None], 3, axis=-1), atol=1e-5
    )
    other = pictured(measurement("pool:2"), result["values"], result["observations"])
    np.testing.assert_array_equal(other, result["observations"])


def test_a_row_is_inferred_alike_whatever_is_beside_it(here, rows_file, model):
    del here
    for name, rows in (("some", "2"), ("all", "1:4")):
        run(rows_file, "--noise", "0.3", *SPARSE, "--model", model, "--save", f"{name}.npz", "--rows", rows, "--quiet")
    some, every = (np.load(f"{name}.npz") for name in ("some", "all"))
    np.testing.assert_array_equal(some["values"][0], every["values"][1])
    np.testing.assert_array_equal(some["samples"][0], every["samples"][1])
    assert not np.array_equal(every["values"][0] - every["values"][1], 0)


@pytest.mark.parametrize(
    ("text", "shape", "count"),
    [
        ("pool:2", (4, 4), 4), ("gaussian:5", (4, 4), 5), ("blur:1", (4, 4), None), ("dct:3", (4, 4), 3),
        ("fourier:0.5", (4, 4), None), ("grey", (2, 2, 3), 4), ("left", (4, 4), 8), ("missing:0.5", (4, 4), None),
        ("centre:2", (4, 4), 12), ("all", (4, 4), 16),
    ],
)  # fmt: skip
def test_measurements_by_name_of_images_and_of_the_same_images_flattened(text, shape, count):
    size = int(np.prod(shape))
    event = np.random.default_rng(0).random((1, *shape)).astype(np.float32)
    whole = named_measurement(measurement(text), shape, shape, 3)
    flat = named_measurement(measurement(text), shape, (size,), 3)
    values = simulated(whole, event, 0.0, np.array([0]), 0)
    np.testing.assert_allclose(simulated(flat, event.reshape(1, size), 0.0, np.array([0]), 0), values, atol=1e-6)
    assert flat.observation.observed.shape == (size,)
    assert count is None or values.shape == (1, count)
    hidden = hidden_entries(whole)
    assert hidden.sum() == (size - values.size if measurement(text).kind == "mask" else 0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pool:3", "--measurement pool:3: expected a factor of at least 2 that divides 4 and 4; got 3"),
        ("gaussian:17", "--measurement gaussian:17: expected 1 <= count <= 16"),
        ("grey", r"--measurement grey: expected events of shape \(height, width, 3\)"),
        ("centre:5", "--measurement centre:5: expected a centred square with a side from 1 to 4"),
        ("missing:1", "--measurement missing:1: expected at least one observed entry; got none"),
    ],
)
def test_measurements_that_the_images_cannot_have(text, message):
    with pytest.raises(CommandError, match=message):
        named_measurement(measurement(text), (4, 4), (4, 4), 0)


def test_what_does_not_fit_is_one_line_and_nothing_is_written(here, capsys, rows_file, data, model):
    def refused(*arguments, model=model):
        assert main(["infer", *arguments, "--model", model]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.count("\n") == 1
        assert not (here / "inference.png").exists()
        return err.removeprefix("jaxflows: ").rstrip()

    assert refused(rows_file, "--method", "plmcmc") == (
        "--method plmcmc: cannot serve pool:2: expected entries of the event, `jaxflows.measurements.entries`; "
        "got another measurement"
    )
    assert refused(rows_file, "--method", "gaussian").startswith("--method gaussian: expected a model that brings")
    assert refused(rows_file, "--steps", "3") == "--steps 3: the method constraint takes no steps; leave it out"
    assert refused().startswith("shipped MNIST test digits: expected rows of shape (4, 4)")
    data[2, 3, 0] = np.nan
    np.save("holes.npy", data)
    assert refused("holes.npy") == ("holes.npy, row 2: expected complete rows of finite numbers; got nan at position (3, 0)")
    assert "--rows: expected rows from 0 to 5" in refused(rows_file, "--rows", "6:7")


def test_an_interrupt_keeps_the_rows_that_are_done(here, capsys, rows_file, model, monkeypatch):
    from jaxflows.inverse import infer as module

    whole, calls = module.infer, []

    def interrupted(*arguments, **options):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return whole(*arguments, **options)

    monkeypatch.setattr("jaxflows.inverse.infer.infer", interrupted)
    assert main(["infer", rows_file, *SPARSE, "--model", model, "--rows", "1:5"]) == 130
    assert capsys.readouterr().err.splitlines()[-1] == ("jaxflows: interrupted with 2 of 4 rows done, kept in inference.npz")
    np.testing.assert_array_equal(np.load("inference.npz")["numbers"], [1, 2])
