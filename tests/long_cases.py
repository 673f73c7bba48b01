"""Cases of a parametrised test of which some are long ones."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def cases(names: Iterable[str], long: Collection[str]) -> list[Any]:
    """``names`` for ``pytest.mark.parametrize``, those in ``long`` marked so."""
    return [pytest.param(name, marks=pytest.mark.long) if name in long else name for name in names]
