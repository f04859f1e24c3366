"""The table of services has no empty cell without a reason (tests/service_table.py)."""

from pathlib import Path

import pytest

from service_table import COLUMNS, EMPTY, SERVICES, cells

TESTS = Path(__file__).parents[1]


def test_each_cell_is_filled_by_a_test_or_has_a_reason(request: pytest.FixtureRequest) -> None:
    marked = {path for path in TESTS.rglob("test_*.py") if "mark.shows" in path.read_text()} - {
        Path(__file__)
    }
    if not marked <= {item.path for item in request.session.items}:
        pytest.skip("not all tests of Destinations are in this run")
    filled = {(service, column) for item in request.session.items for service, column, _ in cells(item)}
    assert filled | set(EMPTY) == {(service, column) for service in SERVICES for column in COLUMNS}
    assert not filled & set(EMPTY)
