"""What holds for all tests."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from service_table import pytest_runtest_logreport as pytest_runtest_logreport
from service_table import pytest_runtest_setup as pytest_runtest_setup
from service_table import pytest_terminal_summary as pytest_terminal_summary

# No test fails on a wall-clock time.
hypothesis.settings.register_profile("sluicegate", deadline=None)
hypothesis.settings.load_profile("sluicegate")


@pytest.fixture(scope="session", autouse=True)
def bare_programs() -> None:
    """Programs that tests start do not find what only tests need (`bare/sitecustomize.py`)."""
    os.environ.setdefault("PYTHONPATH", str(Path(__file__).parent / "bare"))


@pytest.fixture(scope="session", autouse=True)
def home_of_notes() -> Iterator[None]:
    """Gateways of tests note their keys for commands in a folder of the tests' own, and not in the user's home."""
    with tempfile.TemporaryDirectory(prefix="sluicegate-notes-") as folder:
        os.environ["XDG_STATE_HOME"] = folder
        yield
        del os.environ["XDG_STATE_HOME"]
