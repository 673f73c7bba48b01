"""CIFAR-10's sheets and moments, and the completion of the centre on events of 48 entries."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest
import scipy.stats
from PIL import Image

from benchmarks import cifar_centre, cifar_systems
from benchmarks.cifar_centre import Kept, paired_row, results_rows
from benchmarks.cifar_systems import image_rmse
from benchmarks.train_cifar_flow import NOISE, cifar_images, mirrored_pixels, pixel_moments
from jaxflows import flows, persistence
from jaxflows.data import named_mask

SHAPE = (4, 4, 3)


def test_the_tiles_of_the_sheets_that_are_there_come_in_order(tmp_path):
    rng = np.random.default_rng(0)
    sheets = rng.integers(0, 256, (2, 25 * 32, 40 * 32, 3), np.uint8)
    for number, sheet in zip((0, 7), sheets, strict=True):
        Image.fromarray(sheet).save(tmp_path / f"train_{number:02}.webp", lossless=True, method=0)
    images = cifar_images(tmp_path, "train")
    assert images.shape == (2000, 32, 32, 3)
    # image j of a sheet is at row j // 40, column j % 40
    np.testing.assert_array_equal(images[1083], sheets[1, 64:96, 96:128])
    with pytest.raises(SystemExit, match=r"expected images, 'test_\*\.webp'.*got none; pass --data-dir"):
        cifar_images(tmp_path, "test")


def test_moments_are_those_of_noisy_images_and_their_mirror_images():
    images = np.random.default_rng(1).integers(0, 256, (1700, *SHAPE), np.uint8)
    images[:, :, :2] //= 3
    mean, covariance = pixel_moments(images)
    both = np.concatenate([images, images[:, :, ::-1]]).reshape(3400, -1) / 255.0
    np.testing.assert_allclose(mean, both.mean(axis=0), rtol=1e-12)
    expected = np.cov(both, rowvar=False, bias=True) + NOISE**2 * np.eye(48)
    np.testing.assert_allclose(covariance, expected, atol=1e-6)
    noisy = np.asarray(mirrored_pixels(jax.random.key(0), images.astype(np.float32))).reshape(1700, -1)
    error = np.sqrt(np.diag(covariance) / 1700)
    assert np.all(np.abs(noisy.mean(axis=0) - mean) < 5 * error)


def test_errors_of_an_image_pool_draws_channels_and_missing_pixels_alone(monkeypatch):
    monkeypatch.setattr(cifar_systems, "MASK", named_mask("centre:2", SHAPE))
    pixels = np.zeros((2, *SHAPE))
    samples = np.full((2, 3, *SHAPE), 9.0)
    samples[:, :, 1:3, 1:3] = np.array([[1.0, 2.0, 3.0], [0.0, 0.0, 3.0]])[..., None, None, None]
    np.testing.assert_allclose(image_rmse(samples, pixels), np.sqrt([14 / 3, 3.0]))
    np.testing.assert_allclose(image_rmse(samples.mean(axis=1), pixels), [2.0, 1.0])


def test_the_paired_test_is_scipys_one_sided():
    rng = np.random.default_rng(2)
    errors = {name: rng.random(9) + shift for name, shift in (("ours_householder", 0.0), ("plmcmc_tuned", 0.3))}
    kept = {name: [{"rmse": v, "rmse_of_mean": v / 2, "seconds": 1.0} for v in values] for name, values in errors.items()}
    row = paired_row("ours_householder", "plmcmc_tuned", kept)
    expected = scipy.stats.ttest_rel(errors["ours_householder"], errors["plmcmc_tuned"], alternative="less")
    np.testing.assert_allclose([row["p_value"], row["p_value_of_mean"]], expected.pvalue, rtol=1e-10)
    np.testing.assert_allclose(row["difference"] / row["difference_std_error"], expected.statistic, rtol=1e-10)
    rows = results_rows(kept, 4, {"plmcmc_tuned": {"sigma_p": 0.02}})
    assert [r["kind"] for r in rows] == ["system", "system", "paired", "published", "published", "published"]
    np.testing.assert_allclose(rows[0]["rmse_mean"], errors["ours_householder"].mean())
    assert (rows[1]["sigma_p"], rows[1]["images"], rows[1]["draws"]) == (0.02, 9, 4)


def test_every_system_completes_and_a_second_start_keeps_what_was_done(tmp_path, monkeypatch, random_params, capsys):
    # the systems take any flow of images: a dense one is the cheapest to compile
    flow = flows.residual(event_shape=SHAPE, blocks=1, hidden=4)
    # small enough to be a contraction without the cost of making it one
    params = jax.tree.map(lambda leaf: leaf / 2, random_params(flow))
    persistence.save(tmp_path / "model.safetensors", flow, params)
    images = np.random.default_rng(3).integers(0, 256, (60, *SHAPE), np.uint8)
    monkeypatch.setattr(cifar_centre, "SHAPE", SHAPE)
    monkeypatch.setattr(cifar_systems, "MASK", named_mask("centre:2", SHAPE))
    monkeypatch.setattr(cifar_centre, "cifar_images", lambda folder, part: images)
    monkeypatch.setattr(cifar_systems, "HOUSEHOLDER", cifar_systems.posteriors.householder(num_reflections=2, start="prior"))
    sizes = ["--fit-steps", "20", "--chain-steps", "100", "--draws", "4", "--terms", "2", "--batch", "2"]
    folders = ["--run-dir", str(tmp_path / "run"), "--output-dir", str(tmp_path)]

    def start(*arguments):
        cifar_centre.main(["--model", str(tmp_path / "model.safetensors"), *sizes, *folders, *arguments])
        return json.loads((tmp_path / "cifar_centre.json").read_text())["rows"]

    rows = start("--images", "2")
    by_system = {row["system"]: row for row in rows if row["kind"] == "system"}
    assert list(by_system) == list(cifar_systems.SYSTEMS)
    for name, row in by_system.items():
        assert 0.0 < row["rmse_mean"] < 2.0
        assert (row["evaluations"] > 0) == (name != "gaussian")
        assert row["images"] == 2
    assert by_system["ours_householder"]["converged_fraction"] == 1.0
    assert by_system["ours_householder"]["rmse_first_iteration"] > 0.0
    assert 0.0 < by_system["plmcmc_tuned"]["acceptance"] <= 1.0
    assert len([row for row in rows if row["kind"] == "paired"]) == 6
    assert (tmp_path / "cifar_centre.png").stat().st_size > 10_000

    # nothing is left to do, and then no time for what is left
    monkeypatch.setattr(cifar_centre, "scored", lambda *arguments: pytest.fail("a kept image was completed again"))
    assert start("--images", "2") == rows
    monkeypatch.setattr(cifar_centre, "warmed_up", lambda *arguments: None)
    assert start("--images", "3", "--max-seconds", "0") == rows
    assert "1 of 1 batches are left" in capsys.readouterr().out


def test_what_is_kept_comes_back(tmp_path):
    kept = Kept(tmp_path / "new" / "folder")
    assert kept.row("gaussian", 1) is None
    kept.store("gaussian", 1, {"rmse": 0.5}, np.ones((2, *SHAPE)))
    kept.store("gaussian", 9, {"rmse": 0.25}, np.ones((2, *SHAPE)))
    assert (kept.row("gaussian", 1), kept.row("gaussian", 9)) == ({"rmse": 0.5}, {"rmse": 0.25})
    assert kept.samples("gaussian", 1).shape == (2, *SHAPE)
    # the draws of the first images alone
    assert not list((tmp_path / "new" / "folder").glob("*_9.npy"))


def test_a_sheet_of_another_size_is_named(tmp_path):
    for number, side in ((2, 64), (3, 32)):
        Image.fromarray(np.zeros((side, side, 3), np.uint8)).save(tmp_path / f"train_{number:02}.webp", lossless=True)
    with pytest.raises(
        SystemExit, match=r"train_03\.webp: expected an image of 64 x 64 pixels, as train_02\.webp; got 32 x 32"
    ):
        cifar_images(tmp_path, "train")
