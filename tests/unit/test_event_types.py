"""The table of events is what the program writes: no event without an entry, no field that the entry does not name."""

import ast
from collections.abc import Iterator
from pathlib import Path

import sluicegate
from sluicegate.events.log import FIELD_ORDER
from sluicegate.events.types import NATIVE, TYPES

PACKAGE = Path(sluicegate.__file__).parent
CONTRACT = {
    "PacketReceived",
    "PacketRejected",
    "BatchDelivered",
    "DeliveryFailed",
    "ReplySent",
    "ReplyFailed",
    "PacketSourced",
    "SourceFailed",
}


def emits() -> Iterator[tuple[str, str, set[str]]]:
    """`(place, event, fields)` of every call in the package that names an event."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            if node.func.attr not in ("emit", "_emit") or not node.args:
                continue
            if isinstance(name := node.args[0], ast.Constant) and isinstance(name.value, str):
                fields = {keyword.arg for keyword in node.keywords if keyword.arg}
                yield f"{path.relative_to(PACKAGE)}:{node.lineno}", name.value, fields


def test_every_event_that_is_written_is_in_the_table_with_its_fields() -> None:
    found = list(emits())
    assert {"GatewayStarted", "DeliveryFailed", "FunctionReloaded"} <= {event for _, event, _ in found}
    for place, event, fields in found:
        assert event in TYPES, f"{place}: {event} is missing in events/types.py"
        unknown = fields - set(TYPES[event].fields)
        assert not unknown, f"{place}: events/types.py does not name {unknown} of {event}"


def test_the_contract_s_events_are_there_and_fields_are_in_its_order() -> None:
    assert set(TYPES) >= CONTRACT
    for known in TYPES.values():
        ordered = [name for name in known.fields if name in FIELD_ORDER]
        assert ordered == sorted(ordered, key=FIELD_ORDER.index), known.name
        assert known.meaning.endswith("."), known.name
        assert known.direction is not None or known.kind != "packet", known.name


def test_what_the_native_side_makes_is_known() -> None:
    assert [TYPES[name].kind for name in NATIVE] == ["packet"] * 4
