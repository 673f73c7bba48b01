"""The benchmark of families: every one builds, and its problems fit the flows."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.families import FAMILIES, problems
from jaxflows.conditional.measured_rows import measured_rows


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_takes_every_problem(name):
    flow = FAMILIES[name].make()
    hidden_counts = {}
    for observation, rows, observed in problems(flow, 2):
        measured = measured_rows(flow, rows, observed)
        assert measured.given.shape == (2, *flow.event_shape)
        assert np.isfinite(measured.given).all()
        hidden_counts[observation] = int(measured.hidden_counts[0])
    assert hidden_counts["mask_90%_missing"] > hidden_counts["mask_50%_missing"] > hidden_counts["mask_30%_missing"]
    assert hidden_counts["mask_centre_missing"] == (16 if flow.size == 64 else 64)
    assert hidden_counts["gaussian_25%"] == hidden_counts["pooling_2x2"] == flow.size * 3 // 4
