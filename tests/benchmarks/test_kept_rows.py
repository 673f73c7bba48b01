"""Rows are kept as they come: a start after a kill goes on, one out of time says what is left."""

from __future__ import annotations

import argparse
import json

import pytest

from benchmarks.kept_rows import add_options, measure_and_write, rows_so_far


def counted(calls, *names):
    def task(name):
        calls.append(name)
        return None if name == "none" else {"value": len(calls)}

    return {name: lambda name=name: task(name) for name in names}


def values(rows):
    return {name: row and row["value"] for name, row in rows.items()}


def test_a_start_after_a_kill_goes_on_and_keeps_the_order(tmp_path, capsys):
    kept, calls = tmp_path / "rows.json", []
    killed = rows_so_far(counted(calls, "b", "none", "c"), kept)
    assert [values(next(killed)) for _ in range(3)] == [{}, {"b": 1}, {"b": 1, "none": None}]
    killed.close()
    *_, rows = rows_so_far(counted(calls, "a", "b", "none", "c"), kept)
    assert list(values(rows).items()) == [("a", 3), ("b", 1), ("none", None), ("c", 4)]
    assert rows["a"]["device"]
    # rows of other tasks stay in the file, and all are measured anew when asked
    *_, rows = rows_so_far(counted(calls, "b"), kept, again=True)
    assert values(rows) == {"b": 5}
    assert values(json.loads(kept.read_text())) == {"a": 3, "b": 5, "none": None, "c": 4}
    capsys.readouterr()


def test_out_of_time_what_there_is_is_written_and_the_rest_named(tmp_path, capsys):
    def start(*arguments):
        parser = argparse.ArgumentParser()
        add_options(parser, "some")
        options = parser.parse_args(["--output-dir", str(tmp_path / "out"), "--run-dir", str(tmp_path), *arguments])
        measure_and_write("some", counted(calls, "a", "none", "b"), options, seeds=[0])
        return capsys.readouterr().out

    calls, file = [], tmp_path / "out" / "some.json"
    assert "3 of 3 rows are left" in start("--max-seconds", "0")
    assert not file.exists()
    start()
    assert [row["value"] for row in json.loads(file.read_text())["rows"]] == [1, 3]
    assert "3 of 3 rows; --again" in start("--max-seconds", "0")
    with pytest.raises(SystemExit):
        start("--max-seconds", "soon")
