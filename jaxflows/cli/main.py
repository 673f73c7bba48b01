"""The ``jaxflows`` command: reads the arguments and hands them to one module a command.

JAX and matplotlib are imported by the commands, after their arguments were checked: ``--help`` and a mistyped option
answer at once.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import jaxflows.cli.complete_command as complete_command
import jaxflows.cli.evaluate_command as evaluate_command
import jaxflows.cli.infer_command as infer_command
import jaxflows.cli.info_command as info_command
import jaxflows.cli.train_command as train_command
from jaxflows.cli.errors import CommandError
from jaxflows.version import __version__

BAD_INPUT = 2
INTERRUPTED = 130

_EPILOG = """examples:
  jaxflows complete                                   complete shipped digits, draw completion.png
  jaxflows complete scans.npz --mask missing:0.5      hide half of the entries of your own rows, and complete them
  jaxflows complete table.csv --model my.safetensors  complete the empty cells of a table
  jaxflows infer --measurement pool:2                 measure shipped digits, infer them, draw inference.png
  jaxflows train table.csv --output my.safetensors    train a flow on complete rows
  jaxflows train --incomplete holes.csv --output my.safetensors
                                                      train one on rows that all have holes
  jaxflows evaluate table.csv --model my.safetensors  hide entries of complete rows, complete them, and score that
  jaxflows info my.safetensors                        what a model file holds

Exit status: 0 done, 2 a mistake in the arguments or files (one line on standard error), 130 interrupted.
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise CommandError(f"{message} (see '{self.prog} --help')")


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands; the chosen command's ``run(options) -> exit status`` is in ``options.run``."""
    parser = _Parser(
        prog="jaxflows",
        description="Complete rows of data and infer images with a normalizing flow, and train such flows.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"jaxflows {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in (complete_command, infer_command, train_command, evaluate_command, info_command):
        module.add_command(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the arguments of the process when ``argv`` is None. Returns the exit status."""
    # spinning BLAS threads make small factorisations a hundred times slower; it is read when NumPy is first imported
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        options = build_parser().parse_args(argv)
        return int(options.run(options))
    except CommandError as error:
        print(f"jaxflows: {error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("jaxflows: interrupted before anything was done", file=sys.stderr)
        return INTERRUPTED
    except SystemExit as end:
        # --help and --version
        return end.code if isinstance(end.code, int) else 0


if __name__ == "__main__":
    sys.exit(main())
