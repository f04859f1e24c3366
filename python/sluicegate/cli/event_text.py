"""An event as one line for people: time, event, where, remote, size, and what else it says."""

import json
from collections.abc import Mapping
from typing import Any

import click

from sluicegate.events.types import TYPES
from sluicegate.model.text import endpoint_text, printable

_PLACE = ("Time", "Event", "Node", "Region", "Listener", "Destination", "PacketSource", "Remote")
_SHOWN = frozenset([*_PLACE, "Bytes", "Reason", "Detail", "Suppressed"])
_NAME_WIDTH = max(len(name) for name, known in TYPES.items() if known.kind == "packet")
_VALUE_LIMIT = 200


def event_line(event: Mapping[str, Any]) -> str:
    """`10:00:00.123Z PacketReceived decoder 192.0.2.1:4567 12 bytes Tag=…`, coloured by the kind of event.

    Times are UTC. What strangers wrote cannot steer the terminal: everything not printable is escaped.
    """
    name = str(event.get("Event", "?"))
    parts = [
        str(event.get("Time", "")).partition("T")[2] or "-",
        click.style(printable(name).ljust(_NAME_WIDTH), fg=_color(name)),
        _where(event),
        _remote(event.get("Remote")),
        _count(event.get("Bytes"), "byte"),
        _reason(event),
    ]
    parts += [f"{printable(key)}={_value(value)}" for key, value in event.items() if key not in _SHOWN]
    if "Suppressed" in event:
        parts.append(f"and {_count(event['Suppressed'], 'event')} not shown one by one")
    return " ".join(part for part in parts if part)


def _color(name: str) -> str | None:
    known = TYPES.get(name)
    if known is None:
        return None
    if known.kind == "failure" or name == "PacketRejected":
        return "red"
    if known.kind == "packet":
        return "cyan" if known.direction == "in" else "green"
    return "yellow" if known.kind == "note" else "blue"


def _where(event: Mapping[str, Any]) -> str:
    listener = event.get("Listener")
    inner = event.get("PacketSource") or event.get("Destination")
    return printable("/".join(str(part) for part in (listener, inner) if part))


def _remote(remote: object) -> str:
    if not isinstance(remote, Mapping):
        return printable(str(remote)) if remote else ""
    address = str(remote.get("IpAddress") or remote.get("Address") or remote.get("IP") or "")
    if not address:
        return _value(remote)
    port = remote.get("Port")
    return printable(address if port is None else endpoint_text(address, port))


def _reason(event: Mapping[str, Any]) -> str:
    return printable(": ".join(str(event[name]) for name in ("Reason", "Detail") if name in event))


def _count(number: object, unit: str) -> str:
    if number is None:
        return ""
    return f"{printable(str(number))} {unit if number == 1 else unit + 's'}"


def _value(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return printable(text if len(text) <= _VALUE_LIMIT else text[: _VALUE_LIMIT - 1] + "…")
