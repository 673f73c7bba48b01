"""Formulas and their solutions, by brute force and by python-sat."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from jaxflows.hardness import formula, planted_formula, satisfies, satisfying_assignments

UNSATISFIABLE = formula(3, itertools.product((-1, 1), (-2, 2), (-3, 3)))


def every_assignment(size):
    return np.array(list(itertools.product((-1, 1), repeat=size)), np.int8)


def test_signs_are_judged_clause_by_clause():
    either = formula(2, [(1, 2), (-1, 2)])
    assert satisfies(either, every_assignment(2)).tolist() == [False, True, False, True]
    assert satisfies(either, [0.1, 3.0])
    with pytest.raises(ValueError, match=r"expected 2 values, one a variable; got shape \(4, 3\)"):
        satisfies(either, np.ones((4, 3)))


@pytest.mark.parametrize(
    ("variables", "clauses", "message"),
    [
        (0, [], "expected at least one variable; got 0"),
        (2, [(1,), ()], "expected clauses with at least one literal; got an empty one, number 2"),
        (2, [(1, 3)], "expected literals between 1 and 2 or their negatives; got 3"),
        (2, [(0, 1)], "expected literals between 1 and 2 or their negatives; got 0"),
    ],
)
def test_what_is_no_formula_is_refused(variables, clauses, message):
    with pytest.raises(ValueError, match=message):
        formula(variables, clauses)


@pytest.mark.parametrize("seed", range(6))
def test_python_sat_and_brute_force_agree(seed):
    # few clauses, so that some variables do not occur
    planted = planted_formula(seed, 7, 3 + 4 * seed, width=2 + seed % 2)
    every = every_assignment(7)
    expected = every[satisfies(planted, every)]
    found = satisfying_assignments(planted)
    assert len(expected) > 0
    assert sorted(map(tuple, found)) == sorted(map(tuple, expected))
    assert len(satisfying_assignments(planted, limit=1)) == 1


def test_formulas_without_solution_or_without_clauses():
    assert UNSATISFIABLE.width == 3
    assert satisfying_assignments(UNSATISFIABLE).shape == (0, 3)
    assert len(satisfying_assignments(formula(3, []))) == 8
    assert satisfying_assignments(formula(2, [(-1,)]), limit=5)[:, 0].tolist() == [-1, -1]


def test_planted_formulas_are_as_asked():
    planted = planted_formula(0, 10, 30)
    assert planted.variables == 10
    assert 25 <= len(planted.clauses) <= 30
    assert {len(clause) for clause in planted.clauses} == {3}
    assert planted == planted_formula(0, 10, 30)
    assert planted != planted_formula(1, 10, 30)
    with pytest.raises(ValueError, match="expected a width between 1 and 2, the number of variables; got 3"):
        planted_formula(0, 2, 5)
