"""Models on disk: what was saved comes back, and every kind of bad file gives one clear error."""

from __future__ import annotations

import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from jaxflows import flows
from jaxflows.bijectors.registry import FAMILIES, examples
from jaxflows.flows import flow_of
from jaxflows.persistence import ModelFileError, load, save

FLOW = flows.residual(event_shape=(6,), blocks=2, hidden=8)
EXAMPLES = [
    pytest.param(bijector, shape, id=f"{name}-{position}")
    for name in FAMILIES
    for position, (bijector, shape) in enumerate(examples(name))
]


@pytest.fixture
def params(random_params):
    return random_params(FLOW)


@pytest.fixture
def path(tmp_path, params):
    path = tmp_path / "model.safetensors"
    save(path, FLOW, params, metadata={"bits": 1.25, "shape": (2, 3)})
    return path


def rewrite(path, change_header=lambda header: None, change_tensors=lambda tensors: None):
    """Edit a model file the way a careless or hostile tool would."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["jaxflows"])
    tensors = {name: tensor.copy() for name, tensor in safetensors.numpy.load(content).items()}
    change_header(header)
    change_tensors(tensors)
    path.write_bytes(safetensors.numpy.save(tensors, {"jaxflows": json.dumps(header)}))


def assert_same_trees(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    jax.tree.map(np.testing.assert_array_equal, left, right)


@pytest.mark.parametrize(("bijector", "shape"), EXAMPLES)
def test_every_family_comes_back_bit_for_bit(tmp_path, random_params, bijector, shape):
    flow = flow_of(shape, bijector)
    params = random_params(flow)
    save(tmp_path / "model", flow, params)
    loaded, loaded_params, metadata = load(tmp_path / "model")
    assert loaded.event_shape == shape
    assert loaded.bijector.spec == bijector.spec
    assert metadata == {}
    assert_same_trees(loaded_params, params)


def test_a_loaded_flow_gives_the_same_densities_and_metadata(path, params):
    flow, loaded, metadata = load(path)
    assert metadata == {"bits": 1.25, "shape": [2, 3]}
    y = jax.random.normal(jax.random.key(2), FLOW.event_shape)
    np.testing.assert_array_equal(jax.jit(flow.log_prob)(loaded, y), jax.jit(FLOW.log_prob)(params, y))


def test_equal_models_give_equal_files(path, params, tmp_path):
    save(tmp_path / "again", FLOW, params, metadata={"shape": (2, 3), "bits": 1.25})
    assert (tmp_path / "again").read_bytes() == path.read_bytes()


@pytest.mark.parametrize(("kind", "shape"), [("dense", (16,)), ("conv", (4, 4, 2))])
def test_float16_files_are_half_the_size_and_stay_inside_the_lipschitz_constraint(tmp_path, random_params, kind, shape):
    if kind == "dense":
        flow = flows.residual(event_shape=shape, blocks=4, hidden=64, coeff=0.95)
    else:
        flow = flows.residual_image(event_shape=shape, blocks=2, scales=1, channels=(32, 32), coeff=0.95)
    # weights far outside the constraint, then projected onto its edge, and pushed over it by what rounding may add
    constrain = jax.jit(lambda p: jax.lax.fori_loop(0, 200, lambda _, p: flow.bijector.constrain(p), p))
    params = jax.tree.map(lambda leaf: leaf * (1 + 2**-10), constrain(random_params(flow)))
    lipschitz, encode = jax.jit(flow.bijector.lipschitz), jax.jit(flow.encode)
    assert lipschitz(params) > 0.95
    save(tmp_path / "single", flow, params)
    save(tmp_path / "half", flow, params, dtype="float16")
    assert (tmp_path / "half").stat().st_size < 0.6 * (tmp_path / "single").stat().st_size
    _, loaded, _ = load(tmp_path / "half")
    assert {leaf.dtype for leaf in jax.tree.leaves(loaded)} == {jnp.dtype("float32")}
    y = jax.random.normal(jax.random.key(5), shape)
    np.testing.assert_allclose(encode(loaded, y), encode(params, y), atol=8 * 2**-11 * float(jnp.abs(y).max()))
    assert lipschitz(loaded) <= 0.95


def test_float64_parameters_keep_all_their_bits(tmp_path, random_params):
    with jax.enable_x64(True):
        params = random_params(FLOW)
        assert jax.tree.leaves(params)[0].dtype == jnp.float64
        save(tmp_path / "model", FLOW, params, dtype="float64")
        assert_same_trees(load(tmp_path / "model")[1], params)
    loaded = load(tmp_path / "model")[1]
    assert jax.tree.leaves(loaded)[0].dtype == jnp.float32


def test_a_failed_save_leaves_the_old_file_and_no_rubbish(path, params, monkeypatch):
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save(path, FLOW, jax.tree.map(jnp.zeros_like, params))
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_params_of_another_flow_are_not_saved(tmp_path, params):
    other = flows.residual(event_shape=(6,), blocks=3, hidden=8)
    with pytest.raises(ValueError, match=r"expected params as flow\.init gives them"):
        save(tmp_path / "model", other, params)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("value", "dtype"), [(np.nan, "float32"), (np.inf, "float64"), (1e6, "float16")])
def test_numbers_that_cannot_be_stored_are_refused(tmp_path, params, value, dtype):
    bad = jax.tree.map(lambda leaf: leaf.at[0].set(value), params)
    with pytest.raises(ValueError, match=f"finite parameters within the range of {dtype}; got others in '0/"):
        save(tmp_path / "model", FLOW, bad, dtype=dtype)


def test_bad_options_of_save_are_refused(tmp_path, params):
    with pytest.raises(ValueError, match=r"expected dtype to be one of .*; got 'int8'"):
        save(tmp_path / "model", FLOW, params, dtype="int8")
    for metadata in ({"score": np.zeros(3)}, {"score": float("nan")}):
        with pytest.raises(ValueError, match="expected metadata that JSON can hold"):
            save(tmp_path / "model", FLOW, params, metadata=metadata)


def assert_refused(path, reason):
    with pytest.raises(ModelFileError, match=reason) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    assert_refused(tmp_path / "none", "cannot be read .*[Nn]o such file")
    assert_refused(tmp_path, "cannot be read|truncated, or not a jaxflows model")


@pytest.mark.parametrize("kept", [0, 7, 8, 200, 0.5, -1])
def test_a_truncated_file_is_refused(path, kept):
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content)) if kept == 0.5 else kept])
    assert_refused(path, "truncated, or not a jaxflows model")


@pytest.mark.parametrize("content", [b"\x80\x04K\x01.", b"PK\x03\x04" + bytes(100), b"{}", bytes(64), b"\xff" * 64])
def test_a_foreign_file_is_refused(path, content):
    path.write_bytes(content)
    assert_refused(path, "truncated, or not a jaxflows model|not a jaxflows model")


def test_another_programs_safetensors_is_refused(path):
    for metadata in (None, {"format": "pt"}):
        path.write_bytes(safetensors.numpy.save({"weight": np.zeros(3)}, metadata))
        assert_refused(path, "a safetensors file, but not a jaxflows model")


def test_a_flipped_bit_anywhere_in_the_numbers_is_noticed(path):
    content = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(content[:8], "little")
    for position in np.linspace(start, len(content) - 1, 8).astype(int):
        damaged = bytearray(content)
        damaged[position] ^= 1
        path.write_bytes(damaged)
        assert_refused(path, "checksum is wrong")


def set_first(tensors):
    tensors["0/shift"][:] = 3.0


def set_metadata(header):
    header["description"]["metadata"]["bits"] = 0.5


@pytest.mark.parametrize("edit", [{"change_tensors": set_first}, {"change_header": set_metadata}])
def test_an_edited_file_is_refused(path, edit):
    rewrite(path, **edit)
    assert_refused(path, "checksum is wrong")


def test_a_newer_format_is_refused_with_what_to_do(path):
    rewrite(path, change_header=lambda header: header["description"].update(format=3, written_by="9.0"))
    assert_refused(path, "format 3 by jaxflows 9.0.*upgrade jaxflows")


@pytest.mark.parametrize(
    "edit",
    [
        lambda header: header.pop("sha256"),
        lambda header: header.pop("description"),
        lambda header: header["description"].pop("format"),
        lambda header: header["description"].update(format="one"),
        lambda header: header["description"].update(format=None),
    ],
)
def test_a_damaged_description_is_refused(path, edit):
    rewrite(path, change_header=edit)
    assert_refused(path, "description is damaged")


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        ({"bijector": {"bijector": "mystery"}}, "got 'mystery'"),
        ({"bijector": "logit"}, "describes no flow"),
        ({"event_shape": None}, "describes no flow"),
        ({"event_shape": ["six"]}, "describes no flow"),
        ({"event_shape": [-6]}, "describes no flow|expected tensor"),
    ],
)
def test_an_unknown_flow_is_refused(path, edit, reason):
    rewrite(path, change_header=lambda header: header["description"].update(edit))
    assert_refused(path, reason)


def test_wrong_tensors_are_refused_by_name(path):
    original = path.read_bytes()
    rewrite(path, change_header=lambda header: header["description"].update(event_shape=[7]))
    assert_refused(path, "expected tensor '1/0/top' of shape \\[2, 7\\]; got \\[2, 6\\]|expected tensor '1/")
    path.write_bytes(original)
    rewrite(path, change_tensors=lambda tensors: tensors.pop("0/shift"))
    assert_refused(path, "expected tensor '0/shift' of shape \\[1\\]; got none")
    path.write_bytes(original)
    rewrite(path, change_tensors=lambda tensors: tensors.update(extra=np.zeros(3)))
    assert_refused(path, "expected tensor 'extra' of shape none; got \\[3\\]")
    path.write_bytes(original)
    rewrite(path, change_tensors=lambda tensors: tensors.update({"0/shift": np.zeros(1, np.int32)}))
    assert_refused(path, "expected floating-point tensors; got I32 in '0/shift'")
