"""Whole runs of ``jaxflows complete`` on a tiny flow. All share one compiled program: 6 rows, 3 samples, 8 hidden."""

import re

import numpy as np
import pytest

from jaxflows.cli.main import main

HALF = ("--mask", "left", "--samples", "3")


def run(*arguments):
    assert main(["complete", *arguments]) == 0


def test_picture_table_and_result(here, capsys, rows_file, data, model):
    run(rows_file, *HALF, "--model", model, "--save", "result.npz")
    out = capsys.readouterr().out.splitlines()
    assert re.split(r"\s{2,}", out[0])[1:6] == ["rows", "RMSE mean", "RMSE sample", "RMSE Gaussian", "ESS of 3"]
    line = re.split(r"\s{2,}", out[1])
    assert line[:2] == ["left", "6"]
    assert out[2] == "wrote completion.png and result.npz"
    assert (here / "completion.png").read_bytes().startswith(b"\x89PNG")
    result = np.load("result.npz")
    assert result["samples"].shape == (6, 3, 4, 4)
    np.testing.assert_array_equal(result["samples"][:, :, :, 2:], np.repeat(data[:, None, :, 2:], 3, axis=1))
    np.testing.assert_array_equal(result["observed"], np.broadcast_to([False, False, True, True], (6, 4, 4)))
    hidden = np.s_[:, :, :2]
    assert float(line[2]) == pytest.approx(np.sqrt(np.mean((result["mean"] - data)[hidden] ** 2)), abs=1e-4)
    errors = (result["samples"] - data[:, None])[:, :, :, :2]
    assert float(line[3]) == pytest.approx(np.sqrt(np.mean(errors**2)), abs=1e-4)
    assert float(line[5]) == pytest.approx(result["ess"].mean(), abs=0.05)
    assert line[7] == "100.0%"
    assert result["done"].all()


def test_same_seed_same_bytes(here, rows_file, model):
    for name in ("a", "b"):
        run(rows_file, *HALF, "--model", model, "--output", f"{name}.png", "--save", f"{name}.npz", "--quiet")
    run(rows_file, *HALF, "--model", model, "--output", "c.png", "--save", "c.npz", "--seed", "1", "--quiet")
    for suffix in ("png", "npz"):
        contents = [(here / f"{name}.{suffix}").read_bytes() for name in "abc"]
        assert contents[0] == contents[1]
        assert contents[0] != contents[2]


def test_nan_is_missing(here, capsys, data, model):
    del here
    holes = data.copy()
    holes[:, :, :2] = np.nan
    np.savez("holes.npz", data=holes)
    run("holes.npz", "--samples", "3", "--model", model, "--save", "result.npz")
    line = re.split(r"\s{2,}", capsys.readouterr().out.splitlines()[1])
    # the truth is not known, so there is nothing to score against
    assert line[:5] == ["NaN", "6", "-", "-", "-"]
    result = np.load("result.npz")
    np.testing.assert_array_equal(result["observed"], ~np.isnan(holes))
    assert np.isfinite(result["samples"]).all()


def test_quiet_says_nothing(capfd, rows_file, model, here):
    run(rows_file, *HALF, "--model", model, "--quiet")
    assert capfd.readouterr() == ("", "")
    assert (here / "completion.png").exists()


def test_several_masks_over_chosen_rows(here, capsys, rows_file, data, model):
    del here
    # a mask a row, of all rows of the file, then one for all
    masks = np.zeros((6, 4, 4), bool)
    masks[:, :, 2:] = True
    masks[4, 0, 2] = False
    masks[4, 0, 0] = True
    np.save("masks.npy", masks)
    run(rows_file, "--rows", "2:5", "--mask", "masks.npy", "--mask", "right", "--samples", "3", "--model", model,
        "--save", "result.npz")  # fmt: skip
    lines = [re.split(r"\s{2,}", line)[:2] for line in capsys.readouterr().out.splitlines()[1:3]]
    assert lines == [["masks.npy", "3"], ["right", "3"]]
    result = np.load("result.npz")
    np.testing.assert_array_equal(result["numbers"], [2, 3, 4, 2, 3, 4])
    np.testing.assert_array_equal(result["observed"][:3], masks[2:5])
    np.testing.assert_array_equal(result["rows"], np.concatenate([data[2:5]] * 2))


def test_random_mask_of_a_row_depends_on_its_number_alone(data):
    from jaxflows.cli.input_rows import fit_rows, observed_entries

    some, every = (fit_rows(data, None, (4, 4), chosen, 255, "it") for chosen in (slice(3, 5), slice(0, None)))
    masks = observed_entries("missing:0.5", every, (4, 4), 7)
    np.testing.assert_array_equal(observed_entries("missing:0.5", some, (4, 4), 7), masks[3:5])
    assert not np.array_equal(masks[0], masks[1])
    assert not np.array_equal(observed_entries("missing:0.5", every, (4, 4), 8), masks)


def test_eight_bit_images_are_scaled_and_others_are_not(here, capsys, data, model):
    del here
    pixels = (255 * data).astype(np.uint8)
    np.save("pixels.npy", pixels)
    run("pixels.npy", *HALF, "--model", model, "--save", "pixels.npz")
    assert "pixels.npy: 8-bit numbers, divided by 255" in capsys.readouterr().out
    np.testing.assert_array_equal(np.load("pixels.npz")["rows"], (pixels / 255).astype(np.float32))
    np.save("counts.npy", pixels.astype(np.int64) // 100)
    run("counts.npy", *HALF, "--model", model, "--save", "counts.npz")
    assert "counts.npy: numbers of type int64 taken as they are, not scaled" in capsys.readouterr().out
    np.testing.assert_array_equal(np.load("counts.npz")["rows"], pixels // 100)
    run("pixels.npy", *HALF, "--model", model, "--save", "scaled.npz", "--scale", "51")
    assert "divided" not in capsys.readouterr().out
    np.testing.assert_array_equal(np.load("scaled.npz")["rows"], (pixels / 51).astype(np.float32))


def test_everything_observed_returns_the_input(here, capsys, rows_file, data, model):
    del here
    run(rows_file, "--model", model, "--samples", "3", "--save", "result.npz")
    out = capsys.readouterr().out
    assert f"{rows_file}: nothing is missing (no NaN, no --mask)" in out
    assert "6 of 6 rows have everything observed: returned as given, no work done" in out
    np.testing.assert_array_equal(np.load("result.npz")["samples"], np.repeat(data[:, None], 3, axis=1))
    np.testing.assert_array_equal(np.load("result.npz")["std"], np.zeros_like(data))


def test_flat_rows_and_one_row_fit_an_image_model(data):
    from jaxflows.cli.input_rows import fit_rows

    flat = fit_rows(data.reshape(6, 16), None, (4, 4), slice(0, None), 255, "it")
    np.testing.assert_array_equal(flat.values, data)
    one = fit_rows(data[0], None, (4, 4), slice(0, None), 255, "it")
    np.testing.assert_array_equal(one.values, data[:1])


def test_resuming_a_finished_result_with_another_model_is_refused(here, capsys, rows_file, model):
    import jax

    from jaxflows import flows, persistence

    run(rows_file, *HALF, "--model", model, "--save", "result.npz", "--quiet")
    before = (here / "result.npz").read_bytes()
    run("--resume", "result.npz", "--output", "again.png")
    assert (here / "result.npz").read_bytes() == before
    assert (here / "again.png").read_bytes() == (here / "completion.png").read_bytes()
    assert capsys.readouterr().out.startswith("result.npz: 6 of 6 rows done before\n")
    flow = flows.residual(event_shape=(4, 4), blocks=2, hidden=16)
    persistence.save("other.safetensors", flow, flow.init(jax.random.key(1)))
    assert main(["complete", "--resume", "result.npz", "--model", "other.safetensors"]) == 2
    expected = "jaxflows: --model other.safetensors: not the model that result.npz was made with\n"
    assert capsys.readouterr().err == expected


def test_draws_in_pairs_without_weights(here, rows_file, model, data):
    del here
    run(rows_file, "--mask", "left", "--samples", "2", "--antithetic", "--unweighted", "--model", model, "--save", "result.npz")
    result = np.load("result.npz")
    assert not result["log_weights"].any()
    assert np.isnan(result["ess"]).all()
    # the two of a pair lie on either side of the anchor
    around = (result["samples"] - result["anchor"][:, None])[..., :2]
    assert np.corrcoef(around[:, 0].ravel(), around[:, 1].ravel())[0, 1] < -0.5
    np.testing.assert_array_equal(result["samples"][0, 0, :, 2:], data[0, :, 2:])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--anchors", "2", "--posterior", "prior"),
            "expected no posterior and no partition but the tangent with several anchors",
        ),
        (("--anchors", "2", "--moves", "2"), "expected a single anchor with moves; got 2"),
        (("--chains", "2"), "expected weighted=False and moves= with chains=; got weighted=True, moves="),
        (("--moves", "4", "--unweighted", "--samples", "6", "--chains", "2"), "expected at most 2 draws of a chain of 4 moves"),
        (("--moves", "2", "--antithetic"), "expected no moves of antithetic draws"),
        (("--moves", "2", "--posterior", "prior"), "expected a posterior that starts at Gauss-Newton's with moves"),
    ],
)
def test_draws_that_cannot_be_are_refused_before_any_work(here, capsys, rows_file, model, arguments, message):
    assert main(["complete", rows_file, *HALF, "--model", model, *arguments]) == 2
    assert capsys.readouterr().err.startswith(f"jaxflows: {message}")
    assert not list(here.glob("completion.*"))
