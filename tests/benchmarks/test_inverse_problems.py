"""The benchmark of inverse problems: what it reads of an event, how it scores, and what a second start keeps."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import inverse_methods, inverse_problems
from benchmarks.inverse_methods import METHODS, Problem, gaussian_of_data
from benchmarks.inverse_problems import FULL, QUICK, SCALED, chosen_rows, scores
from benchmarks.inverse_tasks import DATA, INPAINTING, TASKS, Pixels, hidden_at_random, pixels_of, readings, training_masks
from jaxflows import flows, inverse, metrics, persistence

HIDDEN = {"inpainting_centre": 64, "inpainting_half": 392, "inpainting_random_50": 392, "inpainting_random_90": 706}
IMAGES = DATA["mnist"].test(Path())[:2]
NORMAL, FIVE_BITS = Pixels(None, 255.0, 0.05), Pixels(5, 256.0, 0.0)
DIGITS, EVENTS = NORMAL.clean(IMAGES), NORMAL.events(IMAGES)
COLOURED = (12, 12, 3)


@pytest.mark.parametrize("task", ["inpainting_centre", "inpainting_random_90", "compressed_sensing_50", "super_resolution_4"])
def test_a_task_reads_what_it_says(task):
    made, known = readings(task, EVENTS)
    sizes = {"compressed_sensing_50": 50, "super_resolution_4": 49}
    for event, reading, seen in zip(EVENTS, made, known, strict=True):
        np.testing.assert_allclose(reading.measure(event), reading.values, atol=1e-6)
        assert (~seen).sum() == HIDDEN.get(task, 784)
        assert reading.values.shape == (sizes.get(task, 784 - HIDDEN.get(task, 0)),)
        if seen.any():
            np.testing.assert_array_equal(reading.values, event[seen])
    assert (known[0] == known[1]).all() == ("random" not in task)


def test_colours_are_hidden_together_and_measured_as_grey():
    observed = hidden_at_random(0.9, COLOURED, 3)
    assert (observed == observed[..., :1]).all()
    assert (~observed[..., 0]).sum() == round(0.9 * 144)
    event = np.random.default_rng(0).random((1, *COLOURED)).astype(np.float32)
    (reading,), known = readings("colourisation", event)
    np.testing.assert_allclose(reading.values, event[0].reshape(-1, 3) @ [0.2126, 0.7152, 0.0722], atol=1e-6)
    assert not known.any()
    masks = training_masks(8, COLOURED)
    assert [int((~mask[..., 0]).sum()) for mask in masks] == 2 * [64, 72, 72, 130]
    # none of those drawn is a test image's
    assert not any((mask == hidden_at_random(0.5, COLOURED, number)).all() for mask in masks for number in range(8))


@pytest.mark.parametrize("pixels", [NORMAL, FIVE_BITS])
def test_events_are_spread_about_their_pixels_as_the_model_was_trained(pixels):
    images = np.random.default_rng(1).integers(0, 256, (50, 28, 28), np.uint8)
    clean, events = pixels.clean(images), pixels.events(images)
    # the noise of an image does not depend on those beside it, and another seed is other noise
    np.testing.assert_array_equal(pixels.events(images[:2]), events[:2])
    assert (pixels.events(images[:2], seed=1) != events[:2]).mean() > 0.9
    if pixels.bits is not None:
        np.testing.assert_array_equal(np.floor(events * 32), images // 8)
        np.testing.assert_array_equal(np.floor(clean * 32), images // 8)
    gaps = (events - clean).reshape(-1).astype(float)
    assert abs(gaps.mean()) < 5 * np.sqrt(pixels.variance() / gaps.size)
    # the fourth moment of a normal distribution is the larger of the two
    assert abs(gaps.var() - pixels.variance()) < 5 * pixels.variance() * np.sqrt(2 / gaps.size)
    assert pixels_of({"bits": pixels.bits, "pixel_scale": pixels.scale, "noise_std": pixels.noise}) == pixels


def test_scores_of_the_truth_of_exact_draws_and_of_a_point():
    rng = np.random.default_rng(1)
    known = np.zeros(EVENTS.shape, bool)
    known[:, :14] = True
    # what was observed is pasted in whatever a method left there
    draws = DIGITS[:, None] + 0.05 * rng.standard_normal((2, 40, 28, 28))
    draws[:, :, :14] = 7.0
    exact = scores(DIGITS, EVENTS, known, draws)
    assert abs(exact["coverage_90"] - 0.9) < 5 * np.sqrt(0.09 / 784)
    np.testing.assert_allclose(exact["rmse_sample"], 0.05, rtol=0.02)
    # of a normal distribution, scored by itself
    np.testing.assert_allclose(exact["crps"], 0.05 / np.sqrt(np.pi), rtol=0.05)
    np.testing.assert_allclose(
        exact["psnr"], float(metrics.psnr(np.clip(np.where(known, EVENTS, draws.mean(1)), 0, 1), DIGITS))
    )
    point = scores(DIGITS, EVENTS, known, DIGITS[:, None])
    hidden = ~known
    np.testing.assert_allclose(point["crps"], np.mean(np.abs(EVENTS - DIGITS)[hidden]), rtol=1e-4)
    np.testing.assert_allclose([point["rmse_mean"], point["rmse_sample"]], 0.0, atol=1e-7)
    assert np.isnan(point["coverage_90"])


@pytest.mark.parametrize("all_sizes", [FULL, SCALED, QUICK])
def test_every_method_can_be_made_for_every_task(all_sizes, monkeypatch, tmp_path):
    # the two that are prepared on training images have a test of their own
    for name in ("gaussian", "amortised"):
        monkeypatch.setitem(METHODS, name, METHODS["constraint"])
    made = {
        "mnist": flows.residual(event_shape=(28, 28), blocks=1, hidden=4),
        "mnist_whitened": flows.whitened_image(event_shape=(28, 28, 1), hidden=4, dense=4),
        "cifar10": flows.realnvp_image(event_shape=(16, 16, 3), scales=2, layers=2, hidden=4, blocks=1),
    }
    served = {"inpainting_half": list(METHODS), "super_resolution_4": [name for name in METHODS if name != "plmcmc"]}
    for data, flow in made.items():
        events = np.zeros((1, *flow.event_shape), np.float32)
        for task, names in served.items():
            problem = Problem(data, task, flow, None, NORMAL, "0", all_sizes[data], tmp_path, tmp_path)
            reading, found = readings(task, events)[0][0], []
            for name, make in METHODS.items():
                chosen = make(problem)
                assert (chosen.scaled == 1.0) or all_sizes is not FULL
                assert 0.0 < chosen.scaled <= 1.0
                found += [name] if chosen.method.refuse(flow, reading) is None else []
            assert found == names


def test_rows_are_chosen_by_data_task_and_method():
    every = chosen_rows([], False)
    assert len(every) == (11 + 11 + 7) * len(METHODS)
    assert ("cifar10", "colourisation", "amortised") in every
    assert not {("mnist", "colourisation", "csgm"), ("cifar10", "compressed_sensing_25", "csgm")} & set(every)
    assert chosen_rows([], True) == [("mnist", "inpainting_half", method) for method in METHODS]
    some = chosen_rows(["gaussian", "colourisation", "inpainting_half"], False)
    assert some == [
        *((digits, "inpainting_half", "gaussian") for digits in ("mnist", "mnist_whitened")),
        *(("cifar10", task, "gaussian") for task in (INPAINTING[1], "colourisation")),
    ]
    assert chosen_rows(["mnist", "colourisation"], False) == []


def test_the_gaussian_of_digits_has_the_noise_of_the_events(tmp_path):
    flow = flows.residual(event_shape=(28, 28), blocks=1, hidden=4)
    problem = Problem("mnist", "", flow, None, NORMAL, "0", QUICK["mnist"], tmp_path, tmp_path)
    with_noise, shipped = gaussian_of_data(problem).factor, metrics.load_mnist_gaussian().factor
    gain = np.diag(with_noise @ with_noise.T - shipped @ shipped.T)
    np.testing.assert_allclose(gain, 0.05**2, atol=1e-9)


@pytest.fixture
def start(tmp_path, monkeypatch, capsys):
    """``arguments -> rows`` of a quick run."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["inverse_problems", "--quick", "--run-dir", str(tmp_path), *arguments])
        inverse_problems.main()
        return json.loads((tmp_path / "inverse_problems.json").read_text())["rows"]

    yield run
    capsys.readouterr()


def test_a_second_start_keeps_what_was_measured_and_other_methods_keep_their_rows(start, monkeypatch):
    first = start("--only", "gaussian", "--samples", "3")
    assert [(row["data"], row["method"]) for row in first] == [("mnist", "gaussian")]
    assert first[0]["evaluations"] == 0
    assert first[0]["samples"] == 3
    assert first[0]["misfit"] < 1e-5
    assert 0.0 < first[0]["crps"] < 0.2
    monkeypatch.setattr(inverse_problems, "measured", lambda *arguments: None)
    assert start("--only", "gaussian", "sparse_haar", "--samples", "3") == first
    assert start("--only", "plmcmc") == first
    # other sizes are another row, and one not reached leaves what there is
    assert start("--only", "gaussian", "--max-seconds", "0") == first
    changed = {"data": "mnist", "task": "inpainting_half", "method": "gaussian"}
    monkeypatch.setattr(inverse_problems, "measured", lambda *arguments: changed)
    assert start("--only", "gaussian")[0].keys() == {*changed, "device"}


def test_colour_images_are_inferred_by_an_image_flow_and_what_was_prepared_is_kept(start, tmp_path, monkeypatch, random_params):
    flow = flows.realnvp_image(event_shape=COLOURED, scales=2, layers=2, hidden=4, blocks=1)
    params = random_params(flow)
    model = tmp_path / "model.safetensors"
    persistence.save(model, flow, params, metadata={"bits": 5, "pixel_scale": 256.0, "noise_std": 0.0})
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (1200, 1, 1, 3), np.uint8) // 2 + rng.integers(0, 100, (1200, *COLOURED), np.uint8)
    source = DATA["cifar10"]._replace(test=lambda folder: images[:2], train=lambda folder: images)
    monkeypatch.setitem(DATA, "cifar10", source)
    options = ("--model", str(model), "--samples", "30", "--steps", "1")
    arguments = ("--only", "cifar10", "colourisation", "gaussian", "amortised", *options)
    rows = {row["method"]: row for row in start(*arguments)}
    assert list(rows) == ["gaussian", "amortised"]
    assert rows["gaussian"]["misfit"] < 1e-4
    assert rows["amortised"]["scaled"] == 10 * 64 / (5000 * 256)
    assert min(row["seconds_prepared"] for row in rows.values()) > 0
    # neither the Gaussian nor the pre-generator is prepared a second time
    for module, name in ((inverse, "fit_amortised_pregenerator"), (inverse_methods, "pixel_moments")):
        monkeypatch.setattr(module, name, lambda *arguments, **options: pytest.fail("prepared again"))
    again = {row["method"]: row for row in start(*arguments, "--again")}
    assert again["amortised"]["crps"] == rows["amortised"]["crps"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--count", "1"), "expected 2 to 300 images and at least 1 of"),
        (("--count", "301"), "expected 2 to 300 images and at least 1 of"),
        (("--steps", "0"), "expected 2 to 300 images and at least 1 of"),
        (("--only", "mnist", "colourisation"), "no such task is measured of these data"),
        (("--model", "m.safetensors"), "expected one data set in --only; got mnist and mnist_whitened and cifar10"),
        (("--only", "mnist", "--model", "m.safetensors"), "m.safetensors: cannot be read"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_any_work(options, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["inverse_problems", *options])
    with pytest.raises(SystemExit) as refused:
        inverse_problems.main()
    assert re.search(message, capsys.readouterr().err + str(refused.value), re.DOTALL)


def test_a_model_of_other_images_is_refused(tmp_path, random_params):
    flow = flows.realnvp(event_shape=(8,), layers=2, hidden=4)
    for about, message in (({}, "says how pixels were scaled"), ({"bits": 8}, "expected a flow of mnist images, 784")):
        persistence.save(tmp_path / "m.safetensors", flow, random_params(flow), metadata=about)
        with pytest.raises(SystemExit, match=message):
            inverse_problems.loaded("mnist", tmp_path / "m.safetensors", tmp_path, tmp_path)


def test_every_task_is_of_some_data():
    assert {task for source in DATA.values() for task in source.tasks} == set(TASKS)
