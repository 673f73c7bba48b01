"""A real signal, in a process of its own, after two of six rows."""

import importlib
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from jaxflows.cli.main import main
from jaxflows.cli.stop_signals import termination_interrupts, uninterrupted

# one row a batch, so that there is something to be interrupted between; the signal comes right after the second
SCRIPT = """
import importlib, os, signal, sys
complete = importlib.import_module("jaxflows.conditional.complete")
measured_rows = importlib.import_module("jaxflows.conditional.measured_rows")
from jaxflows.cli.main import main

measured_rows.ENTRIES_AT_ONCE = 1
store, stored = complete.store, []

def store_and_signal(*arguments):
    store(*arguments)
    stored.append(0)
    if len(stored) == 2:
        os.kill(os.getpid(), signal.SIGINT)

complete.store = store_and_signal
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.long
def test_finished_rows_are_kept_and_the_rest_can_follow(here, capsys, monkeypatch, rows_file, model):
    task = ["complete", rows_file, "--mask", "left", "--samples", "3", "--model", model]
    stopped = subprocess.run(
        [sys.executable, "-c", SCRIPT, *task], cwd=here, capture_output=True, text=True, timeout=300, check=False
    )
    assert stopped.returncode == 130, stopped.stderr
    assert "Traceback" not in stopped.stderr
    assert stopped.stderr.splitlines()[-1] == (
        "jaxflows: interrupted with 2 of 6 rows done, kept in completion.npz; "
        "go on with: jaxflows complete --resume completion.npz"
    )
    assert "wrote completion.png and completion.npz" in stopped.stdout
    assert (here / "completion.png").read_bytes().startswith(b"\x89PNG")
    with np.load(here / "completion.npz") as kept:
        assert kept["done"].tolist() == [True, True, False, False, False, False]
        assert np.isfinite(kept["samples"][:2]).all()
        assert np.isnan(kept["samples"][2:, :, :, :2]).all()

    # the same batches here as in that process
    monkeypatch.setattr(importlib.import_module("jaxflows.conditional.measured_rows"), "ENTRIES_AT_ONCE", 1)
    assert main(["complete", "--resume", "completion.npz"]) == 0
    assert capsys.readouterr().out.startswith("completion.npz: 2 of 6 rows done before\n")
    assert main([*task, "--output", "whole.png", "--save", "whole.npz"]) == 0
    for kept_name, expected in (("completion.npz", "whole.npz"), ("completion.png", "whole.png")):
        assert (here / kept_name).read_bytes() == (here / expected).read_bytes()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_both_signals_interrupt_work_and_neither_interrupts_writing(number):
    before = signal.getsignal(number)
    with termination_interrupts():
        with uninterrupted():
            os.kill(os.getpid(), number)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before


def test_interrupt_before_the_first_row(here, capsys, monkeypatch, rows_file, model):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(importlib.import_module("jaxflows.conditional.complete"), "_work", interrupted)
    assert main(["complete", rows_file, "--mask", "left", "--model", model]) == 130
    error = capsys.readouterr().err
    assert error.endswith("jaxflows: interrupted before the first row was done; nothing was written\n")
    assert sorted(path.name for path in here.iterdir()) == ["rows.npy"]
