"""The public Python face: what `import sluicegate` offers, what it costs, and that its examples are true."""

from __future__ import annotations

import ast
import doctest
import importlib.resources
import subprocess
import sys
from pathlib import Path

import pytest

import sluicegate
import sluicegate.testing

PUBLIC = sorted(set(sluicegate.__all__) - {"__version__"})


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout.strip()


@pytest.mark.parametrize("name", PUBLIC)
def test_each_name_is_there_and_shows_an_example_that_runs(name: str) -> None:
    _run_examples(name, getattr(sluicegate, name))


@pytest.mark.parametrize("name", sorted(sluicegate.testing.__all__))
def test_what_tests_import_shows_an_example(name: str) -> None:
    found = getattr(sluicegate.testing, name)
    if name.endswith("Contract"):
        # A suite's example is a class of tests: the guide has one that runs.
        assert f"({name}):" in (found.__doc__ or "")
    else:
        _run_examples(name, found)


def _run_examples(name: str, public: object) -> None:
    tests = doctest.DocTestFinder(recurse=True).find(public, name, globs={})
    assert any(test.examples for test in tests if test.name == name), f"{name} shows no example"
    for test in tests:
        failed, _ = doctest.DocTestRunner().run(test)
        assert failed == 0, test.name


def test_type_checkers_see_what_is_there() -> None:
    tree = ast.parse(Path(sluicegate.__file__).read_text())
    typed = {
        alias.name
        for block in tree.body
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for statement in ast.walk(block)
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    }
    assert typed == set(PUBLIC)
    assert set(PUBLIC) <= set(dir(sluicegate))
    assert (importlib.resources.files("sluicegate") / "py.typed").is_file()


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Destinaton'"):
        _ = sluicegate.Destinaton  # type: ignore[attr-defined]


@pytest.mark.parametrize("module", ["sluicegate", "sluicegate.cli"])
def test_the_import_is_cheap(module: str) -> None:
    """Every command imports these."""
    heavy = "pydantic botocore structlog starlette orjson sluicegate.destinations sluicegate._native"
    code = f"import sys, {module}; print([one for one in {heavy.split()} if one in sys.modules])"
    assert run(code) == "[]"
