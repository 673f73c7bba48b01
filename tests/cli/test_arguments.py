"""What is answered without JAX: help, version, and every mistake in the arguments."""

import resource
import subprocess
import sys

import pytest

from jaxflows.cli.main import main
from jaxflows.version import __version__


def message(capsys, *arguments):
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("jaxflows: ")
    assert err.count("\n") == 1
    return err.removeprefix("jaxflows: ").rstrip()


@pytest.mark.parametrize(
    ("arguments", "start"),
    [
        ((), "the following arguments are required: COMMAND"),
        (("complet",), "argument COMMAND: invalid choice: 'complet'"),
        (("complete", "--sample", "3"), "unrecognized arguments: --sample"),
        (("complete", "--samples", "0"), "argument --samples: expected a whole number >= 1; got '0'"),
        (("complete", "--samples", "many"), "argument --samples: expected a whole number >= 1; got 'many'"),
        (("complete", "--seed", "-1"), "argument --seed: expected a whole number >= 0; got '-1'"),
        (
            ("complete", "--posterior", "flow"),
            "argument --posterior: expected gauss_newton, mean_field, full_rank, householder:N (N reflections), prior or",
        ),
        (("complete", "--posterior", "prior:3"), "argument --posterior: expected gauss_newton, mean_field"),
        (("complete", "--rows", "a:b"), "argument --rows: expected rows as BEGIN:END or one row's number; got 'a:b'"),
        (("complete", "--scale", "0"), "argument --scale: expected a number > 0; got '0'"),
        (("complete", "--output", "p.txt"), "argument --output: expected a picture named *.png, *.pdf, *.svg"),
        (("complete", "--save", "r.txt"), "argument --save: expected a file named *.npz; got 'r.txt'"),
        (("complete", "--mask", "checkers"), "--mask checkers: neither a file nor one of all, none, missing:FRACTION"),
        (("complete", "--mask", "missing:2"), "--mask missing:2: expected a missing fraction in [0, 1]"),
        (("complete", "--mask", "centre:big"), "--mask centre:big: expected a number after the colon"),
        (("complete", "--model", "imagenet"), "--model imagenet: neither a file nor one of mnist, digits"),
        (("complete", "--output", "no/such/p.png"), "--output no/such/p.png: cannot be written (No such file"),
        (("complete", "--save", "no/such/r.npz"), "--save no/such/r.npz: cannot be written (No such file"),
        (("complete", "--resume", "r.npz", "--seed", "3"), "--seed: fixed by --resume r.npz; leave it out"),
        (("complete", "--resume", "r.npz", "--antithetic"), "--antithetic: fixed by --resume r.npz; leave it out"),
        (("complete", "--resume", "r.npz", "--moves", "0"), "--moves: fixed by --resume r.npz; leave it out"),
        (("complete", "--resume", "r.npz", "--chains", "2"), "--chains: fixed by --resume r.npz; leave it out"),
        (("complete", "--anchors", "0"), "argument --anchors: expected a whole number >= 1; got '0'"),
        (("complete", "d.npy", "--resume", "r.npz"), "DATA: fixed by --resume r.npz; leave it out"),
        (("complete", "none.npy"), "none.npy: cannot be read (No such file"),
        (("complete", "notes.txt"), "notes.txt: expected a file named"),
        (("infer", "--measurement", "magic"), "argument --measurement: expected one of pool:K, gaussian:M, grey, blur:S"),
        (("infer", "--measurement", "none"), "argument --measurement: expected one of pool:K"),
        (("infer", "--measurement", "pool:1"), "argument --measurement: expected a whole number >= 2; got '1'"),
        (("infer", "--measurement", "blur:0"), "argument --measurement: expected a number > 0; got '0'"),
        (("infer", "--measurement", "fourier:2"), "argument --measurement: expected a number in (0, 1]; got '2'"),
        (("infer", "--measurement", "missing:2"), "argument --measurement: expected a missing fraction in [0, 1]"),
        (("infer", "--method", "magic"), "argument --method: expected one of ambient, amortised, asim, constraint"),
        (("infer", "--noise", "-1"), "argument --noise: expected a number >= 0; got '-1'"),
        (("infer", "--model", "imagenet"), "--model imagenet: neither a file nor one of mnist, digits"),
        (("infer", "--output", "no/such/p.png"), "--output no/such/p.png: cannot be written (No such file"),
        (("infer", "none.npy"), "none.npy: cannot be read (No such file"),
        (("train",), "the following arguments are required: DATA, --output"),
        (("train", "d.npy", "--output", "m.pkl"), "argument --output: expected a file named *.safetensors"),
        (("train", "d.npy", "--output", "m.safetensors", "--hidden", "9,x"), "argument --hidden: expected a whole number"),
        (("train", "d.npy", "--output", "m.safetensors", "--noise", "-1"), "argument --noise: expected a number >= 0"),
        (("train", "none.npy", "--output", "m.safetensors"), "none.npy: cannot be read"),
        (("train", "d.npy", "--output", "no/m.safetensors"), "--output no/m.safetensors: cannot be written"),
        (("info",), "the following arguments are required: MODEL"),
        (("info", "none.safetensors"), "--model none.safetensors: neither a file nor one of mnist, digits"),
    ],
)
@pytest.mark.usefixtures("here")
def test_one_line_and_status_2(capsys, arguments, start):
    assert message(capsys, *arguments).startswith(start)


def test_output_that_is_a_folder(capsys, here):
    (here / "p.png").mkdir()
    assert message(capsys, "complete", "--output", "p.png") == "--output p.png: expected a file; it is a folder"


@pytest.mark.parametrize("command", [(), ("complete",), ("infer",), ("train",), ("info",)])
def test_help_has_examples(capsys, command):
    assert main([*command, "--help"]) == 0
    out = capsys.readouterr().out
    assert "example" in out
    assert f"  jaxflows {command[0] if command else 'complete'} " in out


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"jaxflows {__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["complete", "--samples", "0"], ["complete", "--mask", "checkers"], ["infer", "--method", "x"]],
)
def test_answers_without_importing_jax_or_matplotlib(arguments):
    script = (
        "import sys; from jaxflows.cli.main import main; status = main(sys.argv[1:]); "
        "heavy = {'jax', 'matplotlib', 'optax'} & set(sys.modules); sys.exit(99 if heavy else status)"
    )
    began = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == (0 if arguments == ["--help"] else 2), done.stderr
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - began < 1.0
