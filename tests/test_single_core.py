"""Nothing here that can stand still where a process has one core (docs/design.md, section 10)."""

from __future__ import annotations

import re
from pathlib import Path

import jaxflows

# each is, or calls, JAX's SVD, whose batches wait in jaxlib 0.9 for the thread that they run in
BY_SVD = re.compile(r"jnp\.linalg\.(svd|svdvals|pinv|cond|matrix_rank|lstsq)\b|jnp\.linalg\.norm\([^\n]*(ord=-?2|'nuc')")


def test_no_module_takes_an_svd_in_a_program():
    assert BY_SVD.search("jnp.linalg.norm(weight, ord=2)")
    modules = list(Path(jaxflows.__file__).parent.rglob("*.py"))
    assert len(modules) > 100
    assert [module.name for module in modules if BY_SVD.search(module.read_text())] == []
