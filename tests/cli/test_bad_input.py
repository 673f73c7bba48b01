"""Files that do not fit: one line naming file, row or option, exit status 2, and nothing written."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from jaxflows.cli.main import main


@pytest.fixture
def refused(capsys, here, model):
    """``(arguments) -> message`` of a ``complete`` that must be refused."""

    def run(*arguments, model=model):
        assert main(["complete", *arguments, "--model", model]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.count("\n") == 1
        assert not (here / "completion.png").exists()
        return err.removeprefix("jaxflows: ").rstrip()

    return run


def test_event_shape_of_another_model(refused, tmp_path, model):
    np.save(tmp_path / "wide.npy", np.zeros((3, 5, 5), np.float32))
    text = refused("wide.npy", "--mask", "left")
    assert text == f"wide.npy: expected rows of shape (4, 4), the events of --model {model}; got (3, 5, 5)"
    assert refused("--mask", "left").startswith("shipped MNIST test digits: expected rows of shape (4, 4)")


def test_wrong_mask_shape(refused, rows_file, tmp_path):
    np.save(tmp_path / "mask.npy", np.ones((3, 4), bool))
    assert refused(rows_file, "--mask", "mask.npy").startswith("mask.npy: expected a mask of shape (4, 4)")
    np.save(tmp_path / "masks.npy", np.ones((5, 4, 4), bool))
    text = refused(rows_file, "--mask", "masks.npy")
    assert text == f"masks.npy: expected 6 masks, one for each row of {rows_file}; got 5"


def test_mask_that_is_no_mask(refused, rows_file, tmp_path):
    np.save(tmp_path / "mask.npy", np.full((4, 4), 0.5))
    assert refused(rows_file, "--mask", "mask.npy").startswith("mask.npy: expected a mask of zeros and ones")
    assert refused(rows_file, "--mask", "centre:5").startswith("--mask centre:5: expected a centred square")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_not_finite_where_observed(refused, tmp_path, data, value):
    data[3, 2, 1] = value
    np.save(tmp_path / "holes.npy", data)
    text = refused("holes.npy", "--mask", "all", "--rows", "2:5")
    assert text.startswith(f"holes.npy, row 3: expected finite numbers where --mask all observes; got {value}")
    assert "at position (2, 1)" in text


def test_infinite_without_a_mask(refused, tmp_path, data):
    data[0, 0, 0], data[1, 1, 1] = np.nan, -np.inf
    np.save(tmp_path / "holes.npy", data)
    expected = "holes.npy, row 1: expected finite numbers or NaN for missing; got -inf at position (1, 1)"
    assert refused("holes.npy") == expected


def test_empty_batch_and_rows_out_of_range(refused, rows_file, tmp_path):
    np.save(tmp_path / "empty.npy", np.zeros((0, 4, 4), np.float32))
    assert refused("empty.npy", "--mask", "left") == "empty.npy: holds no rows"
    text = refused(rows_file, "--mask", "left", "--rows", "4:9")
    assert text == f"--rows: expected rows from 0 to 5, those of {rows_file}; got 4:9"
    assert refused(rows_file, "--mask", "left", "--rows", "3:3").startswith("--rows: expected rows from 0 to 5")


def test_unreadable_data(refused, tmp_path, data):
    np.save(tmp_path / "rows.npy", data)
    content = (tmp_path / "rows.npy").read_bytes()
    (tmp_path / "short.npy").write_bytes(content[:-20])
    assert refused("short.npy").startswith("short.npy: truncated, or not a NumPy array of numbers")
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(bytes(1000))[:20])
    assert refused("t10k-images-idx3-ubyte.gz").startswith("t10k-images-idx3-ubyte.gz: truncated, or not gzip")
    (tmp_path / "photo.png").write_bytes(b"not a picture")
    assert refused("photo.png") == "photo.png: not an image that Pillow knows"
    (tmp_path / "table.csv").write_text("1,2\n3,x\n")
    assert refused("table.csv").startswith("table.csv, line 2: expected numbers")
    np.savez(tmp_path / "two.npz", a=data, b=data)
    assert refused("two.npz").startswith("two.npz: expected one array")
    assert refused("two.npz", "--key", "c").startswith("two.npz: expected an array named 'c'")


def test_unreadable_model(refused, rows_file, tmp_path, model):
    content = Path(model).read_bytes()
    (tmp_path / "short.safetensors").write_bytes(content[:-20])
    assert refused(rows_file, "--mask", "left", model="short.safetensors").startswith(
        "short.safetensors: truncated, or not a jaxflows model"
    )
    changed = bytearray(content)
    changed[-1] ^= 1
    (tmp_path / "changed.safetensors").write_bytes(bytes(changed))
    assert "its checksum is wrong" in refused(rows_file, "--mask", "left", model="changed.safetensors")


def test_unreadable_result(capsys, here, rows_file, data):
    def resume(name):
        assert main(["complete", "--resume", name]) == 2
        return capsys.readouterr().err

    assert resume("none.npz") == "jaxflows: --resume none.npz: cannot be read (No such file or directory)\n"
    (here / "text.npz").write_text("no archive")
    assert resume("text.npz").startswith("jaxflows: --resume text.npz: truncated, or not a NumPy archive")
    np.savez(here / "other.npz", data=data)
    assert resume("other.npz") == "jaxflows: --resume other.npz: not a result of 'jaxflows complete --save'\n"


def test_training_data_with_holes(capsys, here, data):
    data[2, 3, 0] = np.nan
    np.save("holes.npy", data)
    assert main(["train", "holes.npy", "--output", "m.safetensors"]) == 2
    text = capsys.readouterr().err
    assert text == ("jaxflows: holes.npy, row 2: expected complete rows of finite numbers; got nan at position (3, 0)\n")
    np.save("labels.npy", np.arange(5))
    assert main(["train", "labels.npy", "--output", "m.safetensors"]) == 2
    assert capsys.readouterr().err == "jaxflows: labels.npy: expected rows of events; got shape (5,)\n"
    assert not (here / "m.safetensors").exists()
