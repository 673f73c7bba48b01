"""Random formulas that are satisfiable by construction."""

from __future__ import annotations

import numpy as np

from jaxflows.hardness.formula import Formula, formula


def planted_formula(seed: int, variables: int, clauses: int, *, width: int = 3) -> Formula:
    """Random k-SAT with a planted solution: uniform clauses of ``width`` distinct variables among those it satisfies.

    Args:
        seed: of the planted assignment and the clauses.
        variables: d.
        clauses: how many are drawn; one drawn twice counts once in the result.
        width: k, at most d.

    Raises:
        ValueError: a width that is not between 1 and the number of variables.
    """
    if not 1 <= width <= variables:
        raise ValueError(f"expected a width between 1 and {variables}, the number of variables; got {width}")
    generator = np.random.default_rng(seed)
    planted = generator.choice([-1, 1], variables)
    drawn: list[list[int]] = []
    while len(drawn) < clauses:
        chosen = generator.choice(variables, width, replace=False)
        signs = generator.choice([-1, 1], width)
        if np.any(signs == planted[chosen]):
            drawn.append([int(literal) for literal in signs * (chosen + 1)])
    return formula(variables, drawn)
