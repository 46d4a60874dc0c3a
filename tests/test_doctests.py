"""The examples in the docstrings of the mathematics are true."""

import doctest
import importlib
import pkgutil

import pytest

import bandits

MODULES = [
    module.name
    for module in pkgutil.walk_packages(bandits.__path__, "bandits.")
    if not module.ispkg and "cupy" not in module.name
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_give_what_they_say(name: str) -> None:
    """Every example of a module."""
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0


def test_there_are_examples() -> None:
    """Otherwise the tests above would hold of nothing."""
    finder = doctest.DocTestFinder(exclude_empty=True)
    count = sum(len(test.examples) for name in MODULES for test in finder.find(importlib.import_module(name)))
    assert count >= 10
