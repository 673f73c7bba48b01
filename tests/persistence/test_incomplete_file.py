"""What joint training left, on disk: it comes back whole, its flow can be read alone, and bad files are refused."""

from __future__ import annotations

import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from jaxflows import flows
from jaxflows.conditional.amortised import Amortised
from jaxflows.conditional.complete import complete
from jaxflows.conditional.incomplete_model import IncompleteModel
from jaxflows.networks.inference_network import ConvInference, DenseInference, fresh_network
from jaxflows.networks.prediction_head import PredictionHead
from jaxflows.persistence import ModelFileError, load, load_incomplete, save, save_incomplete
from jaxflows.training.predict_labels import predict_labels

FLOW = flows.residual(event_shape=(4,), blocks=2, hidden=8)
IMAGES = flows.residual(event_shape=(4, 4), blocks=2, hidden=8)


class _Foreign(nn.Module):
    @nn.compact
    def __call__(self, standard, observed):
        return standard, nn.Dense(4)(standard)


@pytest.fixture
def make(random_params):
    """``(flow, network, classes) -> model`` of random numbers."""

    def build(flow, network, classes=None):
        rng = np.random.default_rng(1)
        draw = lambda shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)  # noqa: E731
        shapes = jax.eval_shape(lambda k: fresh_network(k, network, flow.event_shape, jnp.float32), jax.random.key(0))
        weights = jax.tree.map(lambda leaf: 0.3 * draw(leaf.shape), shapes)
        posterior = Amortised(network, weights, draw(flow.event_shape), 1 + draw(flow.event_shape) ** 2)
        head = None
        if classes is not None:
            size = flow.size
            params = {"scale": draw(size), "bias": draw(size), "weight": draw((size, classes))}
            head = PredictionHead(params, draw(size), draw(size) ** 2)
        return IncompleteModel(random_params(flow), posterior, head)

    return build


@pytest.fixture
def model(make):
    return make(FLOW, DenseInference((8,)), 3)


@pytest.fixture
def path(tmp_path, model):
    save_incomplete(tmp_path / "model", FLOW, model, metadata={"rows": 7})
    return tmp_path / "model"


def assert_same(left, right):
    assert left.posterior.network == right.posterior.network
    arrays = [(m.params, m.posterior[1:], m.head) for m in (left, right)]
    assert jax.tree.structure(arrays[0]) == jax.tree.structure(arrays[1])
    jax.tree.map(np.testing.assert_array_equal, *arrays)


def test_what_comes_back_completes_and_predicts_the_same(path, model):
    flow, loaded, metadata = load_incomplete(path)
    assert (flow.bijector.spec, metadata) == (FLOW.bijector.spec, {"rows": 7})
    assert_same(loaded, model)
    rows = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    seen = np.array([[True, False, True, False], [False, True, True, False], [True, True, False, False]])

    def answer(flow, model):
        result = complete(
            jax.random.key(0), flow, model.params, rows, seen, posterior=model.posterior, num_samples=4, progress=False
        )
        return result, predict_labels(flow, model, result)

    (ours, our_chances), (theirs, their_chances) = answer(flow, loaded), answer(FLOW, model)
    np.testing.assert_array_equal(ours.samples, theirs.samples)
    np.testing.assert_array_equal(our_chances, their_chances)


@pytest.mark.parametrize("network", [ConvInference(2), ConvInference(2, (3, 5))])
def test_convolutional_networks_and_models_without_a_classifier_come_back(tmp_path, make, network):
    model = make(IMAGES, network)
    save_incomplete(tmp_path / "model", IMAGES, model)
    assert_same(load_incomplete(tmp_path / "model")[1], model)


def test_a_classifier_without_a_network_comes_back_and_a_flow_without_either_is_refused(tmp_path, model):
    alone = model._replace(posterior=None, mask=None)
    save_incomplete(tmp_path / "model", FLOW, alone)
    _, again, _ = load_incomplete(tmp_path / "model")
    assert again.posterior is None
    jax.tree.map(np.testing.assert_array_equal, (again.params, again.head), (alone.params, alone.head))
    with pytest.raises(ValueError, match=r"got a flow alone: save it with jaxflows\.save"):
        save_incomplete(tmp_path / "none", FLOW, alone._replace(head=None))


def test_a_reader_of_plain_flows_takes_the_flow(path, model):
    flow, params, metadata = load(path)
    assert (flow.bijector.spec, metadata) == (FLOW.bijector.spec, {"rows": 7})
    jax.tree.map(np.testing.assert_array_equal, params, model.params)


def test_a_plain_flow_is_no_incomplete_model_nor_the_other_way_round(tmp_path, model):
    save(tmp_path / "plain", FLOW, model.params)
    with pytest.raises(ModelFileError, match=r"plain: holds a flow without network or classifier; read it with jaxflows\.load"):
        load_incomplete(tmp_path / "plain")
    with pytest.raises(ValueError, match="keep all of it with save_incomplete"):
        save(tmp_path / "other", FLOW, model)


def test_what_cannot_be_saved_is_refused(tmp_path, make, model):
    with pytest.raises(ValueError, match="got _Foreign, whose code is the caller's own"):
        save_incomplete(tmp_path / "model", FLOW, make(FLOW, _Foreign()))
    with pytest.raises(ValueError, match="expected a model as fit_incomplete returns it"):
        save_incomplete(tmp_path / "model", IMAGES, model)
    with pytest.raises(ValueError, match="expected dtype to be 'float32' or 'float64'; got 'float16'"):
        save_incomplete(tmp_path / "model", FLOW, model, dtype="float16")
    bad = model._replace(head=model.head._replace(mean=model.head.mean.at[0].set(np.nan)))
    with pytest.raises(ValueError, match="finite parameters within the range of float32; got others in 'head/mean'"):
        save_incomplete(tmp_path / "model", FLOW, bad)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"network": "evil"}, "describes no flow .*expected a network of"),
        ({"widths": "wide"}, "describes no flow|expected tensor"),
        ({"widths": [9]}, "expected tensor 'network/Dense_0/bias' of shape \\[9\\]; got \\[8\\]"),
        ({"classes": 4}, "expected tensor 'head/params/weight' of shape \\[4, 4\\]; got \\[4, 3\\]"),
        ({"classes": "many"}, "describes no flow"),
        ({"head_hidden": "wide"}, "describes no flow"),
        ({"head_hidden": [0]}, "describes no flow .*expected head_hidden to be widths >= 1"),
        ({"head_hidden": [5]}, "expected tensor"),
        ({"head_hidden": [5], "classes": None}, "describes no flow .*expected labels"),
        ({"code": "print()"}, "describes no flow .*with its options"),
    ],
)
def test_an_edited_description_is_refused(path, change, reason):
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(json.loads(content[8 : 8 + size])["__metadata__"]["jaxflows"])
    header["description"]["inference"].update(change)
    path.write_bytes(safetensors.numpy.save(safetensors.numpy.load(content), {"jaxflows": json.dumps(header)}))
    for read in (load, load_incomplete):
        with pytest.raises(ModelFileError, match=reason) as caught:
            read(path)
        assert "\n" not in str(caught.value)


def test_a_flipped_bit_in_the_network_is_noticed_by_both_readers(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    for read in (load, load_incomplete):
        with pytest.raises(ModelFileError, match="checksum is wrong"):
            read(path)
