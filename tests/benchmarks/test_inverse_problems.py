"""The benchmark of inverse problems: what it reads of an event, how it scores, and what a second start keeps."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from benchmarks import inverse_problems
from benchmarks.inverse_problems import FULL, METHODS, QUICK, SCALED, TASKS, digits_and_events, readings, scores
from jaxflows import flows, metrics

HIDDEN = {"inpainting_centre": 64, "inpainting_half": 392, "inpainting_random_50": 392, "inpainting_random_90": 706}
DIGITS, EVENTS = digits_and_events(2)


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


@pytest.mark.parametrize("sizes", [FULL, SCALED, QUICK])
def test_every_method_can_be_made_for_every_task(sizes):
    flow = flows.residual(event_shape=(28, 28), blocks=1, hidden=4)
    served = {task: [] for task in ("inpainting_half", "super_resolution_4")}
    for task, names in served.items():
        reading = readings(task, EVENTS[:1])[0][0]
        for name, make in METHODS.items():
            chosen = make(task, sizes)
            assert (chosen.scaled == 1.0) or sizes is not FULL
            assert 0.0 < chosen.scaled <= 1.0
            if chosen.method.refuse(flow, reading) is None:
                names.append(name)
    assert served["inpainting_half"] == list(METHODS)
    assert served["super_resolution_4"] == [name for name in METHODS if name != "plmcmc"]
    assert len(TASKS) == 11


def test_a_second_start_keeps_what_was_measured_and_other_methods_keep_their_rows(tmp_path, monkeypatch, capsys):
    def start(*arguments):
        monkeypatch.setattr(sys, "argv", ["inverse_problems", "--quick", "--run-dir", str(tmp_path), *arguments])
        inverse_problems.main()
        return json.loads((tmp_path / "inverse_problems.json").read_text())["rows"]

    first = start("--methods", "gaussian", "--samples", "3")
    assert [row["method"] for row in first] == ["gaussian"]
    assert first[0]["evaluations"] == 0
    assert first[0]["samples"] == 3
    assert first[0]["misfit"] < 1e-5
    assert 0.0 < first[0]["crps"] < 0.2
    monkeypatch.setattr(inverse_problems, "measured", lambda *arguments: None)
    assert start("--methods", "gaussian", "sparse_haar", "--samples", "3") == first
    assert start("--methods", "plmcmc") == first
    # other sizes are another row, and one not reached leaves what there is
    assert start("--methods", "gaussian", "--max-seconds", "0") == first
    monkeypatch.setattr(inverse_problems, "measured", lambda *arguments: {"task": "inpainting_half", "method": "gaussian"})
    assert start("--methods", "gaussian")[0].keys() == {"task", "method", "device"}
    capsys.readouterr()


@pytest.mark.parametrize("option", [("--digits", "1"), ("--digits", "301"), ("--steps", "0")])
def test_sizes_out_of_range_are_refused(option, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["inverse_problems", *option])
    with pytest.raises(SystemExit):
        inverse_problems.main()
    assert "expected 2 to 300 digits and at least 1 of" in capsys.readouterr().err
