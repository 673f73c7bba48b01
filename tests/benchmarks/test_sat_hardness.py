import pytest

from benchmarks import sat_hardness
from jaxflows.hardness import formula, satisfies, satisfying_assignments


def test_a_row_counts_what_the_draws_are():
    row = sat_hardness.row("one literal", 0, formula(1, [(1,)]), 2048)
    assert (row["variables"], row["clauses"], row["satisfiable"], row["solutions"]) == (1, 1, True, 1)
    assert row["guess_satisfied_fraction"] == 0.5
    assert row["signs_satisfied_fraction"] >= row["satisfied_fraction"] > 0.99
    assert row["converged_fraction"] == 1.0
    assert 0.0 < row["ess_fraction"] < 0.5
    assert row["seconds"] > 0.0


def test_the_formulas_are_planted_but_for_one_without_solution():
    cases = sat_hardness.formulas((1, 3), range(2))
    assert len(cases) == 3 * 2 * 2 + 1
    for name, _, problem in cases:
        solutions = satisfying_assignments(problem)
        assert (len(solutions) == 0) == (name == "no solution")
        assert satisfies(problem, solutions).all()
    assert cases[-1][2].variables == 3


@pytest.mark.parametrize("option", ["--fast"])
def test_an_unknown_option_is_refused(option, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["sat_hardness", option])
    with pytest.raises(SystemExit, match="2"):
        sat_hardness.main()
    assert "--quick" in capsys.readouterr().err
