"""What an event says of one failed entry: found by reading the kept body again, once per failed message.

The native side parses every entry of every message and reports failures by index only. Failures are rare, so
the fields that name an entry (`Id`, `Tag`, `Remote`, `Bytes`: contract section 6) are looked up here when
they are needed. The body is whatever a publisher wrote: nothing here trusts it, and nothing here raises.
"""

import re
from collections.abc import Mapping

import orjson

_TEXT_LIMIT = 256
_TAG_LIMIT = 128  # contract section 2
_REMOTE_FIELDS = ("IpAddress", "Address", "IP", "Port", "PeerKey")
_LISTS = ("Messages", "Replies")
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*+"|[][{},]', re.DOTALL)


class Entries:
    """The entries of one message (contract section 4.1, both generations) or of a handler's answer (section 3); the
    first one has the index `first`."""

    __slots__ = ("_body", "_first", "_pieces", "_read")

    def __init__(self, body: bytes, first: int = 0) -> None:
        self._body = body
        self._first = first
        self._read: list[object] | None = None
        self._pieces: list[bytes] | None = None

    def entry(self, index: int | None) -> object:
        """The entry at `index` as JSON, or as text if it is none that can be written again (or is text); the whole body
        as text where there are no entries. Never the body for an entry among others: each may be as long."""
        if index is None:
            return self._body.decode("utf-8", "replace")
        entries = self._entries()
        index -= self._first
        if index == 0 and not entries:
            return self._body.decode("utf-8", "replace")
        if not 0 <= index < len(entries):
            return None
        entry = entries[index]
        if not isinstance(entry, _Unread) and writable(entry):
            return entry
        pieces = self._cut()
        return pieces[index].decode("utf-8", "replace") if index < len(pieces) else None

    def _entries(self) -> list[object]:
        if self._read is None:  # an event that is not written needs none of it
            try:
                self._read = _entries(orjson.loads(self._body))
            except Exception:
                # One entry that cannot be read (a lone surrogate, endless nesting) says nothing of the others.
                self._read = [_loaded(piece) for piece in self._cut()]
        return self._read

    def _cut(self) -> list[bytes]:
        if self._pieces is None:
            self._pieces = _cut(self._body)
        return self._pieces

    def fields(self, index: int | None, remote_index: int | None = None) -> dict[str, object]:
        """`Id`, `Tag`, `Remote` and `Bytes` of the entry at `index`, as far as it has them; where `remote_index` is
        given, of that one of its `Remotes`."""
        if index is None or not 0 <= index - self._first < len(entries := self._entries()):
            return {}
        entry = entries[index - self._first]
        if not isinstance(entry, dict):
            return {}
        tag, remote = entry.get("Tag"), entry.get("Remote")
        if remote_index is not None:
            remote = _at(entry.get("Remotes"), remote_index)
            tag = remote.get("Tag") if isinstance(remote, dict) else None
            remote = None if tag is not None else remote
        found: dict[str, object] = {
            "Id": _text(entry.get("Id"), _TEXT_LIMIT),
            "Tag": _text(tag, _TAG_LIMIT),
            "Remote": _remote(remote),
            "Bytes": _payload_bytes(entry.get("Data"), entry.get("Formatter")),
        }
        return {name: value for name, value in found.items() if value is not None}


class _Unread:
    """An entry that `orjson` does not take."""


def writable(value: object) -> bool:
    """False for what is nested deeper than `orjson` writes, which is less than it reads, within an object or two."""
    try:
        orjson.dumps([[value]])
    except TypeError:
        return False
    return True


def _entries(document: object) -> list[object]:
    if not isinstance(document, dict):
        return []
    for name in _LISTS:
        listed = document.get(name)
        if isinstance(listed, list):
            return listed
    return [document]


def _at(listed: object, place: int) -> object:
    return listed[place] if isinstance(listed, list) and 0 <= place < len(listed) else None


def _loaded(piece: bytes) -> object:
    try:
        return orjson.loads(piece)
    except Exception:
        return _Unread()


def _cut(body: bytes) -> list[bytes]:
    """The entries' own text, by the grammar's brackets and commas alone: the body has been found to be JSON by the
    native side. The whole body where it has no list."""
    depth, key, start = 0, b"", -1
    found: list[bytes] = []
    for match in _TOKEN.finditer(body):
        token = match[0]
        if token in b"[{":
            if token == b"[" and depth == 1 and _loaded(key) in _LISTS:
                start = match.end()
            depth += 1
        elif token in b"]}":
            depth -= 1
            if start >= 0 and depth == 1:
                last = body[start : match.start()].strip()
                return [*found, last] if last or found else []
        elif token == b",":
            if start >= 0 and depth == 2:
                found.append(body[start : match.start()].strip())
                start = match.end()
        elif depth == 1:
            key = token
    return [body]


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
