"""How the tests share the machine when several run at the same time (`make test`)."""

import os
import tempfile
from collections.abc import Iterator

import hypothesis
import pytest

# No test fails on a wall-clock time.
hypothesis.settings.register_profile("sluicegate", deadline=None)
hypothesis.settings.load_profile("sluicegate")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that mostly wait (marked `waits`) run beside each other; all others one after the other, in one process."""
    for item in items:
        if item.get_closest_marker("waits") is None:
            item.add_marker(pytest.mark.xdist_group("one after the other"))


@pytest.fixture(scope="session", autouse=True)
def home_of_notes() -> Iterator[None]:
    """Gateways of tests note their keys for commands in a folder of the tests' own, and not in the user's home."""
    with tempfile.TemporaryDirectory(prefix="sluicegate-notes-") as folder:
        os.environ["XDG_STATE_HOME"] = folder
        yield
        del os.environ["XDG_STATE_HOME"]
