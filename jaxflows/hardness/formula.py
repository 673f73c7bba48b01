"""Boolean formulas in conjunctive normal form."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np


class Formula(NamedTuple):
    """An AND of clauses, each an OR of literals; made by `formula`.

    Attributes:
        variables: d; variables are numbered from 1.
        clauses: literals as in DIMACS, v for x_v and -v for its negation; a clause's variables are distinct and ascending.
    """

    variables: int
    clauses: tuple[tuple[int, ...], ...]

    @property
    def width(self) -> int:
        """k, the most literals in a clause."""
        return max((len(clause) for clause in self.clauses), default=0)

    @property
    def used(self) -> np.ndarray:
        """(d,) boolean: which variables occur in a clause. Any value of the others will do."""
        occurring = {abs(literal) for clause in self.clauses for literal in clause}
        return np.array([variable in occurring for variable in range(1, self.variables + 1)], bool)


def formula(variables: int, clauses: Iterable[Iterable[int]]) -> Formula:
    """The formula with these clauses, simplified without changing its solutions.

    A literal repeated in a clause and a clause repeated in the formula count once; a clause with a variable and its negation
    is always true and is left out.

    Args:
        variables: d, at least 1.
        clauses: iterables of literals.

    Raises:
        ValueError: a literal out of range, or an empty clause, which nothing satisfies.
    """
    if variables < 1:
        raise ValueError(f"expected at least one variable; got {variables}")
    kept: dict[tuple[int, ...], None] = {}
    for number, clause in enumerate(clauses, start=1):
        literals = sorted({int(literal) for literal in clause}, key=abs)
        if not literals:
            raise ValueError(f"expected clauses with at least one literal; got an empty one, number {number}")
        for literal in literals:
            if not 1 <= abs(literal) <= variables:
                raise ValueError(f"expected literals between 1 and {variables} or their negatives; got {literal}")
        if len({abs(literal) for literal in literals}) == len(literals):
            kept[tuple(literals)] = None
    return Formula(variables, tuple(kept))


def satisfies(formula: Formula, x: Any) -> np.ndarray:
    """Whether the signs of ``x`` satisfy the formula, (...,) for x of shape (..., d); positive is true."""
    true = np.asarray(x) > 0
    if true.shape[-1:] != (formula.variables,):
        raise ValueError(f"expected {formula.variables} values, one a variable; got shape {true.shape}")
    satisfied = np.ones(true.shape[:-1], bool)
    for clause in formula.clauses:
        satisfied &= np.any([true[..., abs(literal) - 1] == (literal > 0) for literal in clause], axis=0)
    return satisfied
