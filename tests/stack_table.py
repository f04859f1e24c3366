"""Which synthesised stacks were provisioned, and where a packet was seen, as a table at the end of a test run.

    request.node.user_properties.append(("stack", [class, provisioned by, packet seen, reason if not]))

is what a test says of one class of the construct library.
"""

import pytest

COLUMNS = ("class", "provisioned by", "packet seen", "reason if not")

_rows: list[list[str]] = []


def collect(report: pytest.TestReport) -> None:
    """Take the rows of a test that has ended, well or not."""
    if report.when == "call":
        _rows.extend(row for name, row in report.user_properties if name == "stack")  # type: ignore[misc]


def lines() -> list[str]:
    """The table, or nothing if no test spoke of stacks."""
    if not _rows:
        return []
    widths = [max(map(len, column)) for column in zip(COLUMNS, *_rows, strict=True)]
    return [
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (list(COLUMNS), *_rows)
    ]
