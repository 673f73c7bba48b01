"""Reading DIMACS CNF: what is accepted, and one clear line for what is not."""

from __future__ import annotations

import pytest

from jaxflows.hardness import DimacsError, parse_dimacs, read_dimacs

GOOD = """c a formula
p cnf 4 3
1 -2 0
c in the middle
3
4 0 -1 2
-3 0
"""


def test_a_formula_is_read():
    assert parse_dimacs(GOOD) == (4, ((1, -2), (3, 4), (-1, 2, -3)))


def test_repeated_literals_clauses_and_tautologies_do_not_count():
    assert parse_dimacs("p cnf 3 4\n1 2 1 0\n2 1 0\n1 -1 3 0\n-3 0\n") == (3, ((1, 2), (-3,)))


def test_the_end_mark_of_satlib_ends_the_formula():
    assert parse_dimacs("p cnf 2 1\n1 2 0\n%\n0\n\n") == (2, ((1, 2),))


def test_no_clauses_are_a_formula():
    assert parse_dimacs("p cnf 2 0\n") == (2, ())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "text: expected the header 'p cnf VARIABLES CLAUSES'; got none"),
        ("c only\n", "text: expected the header 'p cnf VARIABLES CLAUSES'; got none"),
        ("1 2 0\np cnf 2 1\n", "text:1: expected the header 'p cnf VARIABLES CLAUSES' first; got '1 2 0'"),
        ("p cnf 2 1\n\np cnf 2 1\n", "text:3: expected one header; got a second, the first is on line 1"),
        ("p sat 2 1\n", "text:1: expected 'p cnf VARIABLES CLAUSES'; got 'p sat 2 1'"),
        ("p cnf 2\n", "text:1: expected 'p cnf VARIABLES CLAUSES'; got 'p cnf 2'"),
        ("p cnf two 1\n", "text:1: expected an integer; got 'two'"),
        ("p cnf 0 0\n", "text:1: expected at least 1 variable and 0 clauses; got 0 and 0"),
        ("p cnf 2 -1\n", "text:1: expected at least 1 variable and 0 clauses; got 2 and -1"),
        ("p cnf 2 1\n1 x 0\n", "text:2: expected an integer; got 'x'"),
        ("p cnf 2 1\n1 1.5 0\n", "text:2: expected an integer; got '1.5'"),
        ("p cnf 2 1\n1 -3 0\n", "text:2: expected literals between 1 and 2 in size; got -3"),
        ("p cnf 2 2\n1 0\n0\n", "text:3: expected literals before the 0; got an empty clause, never satisfied"),
        ("p cnf 2 2\n1 0\n2\n-1\n", "text:3: expected 0 at the end of every clause; got the end of the text in this one"),
        ("c\np cnf 2 3\n1 0\n", "text:2: expected 3 clauses, as the header says; got 1"),
        ("p cnf 2 1\n1 0 2 0\n", "text:1: expected 1 clauses, as the header says; got 2"),
    ],
)
def test_what_is_not_dimacs_is_one_error_naming_the_line(text, message):
    with pytest.raises(DimacsError) as caught:
        parse_dimacs(text)
    assert str(caught.value) == message


def test_files_are_named_in_errors(tmp_path):
    path = tmp_path / "formula.cnf"
    path.write_text(GOOD)
    assert read_dimacs(path) == parse_dimacs(GOOD)
    path.write_text("p cnf 2 1\n0\n")
    with pytest.raises(DimacsError, match=r"formula\.cnf:2: expected literals"):
        read_dimacs(path)
    path.write_bytes(b"p cnf 2 1\n\xff\xfe 0\n")
    with pytest.raises(DimacsError, match=r"formula\.cnf: expected text; got bytes that are not UTF-8"):
        read_dimacs(path)
    with pytest.raises(DimacsError, match=r"missing\.cnf: cannot be read \(No such file or directory\)"):
        read_dimacs(tmp_path / "missing.cnf")
