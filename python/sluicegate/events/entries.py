"""What an event says of one failed entry: found by reading the kept body again, once per failed message.

The native side parses every entry of every message and reports failures by index only. Failures are rare, so
the fields that name an entry (`Id`, `Tag`, `Remote`, `Bytes`: contract section 6) are looked up here when
they are needed. The body is whatever a publisher wrote: nothing here trusts it, and nothing here raises.
"""

from collections.abc import Mapping

import orjson

_TEXT_LIMIT = 256
_TAG_LIMIT = 128  # contract section 2
_REMOTE_FIELDS = ("IpAddress", "Address", "IP", "Port", "PeerKey")


class Entries:
    """The entries of one message (contract section 4.1, both generations) or of a handler's answer (section
    3)."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._entries: list[object] = []
        try:
            document = orjson.loads(body)
        except Exception:
            return
        if not isinstance(document, dict):
            return
        for name in ("Messages", "Replies"):
            listed = document.get(name)
            if isinstance(listed, list):
                self._entries = listed
                return
        self._entries = [document]

    def entry(self, index: int | None) -> object:
        """The entry at `index` as JSON; the whole body as text where there is none to be found."""
        if index is not None and 0 <= index < len(self._entries):
            return self._entries[index]
        return self._body.decode("utf-8", "replace")

    def fields(self, index: int | None) -> dict[str, object]:
        """`Id`, `Tag`, `Remote` and `Bytes` of the entry at `index`, as far as it has them."""
        if index is None or not 0 <= index < len(self._entries):
            return {}
        entry = self._entries[index]
        if not isinstance(entry, dict):
            return {}
        found: dict[str, object] = {
            "Id": _text(entry.get("Id"), _TEXT_LIMIT),
            "Tag": _text(entry.get("Tag"), _TAG_LIMIT),
            "Remote": _remote(entry.get("Remote")),
            "Bytes": _payload_bytes(entry.get("Data"), entry.get("Formatter")),
        }
        return {name: value for name, value in found.items() if value is not None}


def _text(value: object, limit: int) -> str | None:
    if isinstance(value, str):
        return value[:limit]
    return str(value)[:limit] if isinstance(value, (int, float)) else None


def _remote(value: object) -> Mapping[str, object] | str | None:
    if isinstance(value, str):
        return value[:_TEXT_LIMIT]
    if not isinstance(value, dict):
        return None
    shown: dict[str, object] = {}
    for name in _REMOTE_FIELDS:
        part = value.get(name)
        if isinstance(part, str):
            shown[name] = part[:_TEXT_LIMIT]
        elif isinstance(part, (int, float)):
            shown[name] = part
    return shown


def _payload_bytes(data: object, formatter: object) -> int | None:
    """Length of the payload that `data` stands for; None where only a formatter could tell."""
    if not isinstance(data, str):
        return None
    if formatter in (None, "base64"):
        return len(data.rstrip("=")) * 3 // 4
    if formatter == "hex":
        return len(data) // 2
    return len(data.encode("utf-8", "replace")) if formatter in ("utf8", "ascii") else None
