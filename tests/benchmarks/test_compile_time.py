import json

import pytest

from benchmarks import compile_time


def test_the_least_of_repeated_runs_is_taken_number_by_number():
    assert compile_time.least([{"a": 3.0, "b": 1.0}, {"a": 2.0, "b": 5.0}]) == {"a": 2.0, "b": 1.0}


def test_flatness_is_the_spread_over_depths_within_a_task():
    rows = [
        {"task": "one", "compile_seconds": 2.0},
        {"task": "two", "compile_seconds": 9.0},
        {"task": "one", "compile_seconds": 3.0},
    ]
    assert [row["flat_within"] for row in compile_time.with_flatness(rows)] == [0.5, 0.0, 0.5]


def test_one_measurement_prints_its_times_as_json(capsys):
    compile_time.main(["--measure", "log_prob", "2"])
    times = json.loads(capsys.readouterr().out)
    assert set(times) == {"compile_seconds", "compile_wall_seconds", "first_result_seconds"}
    assert times["compile_seconds"] > 0.0
    assert 0.0 < times["compile_wall_seconds"] < times["first_result_seconds"]


def test_an_unknown_task_is_refused(capsys):
    with pytest.raises(SystemExit, match="2"):
        compile_time.main(["--tasks", "sampling"])
    assert "invalid choice: 'sampling'" in capsys.readouterr().err
