"""What tests have shown of each Destination's service, as a table at the end of their run.

    @pytest.mark.shows("throttled", service="http")

is the mark of a test that fills a cell. Without `service` it is the service of the test's `case` or of its class. The
cell says what the service was: `against`, or what the test's fixtures tell.
"""

from collections.abc import Iterator
from typing import Any

import pytest

import stack_table
from sluicegate.testing import DestinationContract

DELIVERS, PARTIAL, REQUEST = "delivers", "partial failure", "request"
COLUMNS = (DELIVERS, PARTIAL, "throttled", "denied", "oversize", "drain", "replies", REQUEST)
SERVICES = (
    *("lambda", "apigateway", "stepfunctions", "sqs", "sns", "eventbridge", "kinesis", "firehose", "s3"),
    *("cloudwatchlogs", "dynamodb", "iot", "location", "http", "nats"),
)
_ANSWERING = ("lambda", "apigateway", "stepfunctions", "http", "nats")
STORES = "it stores, and does not answer"
EMPTY = {
    **dict.fromkeys([(service, "replies") for service in SERVICES if service not in _ANSWERING], STORES),
    ("s3", PARTIAL): "a batch is one object",
    ("s3", "oversize"): "an object may be larger than any batch",
    ("apigateway", PARTIAL): "a request is taken as a whole",
    ("location", "oversize"): "it gets a position, and not the packet",
}
"""Why a cell is empty."""
CONTRACT = {"test_delivers_every_packet_in_order": DELIVERS, "test_refused_packets_are_named": PARTIAL}
"""Tests of `sluicegate.testing.DestinationContract` that fill a cell."""
AGAINST = {
    "ministack": "ministack",
    "scripted": "scripted",
    "nats_server": "nats-server",
    "small": "nats-server",
    "guarded": "nats-server",
    "web_hook": "web hook",
    "aws_server": "scripted",
}
"""What a fixture is."""

_shown: dict[tuple[str, str], set[str]] = {}


def cells(item: pytest.Item) -> list[tuple[str, str, str]]:
    """The cells that a test fills: service, column, what the service was."""
    return [cell for cell in _every_cell(item) if cell[0] in SERVICES and cell[2]]


def _every_cell(item: pytest.Item) -> Iterator[tuple[str, str, str]]:
    suite = getattr(item, "cls", None)
    kind = getattr(suite, "kind", None)
    case = getattr(item, "callspec", None) and item.callspec.params.get("case")  # type: ignore[attr-defined]
    own = getattr(case, "kind", kind)
    fixtures = getattr(item, "fixturenames", ())
    told = next((name for fixture, name in AGAINST.items() if fixture in fixtures), "")
    column = CONTRACT.get(getattr(item, "originalname", "")) if kind is not None else None
    if column and not (column == PARTIAL and suite.refuse_packets is DestinationContract.refuse_packets):
        yield _service(kind), column, told
    for mark in item.iter_markers("shows"):
        services = mark.kwargs.get("service") or _service(own)
        for service in [services] if isinstance(services, str) else services:
            yield service, mark.args[0], mark.kwargs.get("against", told)


def _service(kind: Any) -> str:
    return str(kind.__name__).removesuffix("Destination").lower()


def pytest_runtest_setup(item: pytest.Item) -> None:
    item.user_properties += [("shows", list(cell)) for cell in cells(item)]


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    stack_table.collect(report)
    if report.failed or (report.passed and report.when == "call"):
        for name, cell in report.user_properties:
            if name == "shows":
                service, column, against = cell  # type: ignore[misc]
                _shown.setdefault((service, column), set()).add("FAILED" if report.failed else against)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if rows := stack_table.lines():
        terminalreporter.section("synthesised stacks and where their packets were seen")
        for row in rows:
            terminalreporter.line(row)
    if not _shown:
        return
    rows = [["service", *COLUMNS]]
    rows += [[service, *(_cell(service, column) for column in COLUMNS)] for service in SERVICES]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    terminalreporter.section("services and what was shown of them")
    for row in rows:
        line = "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
        terminalreporter.line(line.rstrip())
    for reason in dict.fromkeys(EMPTY.values()):
        terminalreporter.line(f"{_note(reason)} {reason}")


def _cell(service: str, column: str) -> str:
    found = _shown.get((service, column))
    reason = EMPTY.get((service, column))
    return ", ".join(sorted(found)) if found else _note(reason) if reason else "not run"


def _note(reason: str) -> str:
    return f"({list(dict.fromkeys(EMPTY.values())).index(reason) + 1})"
