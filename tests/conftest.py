"""Settings of the whole suite. They must be in the environment before JAX is imported, here and in worker processes."""

from __future__ import annotations

import os
from importlib import metadata
from pathlib import Path

# spinning BLAS threads of several workers make small factorisations a hundred times slower (docs/design.md, section 10)
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parent.parent / ".jax_cache"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")
# the suite's programs are many, small and run a few times: on two cores compiling them was 70% of its time, and is half
# that unoptimised and in one piece each. jaxlib ends the process at a flag it does not know, and later ones have no other
# kind of fusion
_flags = [
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
    "--xla_cpu_parallel_codegen_split_count=1",
]
if metadata.version("jax").startswith("0.9."):
    _flags.append("--xla_cpu_use_fusion_emitters=false")
os.environ.setdefault("XLA_FLAGS", " ".join(_flags))
# jaxlib logs an error for every program it reads back from its own cache on CPU
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("MPLBACKEND", "agg")

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from xdist.scheduler import LoadScopeScheduling


class _SharedPrograms(LoadScopeScheduling):
    """Keeps together the tests that look at one compiled program: a file's, or in test_properties.py those of one case."""

    def _split_scope(self, nodeid):
        path, _, test = nodeid.partition("::")
        if not path.endswith("test_properties.py"):
            return path
        return test.partition("[")[2].rstrip("]").removesuffix("-float32").removesuffix("-float64")


# folders whose files are quick, or are given out in small parts: they fill the workers' last minutes evenly
_QUICK = ("bijectors", "data", "lipschitz", "log_det", "metrics", "networks", "persistence", "plotting")


def pytest_collection_modifyitems(items):
    """Tests of benchmarks are long ones, and the long files come first."""
    for item in items:
        if item.path.parent.name == "benchmarks":
            item.add_marker(pytest.mark.long)
    items.sort(key=lambda item: item.path.parent.name in _QUICK)


def pytest_xdist_make_scheduler(config, log):
    """Of `--dist load`, that of a bare ``-n``: tests of one file in both workers would compile everything twice."""
    return _SharedPrograms(config, log) if config.getvalue("dist") == "load" else None


# maps of memory at which programs are let go: the kernel allows a process 65,530, and a program takes several
_MOST_MAPS = 30_000


@pytest.fixture(scope="module", autouse=True)
def _programs_let_go():
    """A worker that has compiled too much for the kernel forgets its programs between files."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > _MOST_MAPS:
        jax.clear_caches()


@pytest.fixture
def random_params():
    """``flow -> params``: random numbers in every leaf, without the cost of ``flow.init`` nor its constraint."""

    def draw(flow):
        rng = np.random.default_rng(0)
        template = jax.eval_shape(flow.init, jax.random.key(0))
        return jax.tree.map(lambda leaf: jnp.asarray(0.2 * rng.standard_normal(leaf.shape), leaf.dtype), template)

    return draw
