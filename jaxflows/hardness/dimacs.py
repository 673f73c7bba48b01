"""Reading formulas in DIMACS CNF, the format of satisfiability solvers and their competitions."""

from __future__ import annotations

import os
from pathlib import Path

from jaxflows.hardness.formula import Formula, formula


class DimacsError(ValueError):
    """A file that is not DIMACS CNF; the message names the file, the line and what is wrong with it."""


def read_dimacs(path: str | os.PathLike[str]) -> Formula:
    """Read a file; `parse_dimacs` says what is accepted.

    Raises:
        DimacsError: unreadable, or not DIMACS CNF.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise DimacsError(f"{path}: cannot be read ({error.strerror or error})") from None
    except UnicodeDecodeError:
        raise DimacsError(f"{path}: expected text; got bytes that are not UTF-8") from None
    return parse_dimacs(text, name=str(path))


def parse_dimacs(text: str, *, name: str = "text") -> Formula:
    r"""The formula of a text in DIMACS CNF.

    Comment lines begin with c; one header ``p cnf VARIABLES CLAUSES`` comes before the clauses; a clause is a list of
    literals ended by 0 and may run over lines; a line that begins with % ends the formula, as in SATLIB.

    Args:
        text: the file's content.
        name: what to call it in errors.

    Returns:
        The formula, simplified as `jaxflows.hardness.formula.formula` says.

    Raises:
        DimacsError: a header that is missing, repeated or malformed; something that is not an integer; a literal out of
            range; an empty or unterminated clause; another number of clauses than the header's.

    Example:
        >>> from jaxflows.hardness import parse_dimacs
        >>> parse_dimacs("p cnf 2 2\n1 2 0\n-1 2 0\n").clauses
        ((1, 2), (-1, 2))
    """
    header: tuple[int, int, int] | None = None
    clauses: list[list[int]] = []
    open_clause: list[int] = []
    opened = 0
    for number, line in enumerate(text.splitlines(), start=1):
        fields = line.split()
        if not fields or fields[0].startswith("c"):
            continue
        if fields[0].startswith("%"):
            break
        if fields[0] == "p":
            if header is not None:
                raise DimacsError(f"{name}:{number}: expected one header; got a second, the first is on line {header[2]}")
            header = (*_header(name, number, fields), number)
            continue
        if header is None:
            raise DimacsError(f"{name}:{number}: expected the header 'p cnf VARIABLES CLAUSES' first; got {line[:40]!r}")
        for field in fields:
            literal = _integer(name, number, field)
            if abs(literal) > header[0]:
                raise DimacsError(f"{name}:{number}: expected literals between 1 and {header[0]} in size; got {literal}")
            if literal:
                opened = opened if open_clause else number
                open_clause.append(literal)
                continue
            if not open_clause:
                raise DimacsError(f"{name}:{number}: expected literals before the 0; got an empty clause, never satisfied")
            clauses.append(open_clause)
            open_clause = []
    if header is None:
        raise DimacsError(f"{name}: expected the header 'p cnf VARIABLES CLAUSES'; got none")
    if open_clause:
        raise DimacsError(f"{name}:{opened}: expected 0 at the end of every clause; got the end of the text in this one")
    if len(clauses) != header[1]:
        raise DimacsError(f"{name}:{header[2]}: expected {header[1]} clauses, as the header says; got {len(clauses)}")
    return formula(header[0], clauses)


def _header(name: str, number: int, fields: list[str]) -> tuple[int, int]:
    if len(fields) != 4 or fields[1] != "cnf":
        raise DimacsError(f"{name}:{number}: expected 'p cnf VARIABLES CLAUSES'; got {' '.join(fields)[:40]!r}")
    variables, clauses = (_integer(name, number, field) for field in fields[2:])
    if variables < 1 or clauses < 0:
        raise DimacsError(f"{name}:{number}: expected at least 1 variable and 0 clauses; got {variables} and {clauses}")
    return variables, clauses


def _integer(name: str, number: int, field: str) -> int:
    try:
        return int(field)
    except ValueError:
        raise DimacsError(f"{name}:{number}: expected an integer; got {field[:40]!r}") from None
