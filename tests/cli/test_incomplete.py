"""Rows with holes on the command line: train on them, complete with the network, score it beside the Gaussian, and refusals."""

import importlib
import json
import os
import re

import jax
import numpy as np
import pytest

from jaxflows.cli.main import main
from jaxflows.conditional.complete import complete
from jaxflows.metrics import completion_scores, fit_gaussian_em, gaussian_conditional, observed_log_likelihood
from jaxflows.persistence import load, load_incomplete
from jaxflows.training.predict_labels import predict_labels

COMPLETE = (np.random.default_rng(0).normal(size=(70, 3)) @ np.array([[1, 0.8, 0], [0, 0.6, 0.5], [0, 0, 1]])).astype(
    np.float32
)
ROWS, TEST = COMPLETE[:64], COMPLETE[64:]
OBSERVED = np.random.default_rng(1).random(ROWS.shape) < 0.7
# the sign of the first number, of every third row unknown
LABELS = np.where(np.arange(64) % 3, ROWS[:, 0] > 0, -1)
TEST_LABELS = (TEST[:, 0] > 0).astype(int)
SIZE = ("--blocks", "1", "--hidden", "4", "--batch-size", "16", "--epochs", "2")


def write_csv(path, rows):
    lines = [",".join("" if np.isnan(value) else f"{value:.9g}" for value in row) for row in rows]
    path.write_text("\n".join(["a,b,c", *lines]) + "\n")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A table with holes, a complete one, and the model that the command trained on the first."""
    place = tmp_path_factory.mktemp("holes")
    write_csv(place / "holes.csv", np.where(OBSERVED, ROWS, np.nan))
    write_csv(place / "test.csv", TEST)
    np.savez(place / "holes.npz", rows=ROWS, observed=OBSERVED)
    (place / "classes.csv").write_text("class\n" + "\n".join(str(label) if label >= 0 else "nan" for label in LABELS) + "\n")
    before = os.getcwd()
    os.chdir(place)
    try:
        labelled = ("--labels", "classes.csv", "--head-hidden", "5", "--metrics", "run.jsonl")
        assert main(["train", "--incomplete", "holes.csv", "--output", "m.safetensors", *labelled, *SIZE]) == 0
    finally:
        os.chdir(before)
    return place


@pytest.fixture
def there(folder, monkeypatch):
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.long
def test_training_keeps_flow_network_metadata_and_metrics(there):
    flow, model, metadata = load_incomplete("m.safetensors")
    assert flow.event_shape == (3,)
    # a hidden layer on the rows, and the map from there to two classes
    assert model.head.params["hidden"]["0"]["kernel"].shape == (3, 5)
    assert model.head.params["weight"].shape == (5, 2)
    assert (metadata["training_rows"], metadata["epochs"], metadata["steps"]) == (64, 2, 6)
    # a tenth of the rows is held out
    assert 36 <= metadata["labelled_rows"] <= np.sum(LABELS >= 0)
    assert metadata["observed_share"] == pytest.approx(OBSERVED.mean())
    lines = [json.loads(line) for line in (there / "run.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 7))
    assert all(
        line["loss"] == pytest.approx(line["cross_entropy"] - line["bound"]) and 0 <= line["unconverged"] < 1 for line in lines
    )
    assert [line["validation_loss"] for line in lines if "validation_loss" in line] == metadata["validation_losses"]
    # readers of plain flows take the flow
    jax.tree.map(np.testing.assert_array_equal, load("m.safetensors")[1], model.params)


@pytest.mark.long
def test_evaluation_scores_the_network_beside_the_gaussian_of_the_training_rows(there, capsys):
    arguments = ["evaluate", "test.csv", "--model", "m.safetensors", "--posterior", "amortised", "--samples", "8"]
    np.save("test_labels.npy", TEST_LABELS)
    beside = ("--train", "holes.csv", "--labels", "test_labels.npy")
    assert main([*arguments, *beside, "--save", "scores.json", "--quiet"]) == 0
    ours, gaussian = json.loads((there / "scores.json").read_text())
    table = [re.split(r"\s{2,}", line) for line in capsys.readouterr().out.splitlines()]
    assert [line[:2] for line in table] == [["mask", "system"], ["missing:0.5", "amortised"], ["missing:0.5", "Gaussian"]]
    assert float(table[1][3]) == pytest.approx(ours["rmse_mean"], abs=1e-4)

    # the same from the library
    from jaxflows.cli.input_rows import Rows, observed_entries

    seen = observed_entries("missing:0.5", Rows("", TEST, np.arange(6), 6, ()), (3,), 0)
    flow, model, _ = load_incomplete("m.safetensors")
    result = complete(
        jax.random.key(0), flow, model.params, TEST, seen, posterior=model.posterior, num_samples=8, progress=False
    )
    draws, solved = result.solved()
    assert solved.all()
    expected = completion_scores(jax.random.key(1), draws, TEST, seen)
    for name, value in expected._asdict().items():
        assert ours[name] == pytest.approx(value, rel=1e-4), name
    assert ours["bound"] == pytest.approx(np.nanmean(result.info.bound), rel=1e-4)
    assert ours["converged"] == 1
    found = predict_labels(flow, model, result).argmax(axis=1)
    assert ours["accuracy"] == pytest.approx(np.mean(found == TEST_LABELS))
    assert gaussian.get("accuracy") is None
    best, _ = fit_gaussian_em(np.where(OBSERVED, ROWS, np.nan), OBSERVED)
    missing = ~seen.all(axis=1)
    assert gaussian["bound"] == pytest.approx(observed_log_likelihood(best, TEST, seen)[missing].mean(), rel=1e-4)
    drawn = gaussian_conditional(best, TEST, seen, num_samples=8)
    error = (drawn.samples - TEST[:, None])[np.broadcast_to(~seen[:, None], drawn.samples.shape)]
    assert gaussian["rmse_sample"] == pytest.approx(np.sqrt(np.mean(error**2)), rel=1e-4)


def test_completion_by_the_network(there):
    assert main(["complete", "test.csv", "--model", "m.safetensors", "--mask", "missing:0.5", "--posterior", "amortised",
                 "--samples", "8", "--save", "done.npz", "--quiet"]) == 0  # fmt: skip
    result = np.load(there / "done.npz")
    assert json.loads(str(result["settings"]))["steps"] == 0
    flow, model, _ = load_incomplete("m.safetensors")
    again = complete(
        jax.random.key(0),
        flow,
        model.params,
        TEST,
        result["observed"],
        posterior=model.posterior,
        num_samples=8,
        progress=False,
    )
    # rows of a .csv are in double precision
    np.testing.assert_allclose(result["samples"], again.samples, rtol=1e-6)


@pytest.mark.parametrize("labelled", ["completions", "observed", ""])
def test_images_with_holes_train_a_whitened_flow_whose_completions_move_along(tmp_path, monkeypatch, capsys, labelled):
    monkeypatch.chdir(tmp_path)
    images = np.random.default_rng(0).integers(0, 256, (24, 8, 8)).astype(np.uint8)
    observed = np.random.default_rng(1).random(images.shape) < 0.6
    np.savez("holes.npz", images=images, observed=observed[..., None])
    np.save("classes.npy", (images[:, 0, 0] > 127).astype(int))
    labels = ("--labels", "classes.npy", "--head-hidden", "2,3", "--head-reads", labelled) if labelled else ()
    sizes = ("--flow", "whitened", "--hidden", "4", "--epochs", "2", "--batch-size", "8", "--metrics", "run.jsonl")
    holes = ("--key", "images", "--mask-key", "observed", "--output", "m.safetensors")
    assert main(["train", "--incomplete", "holes.npz", *holes, *sizes, *labels]) == 0
    assert "6 steps in" in capsys.readouterr().out
    lines = [json.loads(line) for line in (tmp_path / "run.jsonl").read_text().splitlines()]
    assert all(0 < line["acceptance"] <= 1 and line["step_size"] > 0 for line in lines)
    flow, _, metadata = load("m.safetensors")
    assert flow.event_shape == (8, 8, 1)
    assert (metadata["steps"], metadata["noise_std"]) == (6, 0.05)
    np.save("test.npy", images)
    scoring = ["evaluate", "test.npy", "--model", "m.safetensors", "--rows", "0:3", "--samples", "2", "--quiet"]
    if labelled:
        _, model, _ = load_incomplete("m.safetensors")
        assert model.posterior is None
        head = model.head.head if labelled == "observed" else model.head
        assert head.params["hidden"]["1"]["kernel"].shape == (3, 3, 2, 3)
        assert metadata["labelled_rows"] == 24
        np.save("three.npy", np.zeros(3, int))
        assert main([*scoring, "--labels", "three.npy", "--save", "scores.json"]) == 0
        assert 0 <= json.loads((tmp_path / "scores.json").read_text())[0]["accuracy"] <= 1
    else:
        assert main([*scoring, "--labels", "classes.npy"]) == 2
        assert "--labels: --model m.safetensors has no classifier" in capsys.readouterr().err
    assert main([*scoring, "--posterior", "amortised"]) == 2
    assert "--posterior amortised: --model m.safetensors holds no network" in capsys.readouterr().err


class _Stop(Exception):
    pass


@pytest.mark.parametrize(
    ("arguments", "module", "name"),
    [
        (("holes.csv",), "fit_incomplete", "fit_incomplete"),
        (("holes.npz", "--key", "rows", "--mask-key", "observed"), "fit_incomplete", "fit_incomplete"),
        (("holes.csv", "--posterior", "householder:3", "--rounds", "4"), "monte_carlo_em", "fit_by_em"),
    ],
)
def test_holes_are_nan_or_an_array_of_the_file(there, monkeypatch, arguments, module, name):
    del there

    def look(key, flow, data, observed, **settings):
        np.testing.assert_array_equal(observed, OBSERVED)
        np.testing.assert_allclose(data[observed], ROWS[observed], rtol=1e-6)
        if name == "fit_by_em":
            assert (settings["rounds"], settings["epochs"], settings["posterior"].name) == (4, 5, "householder(3)")
        raise _Stop

    monkeypatch.setattr(importlib.import_module(f"jaxflows.training.{module}"), name, look)
    with pytest.raises(_Stop):
        main(["train", "--incomplete", *arguments, "--output", "n.safetensors", "--quiet"])


NEVER = "every column to be observed in some row; got none for column 1: nothing can be learnt of it, leave it out"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "test.csv", "--mask", "left"), "--mask: only with --incomplete"),
        (("train", "test.csv", "--posterior", "prior"), "--posterior: only with --incomplete"),
        (
            ("train", "--incomplete", "holes.npz", "--flow", "whitened", "--validation", "0.2"),
            "--validation: not with --flow whitened and --incomplete, which moves completions",
        ),
        (
            ("train", "--incomplete", "holes.npz", "--flow", "realnvp", "--posterior", "prior"),
            "--posterior: not with --flow realnvp and --incomplete, which moves completions",
        ),
        (("train", "--incomplete", "holes.csv", "--rounds", "3"), "--rounds: only with a --posterior that completes the rows"),
        (
            ("train", "--incomplete", "holes.csv", "--posterior", "prior", "--minutes", "1"),
            "--minutes: not with --posterior prior, which trains by rounds",
        ),
        (("train", "--incomplete", "holes.csv", "--mask", "checkers"), "--mask checkers: neither a file nor one of all, none"),
        (
            ("train", "--incomplete", "holes.csv", "--mask", "all"),
            "holes.csv, row {row}: expected finite numbers where --mask all observes; got nan",
        ),
        (("train", "--incomplete", "never.csv"), f"never.csv: expected {NEVER}"),
        (
            ("train", "--incomplete", "holes.npz", "--key", "rows", "--mask-key", "seen"),
            "holes.npz: expected an array named 'seen'",
        ),
        (
            ("train", "--incomplete", "holes.npz", "--key", "rows", "--mask-key", "rows"),
            "holes.npz: expected a mask of zeros and",
        ),
        (("train", "--incomplete", "holes.csv", "--metrics", "notes.jsonl"), "--metrics notes.jsonl: expected metrics, a JSON"),
        (
            ("train", "--incomplete", "holes.csv", "--metrics", "test.csv"),
            "--metrics test.csv: expected a file named *.jsonl, or",
        ),
        (("train", "test.csv", "--labels", "classes.csv"), "--labels: only with --incomplete"),
        (("train", "test.csv", "--head-hidden", "4"), "--head-hidden: only with --incomplete"),
        (("train", "--incomplete", "holes.csv", "--head-hidden", "4"), "--head-hidden: only with --labels"),
        (("train", "--incomplete", "holes.csv", "--head-reads", "observed"), "--head-reads: only with --labels"),
        (
            ("train", "--incomplete", "holes.csv", "--labels", "test.csv"),
            "--labels test.csv: expected 64 labels, one for each row",
        ),
        (
            ("train", "--incomplete", "holes.csv", "--labels", "half.csv"),
            "--labels half.csv, row 63: expected a whole number from",
        ),
        (
            ("train", "--incomplete", "holes.csv", "--labels", "ones.csv", "--head-reads", "observed"),
            "--labels ones.csv: expected two classes at least",
        ),
        (
            ("train", "--incomplete", "holes.csv", "--memory", "8"),
            "argument --memory: expected a size as 8GiB, in one of B, kB",
        ),
        (
            ("evaluate", "test.csv", "--model", "m.safetensors", "--labels", "classes.csv"),
            "--labels: only with --posterior amortised",
        ),
        (("evaluate", "test.csv"), "the following arguments are required: --model"),
        (
            ("evaluate", "test.csv", "--model", "m.safetensors", "--samples", "1"),
            "argument --samples: expected a whole number >= 2",
        ),
        (("evaluate", "holes.csv", "--model", "m.safetensors"), "holes.csv, row {row}: expected complete rows of finite"),
        (("evaluate", "test.csv", "--model", "m.safetensors", "--mask", "all"), "--mask all: hides nothing of test.csv"),
        (("evaluate", "test.csv", "--model", "m.safetensors", "--train", "never.csv"), f"--train never.csv: expected {NEVER}"),
        (("evaluate", "test.csv", "--model", "m.safetensors", "--train", "none.csv"), "none.csv: cannot be read"),
        (("evaluate", "test.csv", "--model", "digits"), "test.csv: expected rows of shape (64), the events of --model digits"),
        (
            ("complete", "holes.csv", "--model", "plain.safetensors", "--posterior", "amortised"),
            "--posterior amortised: --model plain.safetensors holds no network",
        ),
    ],
)
def test_refusals_are_one_line(there, capsys, arguments, message):
    write_csv(there / "never.csv", np.where([True, False, True], ROWS, np.nan))
    (there / "notes.jsonl").write_text("a note\n")
    (there / "half.csv").write_text("class\n" + 63 * "1\n" + "0.5\n")
    (there / "ones.csv").write_text("class\n" + 64 * "1\n")
    if "plain.safetensors" in arguments:
        from jaxflows.persistence import save

        save("plain.safetensors", *load("m.safetensors")[:2])
    more = ("--output", "o.safetensors") if arguments[0] == "train" else ()
    assert main([*arguments, *more]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    first = int(np.flatnonzero(~OBSERVED.all(axis=1))[0])
    assert err.startswith(f"jaxflows: {message.format(row=first)}")
    assert not (there / "o.safetensors").exists()
