"""The table of bijectors: every family rebuilds from its own description, and bad descriptions are refused by name."""

from __future__ import annotations

import json
import pkgutil

import pytest

import jaxflows.bijectors
from jaxflows.bijectors.registry import FAMILIES, examples, from_spec

EXAMPLES = [
    pytest.param(bijector, id=f"{name}-{position}")
    for name in FAMILIES
    for position, (bijector, _) in enumerate(examples(name))
]


@pytest.mark.parametrize("bijector", EXAMPLES)
def test_a_rebuilt_bijector_is_the_identical_one(bijector):
    assert from_spec(bijector.spec) is bijector


def test_every_example_stands_under_its_own_name():
    for name in FAMILIES:
        assert {json.loads(bijector.spec)["bijector"] for bijector, _ in examples(name)} == {name}


def test_every_family_file_is_in_the_table():
    files = {module.name for module in pkgutil.iter_modules(jaxflows.bijectors.__path__)} - {"base", "registry"}
    assert set(FAMILIES.values()) == files


def test_equal_descriptions_give_the_identical_bijector():
    spec = '{"bijector": "actnorm", "over": "event", "scale_floor": 0.001}'
    assert from_spec(spec) is from_spec(spec)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("not json", "in JSON"),
        ("3", "expected a bijector's description; got '3'"),
        ('{"over": "event"}', "got None"),
        ('{"bijector": "os.system", "command": "true"}', "got 'os.system'"),
        ('{"bijector": ["logit"]}', "got \\['logit'\\]"),
        ('{"bijector": "logit", "margins": 0.1}', "options that 'logit' takes"),
        ('{"bijector": "logit", "margin": "wide"}', "options that 'logit' takes"),
        ('{"bijector": "logit", "margin": 0.7}', "margin < 0.5; got 0.7"),
        ('{"bijector": "logit"}', "complete description"),
        ('{"bijector": "invert", "inner": 3}', "options that 'invert' takes"),
        ('{"bijector": "chain", "layers": [{"bijector": "mystery"}]}', "got 'mystery'"),
        ('{"bijector": "scan_chain", "body": {"bijector": "logit", "margin": 0.1}, "depth": 0}', "depth >= 1"),
        ('{"bijector": "chain", "layers": ' + "[" * 100_000 + "]" * 100_000 + "}", "in JSON"),
    ],
)
def test_a_bad_description_is_refused(spec, message):
    with pytest.raises(ValueError, match=message):
        from_spec(spec)
