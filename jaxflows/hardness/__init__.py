"""The limit: a flow whose exact conditional samples would solve Boolean satisfiability (supplement, Appendix A).

What is claimed and what was measured is in docs/hardness.md. python-sat, which decides the same formulas directly, is an
optional extra: ``pip install "jaxflows[hardness]"``.
"""

from __future__ import annotations

from jaxflows.hardness.dimacs import DimacsError, parse_dimacs, read_dimacs
from jaxflows.hardness.formula import Formula, formula, satisfies
from jaxflows.hardness.planted import planted_formula
from jaxflows.hardness.sat_flow import default_epsilon, near_assignment, sat_flow, sat_network, sufficient_magnitude
from jaxflows.hardness.sat_solver import satisfying_assignments

__all__ = [
    "DimacsError",
    "Formula",
    "default_epsilon",
    "formula",
    "near_assignment",
    "parse_dimacs",
    "planted_formula",
    "read_dimacs",
    "sat_flow",
    "sat_network",
    "satisfies",
    "satisfying_assignments",
    "sufficient_magnitude",
]
