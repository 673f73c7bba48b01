"""Importing the package: no warning, little cost, every public name there."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

import jaxflows


def python(code, *options):
    return subprocess.run([sys.executable, *options, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def test_import_raises_no_warning_and_leaves_heavy_libraries_alone():
    loaded = python("import jaxflows, sys; print(sorted(sys.modules))", "-W", "error")
    for library in ("jaxopt", "matplotlib", "flax", "optax", "orbax", "PIL", "scipy.stats"):
        assert f"'{library}'" not in loaded


def test_import_takes_less_than_one_and_a_half_times_as_long_as_importing_jax():
    code = "import time; start = time.process_time(); import {}; print(time.process_time() - start)"
    # interleaved, and the least of each: what else runs on the machine only ever adds
    seconds = [(float(python(code.format("jax"))), float(python(code.format("jaxflows")))) for _ in range(3)]
    jax_seconds, jaxflows_seconds = (min(column) for column in zip(*seconds, strict=True))
    assert jaxflows_seconds < 1.5 * jax_seconds


@pytest.mark.parametrize("name", jaxflows.__all__)
def test_every_public_name_is_there_and_documented(name):
    value = getattr(jaxflows, name)
    assert name in dir(jaxflows)
    assert name == "__version__" or value.__doc__


def test_modules_can_be_imported_under_their_own_paths():
    for name, place in jaxflows._PLACES.items():
        assert importlib.util.find_spec(place.partition(":")[0]), name


@pytest.mark.parametrize("package", ["jaxflows", "adapters", "bijectors", "flows", "solvers"])
def test_packages_list_what_they_import_when_it_is_named(package):
    module = jaxflows if package == "jaxflows" else getattr(jaxflows, package)
    assert dir(module) == sorted(dir(module))
    for name in dir(module):
        value = getattr(module, name)
        # left in the package: named again, it is not looked for again
        assert vars(module)[name] is value
    with pytest.raises(AttributeError, match=f"module '{module.__name__}' has no attribute 'nothing'"):
        _ = module.nothing


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'jaxflows' has no attribute 'complet'"):
        _ = jaxflows.complet
