"""Write every measured figure of README.md and docs/ from the results files, between markers.

    python -m benchmarks.readme_tables            # rewrite README.md and docs/*.md
    python -m benchmarks.readme_tables --check    # change nothing; exit 1 where something would change

A table stands in a page between ``<!-- results: NAME -->`` and ``<!-- end -->``, NAME being one of `TABLES`. Where its
results file is not there yet, the page says which command makes it. A test holds the pages to what this writes.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.cifar_tables import cifar_centre, cifar_paired
from benchmarks.constraint_summary import ALGORITHM_2
from benchmarks.incomplete_tables import completion_speed, extractor, incomplete, scaling, step_memory, training_step
from benchmarks.results_file import RESULTS, Row, read_rows
from benchmarks.table_cells import Column, missing, number, share, table, text

ROOT = Path(__file__).parents[1]
MARKED = re.compile(r"(<!-- results: (\w+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def pages(root: Path = ROOT) -> list[Path]:
    """README.md and every page of docs/."""
    return [root / "README.md", *sorted((root / "docs").glob("*.md"))]


def render(text: str, results: Path = RESULTS) -> str:
    """A page with every marked table written anew.

    Raises:
        ValueError: a marker that names no table.
    """

    def one(found: re.Match[str]) -> str:
        begin, name, _, end = found.groups()
        if name not in TABLES:
            raise ValueError(f"expected a table of {sorted(TABLES)}; got {name!r}")
        return f"{begin}\n{TABLES[name](results)}\n\n{end}"

    return MARKED.sub(one, text)


def completion(results: Path) -> str:
    """MNIST completion beside the Gaussian."""
    return table(read_rows("mnist_completion", results), _COMPLETION_COLUMNS, "mnist_completion")


def completion_gpu(results: Path) -> str:
    """The same of more digits, on a GPU."""
    columns: list[Column] = [*_COMPLETION_COLUMNS, ("digits", number("digits", ".0f")), ("solved", share("converged_fraction"))]
    return table(read_rows("mnist_completion", results / "gpu"), columns, "mnist_completion", folder="gpu/")


_COMPLETION_COLUMNS: list[Column] = [
    ("missing", missing), ("RMSE of the mean", number("rmse_mean", ".4f")),
    ("of the Gaussian's mean", number("gaussian_rmse", ".4f")), ("of the anchor", number("rmse_anchor", ".4f")),
    ("of a sample", number("rmse_sample", ".4f")),
    ("50 % intervals cover", share("coverage_50")), ("90 % intervals cover", share("coverage_90")),
    ("effective samples", share("ess_fraction")), ("seconds a digit", number("seconds_per_digit", ".2f")),
]  # fmt: skip


def solving(results: Path) -> str:
    """The default solver beside the best row of Algorithm 2, a line a problem."""
    rows, lines = read_rows("constraint_solve", results), []
    for flow, observation in dict.fromkeys((row["flow"], row["observation"]) for row in rows):
        here = {row["solver"]: row for row in rows if (row["flow"], row["observation"]) == (flow, observation)}
        rivals = [here[name] for name in ALGORITHM_2 if name in here]
        if not rivals:
            continue
        most = max(row["converged_fraction"] for row in rivals)
        best = min(
            (row for row in rivals if row["converged_fraction"] >= most - 0.01),
            key=lambda row: row["block_evaluations_median"],
        )
        lines.append(here["default"] | {f"rival_{key}": value for key, value in best.items()})
    columns = [
        ("flow", text("flow")), ("observation", text("observation")),
        ("sweep: evaluations", number("block_evaluations_median", ".0f")),
        ("solved", share("converged_fraction")), ("worst residual", number("residual_max", ".1e")),
        ("seconds", number("seconds", ".2f")),
        ("Algorithm 2 at its best: evaluations", number("rival_block_evaluations_median", ".0f")),
        ("solved", share("rival_converged_fraction")), ("seconds", number("rival_seconds", ".2f")),
    ]  # fmt: skip
    return table(lines, columns, "constraint_solve")


def solvers(results: Path) -> str:
    """Every solver on the digits, in half-masked, mostly masked and pooled problems."""
    wanted = ("mask_50%_missing", "mask_90%_missing", "pooling_2x2")
    rows = [r for r in read_rows("constraint_solve", results) if r["flow"] == "digits" and r["observation"] in wanted]
    return table(rows, _SOLVER_COLUMNS, "constraint_solve")


def depth(results: Path) -> str:
    """The default solver as the flow gets deeper."""
    rows = [row for row in read_rows("constraint_solve", results) if "_depth_" in row["flow"] or "_steep_" in row["flow"]]
    return table(rows, _SOLVER_COLUMNS, "constraint_solve")


def float64(results: Path) -> str:
    """The default solver in double precision."""
    rows = [row for row in read_rows("constraint_solve", results) if row["flow"].endswith("_float64")]
    return table(rows, _SOLVER_COLUMNS, "constraint_solve")


_SOLVER_COLUMNS: list[Column] = [
    ("flow", text("flow")), ("observation", text("observation")), ("solver", text("solver")),
    ("evaluations, median", number("block_evaluations_median", ".0f")), ("most", number("block_evaluations_max", ".0f")),
    ("solved", share("converged_fraction")), ("worst residual", number("residual_max", ".1e")),
    ("seconds", number("seconds", ".2f")), ("seconds to compile", number("compile_seconds", ".1f")),
]  # fmt: skip


def estimators(results: Path) -> str:
    """Gradient estimators against the exact gradient."""
    columns = [
        ("estimator", text("estimator")), ("d", number("dimension", ".0f")), ("probes", number("probes", ".0f")),
        ("largest bias, standard errors", number("bias_z_max", ".1f")), ("relative deviation", number("relative_std", ".3g")),
        ("ms", number("ms", ".2f")),
    ]  # fmt: skip
    return table(read_rows("gradient_estimators", results), columns, "gradient_estimators")


def posteriors(results: Path) -> str:
    """Posteriors on the digits flow."""
    rows = [row for row in read_rows("posterior_quality", results) if row["case"] == "digits"]
    columns = [
        ("missing", missing), ("posterior", text("posterior")), ("bound at the start, nats", number("elbo_start", ".2f")),
        ("bound", number("elbo_end", ".2f")), ("importance-weighted bound", number("iw_bound", ".2f")),
        ("effective samples", share("ess_fraction")), ("seconds, 8 rows", number("seconds", ".1f")),
    ]  # fmt: skip
    return table(rows, columns, "posterior_quality")


def exactness(results: Path) -> str:
    """Posteriors against closed forms and quadrature."""
    rows = [row for row in read_rows("posterior_quality", results) if row["case"] != "digits"]
    columns = [
        ("case", text("case")), ("posterior", text("posterior")), ("KL after resampling, nats", number("kl_nats", ".4f")),
        ("largest error", number("error_max", ".1e")), ("effective samples", share("ess_fraction")),
    ]  # fmt: skip
    return table(rows, columns, "posterior_quality")


def peers(results: Path) -> str:
    """Our residual flow beside normflows."""
    columns = [
        ("task", text("task")), ("batch", number("batch", ".0f")), ("library", text("library")), ("ms", number("ms", ".1f")),
        ("largest error", number("error_max", ".1e")),
    ]  # fmt: skip
    return table(read_rows("residual_flow_peers", results), columns, "residual_flow_peers")


def families(results: Path) -> str:
    """Every family conditioned by the same call, with the automatic partition."""
    rows = [row for row in read_rows("families", results) if row["partition"] == "auto"]
    return table(rows, _FAMILY_COLUMNS, "families")


def pairings(results: Path) -> str:
    """The paper's pairing of coordinates with the prior as q, on flows it was not made for."""
    rows = [row for row in read_rows("families", results) if row["partition"] == "same"]
    return table(rows, _FAMILY_COLUMNS, "families")


_FAMILY_COLUMNS: list[Column] = [
    ("flow", text("family")), ("observation", text("observation")), ("rows by partition", text("rows_of_partition")),
    ("posterior", text("posterior")), ("draws solved", share("converged_fraction")),
    ("evaluations a draw", number("block_evaluations_median", ".0f")), ("effective samples", share("ess_fraction")),
    ("importance-weighted bound, nats", number("iw_bound", ".2f")),
]  # fmt: skip


def implicit(results: Path) -> str:
    """Appendix D in kind: how often the sweep handed a solve on, and to how many Newton steps."""
    rows = [row for row in read_rows("implicit_mnist", results) if "problems" in row]
    columns = [
        ("", text("case")), ("problems", number("problems", ".0f")), ("handed on to Newton-Krylov", share("fallback_fraction")),
        ("sweeps, median", number("sweeps_median", ".0f")), ("Newton steps, median", number("newton_steps_median", ".0f")),
        ("most", number("newton_steps_max", ".0f")), ("solved in the end", share("converged_fraction")),
    ]  # fmt: skip
    return table(rows, columns, "implicit_mnist")


def family_peers(results: Path) -> str:
    """Families of ours beside other libraries."""
    columns = [
        ("task", text("task")), ("family", text("family")), ("batch", number("batch", ".0f")), ("library", text("library")),
        ("ms", number("ms", ".2f")), ("seconds to compile", number("compile_seconds", ".1f")),
        ("parameters", number("parameters", ".0f")),
    ]  # fmt: skip
    return table(read_rows("family_peers", results), columns, "family_peers")


def truth(results: Path) -> str:
    """Both tests of a known conditional, a line a case."""
    lines: dict[tuple[str, str], Row] = {}
    for row in read_rows("conditional_truth", results):
        line = lines.setdefault((row["family"], row["case"]), {})
        line |= row | {"passed": line.get("passed", True) and row["passed"]}
    columns = [
        ("case", text("case")), ("family", text("family")), ("classifier's accuracy", number("accuracy", ".3f")),
        ("its standard error", number("accuracy_std_error", ".3f")), ("without weights", number("accuracy_unweighted", ".3f")),
        ("calibration, p", number("sbc_p", ".2g")), ("effective samples", share("ess_fraction")),
        ("solved", share("converged_fraction")), ("mass reached", number("mass_reached", ".3f")),
        ("by one anchor", number("mass_of_one_anchor", ".3f")),
        ("both passed", lambda row: "yes" if row["passed"] else "**no**"),
    ]  # fmt: skip
    return table(list(lines.values()), columns, "conditional_truth")


def compile_time(results: Path) -> str:
    """Compile time by depth."""
    columns = [
        ("task", text("task")), ("blocks", number("depth", ".0f")), ("seconds to compile", number("compile_seconds", ".1f")),
        ("longest over shortest, less one", share("flat_within")),
    ]  # fmt: skip
    return table(read_rows("compile_time", results), columns, "compile_time")


def known_posteriors(results: Path) -> str:
    """Sampling methods where the posterior is known."""
    columns = [
        ("case", text("case")), ("measurement", text("measurement")), ("noise", text("noise")), ("method", text("method")),
        ("error of the mean, deviations", number("error_mean", ".3f")), ("in standard errors", number("z_mean", ".1f")),
        ("error of the covariance, relative", number("error_covariance", ".3f")),
        ("in standard errors", number("z_covariance", ".1f")), ("two-sample p", number("two_sample_p", ".3f")),
        ("misfit", number("misfit", ".2g")),
        ("evaluations a sample", number("evaluations_per_sample", ".3g")),
    ]  # fmt: skip
    return table(read_rows("known_posteriors", results), columns, "known_posteriors")


def pregenerator_bound(results: Path) -> str:
    """The bounds of variational methods where the evidence is known."""
    columns = [
        ("case", text("case")), ("method", text("method")),
        ("joint bound, nats", number("joint_bound", ".3f")), ("marginal bound", number("marginal_bound", ".3f")),
        ("marginal less joint, on the same draws", number("gain_of_the_marginal", ".3f")),
        ("its standard error", number("gain_std_error", ".3f")),
        ("importance-weighted", number("weighted_bound", ".3f")), ("its standard error", number("weighted_std_error", ".3f")),
        ("log p(b)", number("log_evidence", ".3f")), ("in order", lambda row: "yes" if row["ordered"] else "**no**"),
    ]  # fmt: skip
    return table(read_rows("pregenerator_bound", results), columns, "pregenerator_bound")


def inverse_problems(results: Path) -> str:
    """Every method on every inverse problem of images."""
    columns = [
        ("data", text("data")), ("task", text("task")), ("method", text("method")),
        ("PSNR, dB", number("psnr", ".2f")), ("SSIM", number("ssim", ".3f")),
        ("RMSE of the mean", number("rmse_mean", ".4f")), ("of a sample", number("rmse_sample", ".4f")),
        ("CRPS", number("crps", ".4f")), ("its standard error", number("crps_std_error", ".4f")),
        ("90 % intervals cover", share("coverage_90")), ("misfit", number("misfit", ".2g")),
        ("evaluations an image", number("evaluations", ".0f")), ("seconds an image", number("seconds", ".1f")),
        ("seconds before the first", number("seconds_prepared", ".0f")), ("images", number("images", ".0f")),
        ("share of the published work", share("scaled")),
    ]  # fmt: skip
    return table(read_rows("inverse_problems", results), columns, "inverse_problems")


def base_flows(results: Path) -> str:
    """The base flows of inverse problems, scaled down, beside the published ones."""
    columns = [
        ("data", text("data")), ("bits of a pixel", number("bits", ".0f")), ("scales", number("scales", ".0f")),
        ("residual blocks of a coupling", number("blocks", ".0f")), ("channels", number("hidden", ".0f")),
        ("parameters", number("parameters", ".0f")), ("steps", number("steps", ".0f")),
        ("rows a step", number("batch_size", ".0f")), ("seconds of training", number("seconds", ".0f")),
        ("bits per dimension", number("bits_per_dim", ".3f")), ("standard error", number("bits_std_error", ".3f")),
        ("test images", number("test_images", ".0f")), ("published, of the paper's size", number("published", ".3f")),
    ]  # fmt: skip
    return table(read_rows("base_flows", results), columns, "base_flows", script="train_base_flows")


def hardness(results: Path) -> str:
    """Conditioning on the formulas of the hardness proof, a line a kind and size, means over the seeds."""
    rows, lines = read_rows("sat_hardness", results), []
    for case, variables in dict.fromkeys((row["case"], row["variables"]) for row in rows):
        here = [row for row in rows if (row["case"], row["variables"]) == (case, variables)]
        shares = {key: sum(row[key] for row in here) / len(here) for key in here[0] if key.endswith("_fraction")}
        lines.append(here[0] | shares | {"formulas": len(here)})
    columns = [
        ("formula", text("case")), ("variables", number("variables", ".0f")), ("formulas", number("formulas", ".0f")),
        ("draws", number("draws", ".0f")), ("near a solution", share("satisfied_fraction")),
        ("signs of a solution", share("signs_satisfied_fraction")), ("signs at random", share("guess_satisfied_fraction")),
        ("effective samples", share("ess_fraction")), ("constraints solved", share("converged_fraction")),
    ]  # fmt: skip
    return table(lines, columns, "sat_hardness")


def densities(source: str) -> Callable[[Path], str]:
    """Test log-density of a shipped flow beside one full Gaussian."""
    columns = [
        ("model", text("model")), ("test rows", number("test_rows", ".0f")),
        ("log-density, nats a dimension", number("nats_per_dim", ".3f")), ("standard error", number("nats_std_error", ".3f")),
        ("bits a dimension, less is better", number("bits_per_dim", ".3f")),
        ("Lipschitz bound of a block", number("lipschitz", ".4f")), ("seconds of training", number("seconds", ".0f")),
    ]  # fmt: skip
    return lambda results: table(read_rows(source, results), columns, source)


TABLES: dict[str, Callable[[Path], str]] = {
    "base_flows": base_flows,
    "cifar_centre": cifar_centre,
    "cifar10_whitened_density": densities("train_whitened_flow_cifar10"),
    "cifar_density": densities("train_cifar_flow"),
    "cifar_paired": cifar_paired,
    "compile_time": compile_time,
    "completion": completion,
    "completion_gpu": completion_gpu,
    "completion_speed": completion_speed,
    "depth": depth,
    "digits_density": densities("train_digits_flow"),
    "estimators": estimators,
    "exactness": exactness,
    "extractor": extractor,
    "families": families,
    "family_peers": family_peers,
    "float64": float64,
    "inverse_problems": inverse_problems,
    "known_posteriors": known_posteriors,
    "hardness": hardness,
    "pairings": pairings,
    "implicit": implicit,
    "incomplete": incomplete,
    "mnist_density": densities("train_mnist_flow"),
    "mnist_whitened_density": densities("train_whitened_flow_mnist"),
    "peers": peers,
    "posteriors": posteriors,
    "pregenerator_bound": pregenerator_bound,
    "scaling": scaling,
    "solvers": solvers,
    "solving": solving,
    "step_memory": step_memory,
    "training_step": training_step("training_step"),
    "training_step_gpu": training_step("training_step", folder="gpu/"),
    "truth": truth,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Rewrite the pages, or say which would change."""
    parser = argparse.ArgumentParser(prog="benchmarks.readme_tables", description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 where something would change")
    options = parser.parse_args(arguments)
    stale = [page for page in pages() if render(page.read_text()) != page.read_text()]
    for page in stale:
        print(f"{'stale' if options.check else 'written'}: {page.relative_to(ROOT)}")
        if not options.check:
            page.write_text(render(page.read_text()))
    return int(options.check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
