"""Which gateway sends a message: the rule of `EgressRegion` (contract section 4.2), for every way in."""

from collections.abc import Mapping

import orjson

ATTRIBUTE = "EgressRegion"

_SHOWN = 100


def named_regions(value: str | bytes) -> frozenset[str]:
    """The regions that an `EgressRegion` names: the text itself, and each element of a String.Array, as the filter
    policies of SNS match it. A binary value names none."""
    if not isinstance(value, str):
        return frozenset()
    if not value.startswith("["):
        return frozenset((value,))
    try:
        listed = orjson.loads(value)
    except orjson.JSONDecodeError:
        return frozenset((value,))
    return frozenset(entry for entry in listed if isinstance(entry, str))


def shown(value: str | bytes) -> str:
    """An `EgressRegion` as a failure's detail shows it."""
    return value[:_SHOWN] if isinstance(value, str) else "a binary value"


def attribute_of(attributes: object) -> str | bytes | None:
    """The `EgressRegion` among the `MessageAttributes` of an SNS envelope; None without one."""
    entry = attributes.get(ATTRIBUTE) if isinstance(attributes, Mapping) else None
    if not isinstance(entry, Mapping):
        return None
    value = entry.get("Value")
    if entry.get("Type") == "Binary" or not isinstance(value, str):
        return b""
    return value
