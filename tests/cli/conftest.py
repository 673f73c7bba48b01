import jax
import numpy as np
import pytest

from jaxflows import flows, persistence

EVENT = (4, 4)


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """A saved flow, tiny: events (4, 4)."""
    flow = flows.residual(event_shape=EVENT, blocks=2, hidden=16)
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    persistence.save(path, flow, flow.init(jax.random.key(0)), metadata={"data": "none", "losses": list(range(9))})
    return str(path)


@pytest.fixture
def data():
    """Six rows for it."""
    return np.random.default_rng(0).random((6, *EVENT)).astype(np.float32)


@pytest.fixture
def rows_file(tmp_path, data):
    np.save(tmp_path / "rows.npy", data)
    return str(tmp_path / "rows.npy")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Commands write into an empty folder of their own."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
