"""How the tests share the machine when several run at the same time (`make test`)."""

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
