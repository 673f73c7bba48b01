"""Metrics of a run: no step twice whatever a kill left, other runs' lines untouched, event files that TensorBoard reads."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest

from jaxflows.training.metrics_writers import json_lines, metrics_writer, tensorboard, writing


def steps(path, run):
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [(line["step"], line["loss"]) for line in lines if line["run"] == run]


def test_a_run_taken_up_again_has_every_step_once_and_leaves_other_runs_alone(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for run in "ab":
        with json_lines(path)(run, 0) as write:
            for step in range(1, 6):
                write(step, {"loss": float(step)})
    # killed in the middle of a line
    path.write_text(path.read_text() + '{"run": "b", "st')
    with json_lines(path)("b", 3) as write:
        write(4, {"loss": 40.0})
        assert steps(path, "b") == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 40.0)]
        write(5, {"loss": float("nan")})
    assert steps(path, "a") == [(step, float(step)) for step in range(1, 6)]
    assert steps(path, "b")[3:] == [(4, 40.0), (5, None)]


def test_runs_are_told_apart_by_what_they_are(tmp_path):
    writer = metrics_writer(tmp_path / "metrics.jsonl")
    for description in ({"data": 1}, {"data": 2}, {"data": 1}):
        with writing(writer, description, 0) as write:
            write(1, {"loss": 0.0})
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == len({json.loads(line)["run"] for line in lines}) == 2
    with writing(None, {}, 0) as write:
        write(1, {"loss": 0.0})


@pytest.mark.parametrize("content", ["a,b\n1,2\n", "[1]\n", '{"step": 1}\n', '{"run": "a", "step": "1"}\n', "half a line"])
def test_a_file_of_something_else_is_refused_and_left_as_it_was(tmp_path, content):
    path = tmp_path / "notes.txt"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"something else in .*notes\.txt, line 1"):
        json_lines(path)
    assert path.read_text() == content


def test_a_place_where_no_file_can_be_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "none" / "metrics.jsonl"):
        with pytest.raises(ValueError, match="metrics in a file of an existing folder"):
            json_lines(path)


def events(folder):
    """``(step, tag, value)`` of every scalar and ``(step, None, None)`` of every start, in the order of the files' names."""
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    for path in sorted(folder.iterdir(), key=lambda path: path.name):
        content = path.read_bytes()
        while content:
            # length, its checksum, the record, its checksum
            (size,) = struct.unpack("<Q", content[:8])
            event = Event.FromString(content[12 : 12 + size])
            content = content[16 + size :]
            if event.session_log.status == SessionLog.START:
                yield event.step, None, None
            for value in event.summary.value:
                yield event.step, value.tag, value.simple_value


def test_tensorboard_is_told_where_a_run_goes_on(tmp_path):
    for done, last in ((0, 4), (2, 3)):
        with tensorboard(tmp_path)("run", done) as write:
            for step in range(done + 1, last + 1):
                write(step, {"loss": step / 2, "bound": -step / 2})
            # on disk before the run ends
            assert list(events(tmp_path / "run"))[-2:] == [(last, "loss", last / 2), (last, "bound", -last / 2)]
    found = list(events(tmp_path / "run"))
    starts = [step for step, tag, _ in found if tag is None]
    assert starts == [1, 3]
    losses = [(step, value) for step, tag, value in found if tag == "loss"]
    np.testing.assert_allclose(losses, [(1, 0.5), (2, 1.0), (3, 1.5), (4, 2.0), (3, 1.5)])
