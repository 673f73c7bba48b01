"""What a satisfiability solver says of a formula: the truth that conditional samples are measured against."""

from __future__ import annotations

import itertools

import numpy as np

from jaxflows.hardness.formula import Formula


def satisfying_assignments(formula: Formula, limit: int | None = None) -> np.ndarray:
    """The satisfying assignments, (n, d) of -1 and 1, in no order; n = 0 when there is none.

    Args:
        formula: the formula.
        limit: stop after this many; all of them when None, which may be 2^d.

    Raises:
        ModuleNotFoundError: python-sat is missing (``pip install "jaxflows[hardness]"``).
    """
    from pysat.solvers import Solver

    # the solver sees the variables that occur, numbered from 1; all values of the others are listed here
    used = np.flatnonzero(formula.used)
    free = np.flatnonzero(~formula.used)
    renumbered = {int(variable) + 1: position for position, variable in enumerate(used, start=1)}
    clauses = [[renumbered[abs(literal)] * (1 if literal > 0 else -1) for literal in clause] for clause in formula.clauses]
    found: list[np.ndarray] = []
    with Solver(name="glucose4", bootstrap_with=clauses) as solver:
        for model in solver.enum_models() if clauses else [()]:
            for rest in itertools.product((-1, 1), repeat=len(free)):
                if limit is not None and len(found) >= limit:
                    return np.stack(found)
                assignment = np.empty(formula.variables, np.int8)
                assignment[used], assignment[free] = np.sign(model), rest
                found.append(assignment)
    return np.stack(found) if found else np.empty((0, formula.variables), np.int8)
